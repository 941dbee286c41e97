"""Runs one forward and records every dispatched call.

Under `inference_mode` a dispatch mode sees composite operations (`aten.linear`, `aten.batch_norm`), whoever makes the
call: modules, functions, methods, scripted code. This file and `recorder` are the only owners of hooks and modes.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import ForwardError
from prelu_doctor.records import Function
from prelu_doctor.sites.activations import RECOGNISED
from prelu_doctor.sites.graph import Graph
from prelu_doctor.sites.recorder import Recorder, Watcher
from prelu_doctor.undisturbed import undisturbed


def trace(
    model: nn.Module, batch: Batch, watcher: Watcher | None = None, functions: Collection[Function] = RECOGNISED
) -> Graph:
    """Runs the model's forward once, in eval mode, and records it.

    Args:
        model: Any eager module; its training flags, RNG state and the attention fast path are restored.
        batch: The samples to run, on the model's device. They are cloned, because a forward may overwrite its input.
        watcher: Called at every activation.
        functions: What counts as one.

    Returns:
        The dataflow graph of this forward.

    Raises:
        ForwardError: The model's forward raised.
    """
    batch = batch.clone()
    recorder = Recorder(model, batch, watcher, entry=_called.__code__, functions=frozenset(functions))
    with undisturbed(model), torch.inference_mode():
        with recorder.hooks(), recorder:
            output = _called(model, batch)
        batch.tell(output)  # outside of the recorder, which would take the answer's copy for a part of the model
    recorder.finish(output)
    return recorder.graph


def _called(model: nn.Module, batch: Batch) -> Any:
    try:
        return batch.call(model)
    except Exception as error:
        raise ForwardError(
            f"the model's forward raised {type(error).__name__}: {error}",
            f"a forward that runs on {_describe(batch)}",
            "check --data, --input-shape and --arch-arg; --debug shows the traceback",
        ) from error


def none_arguments(model: nn.Module, batch: Batch, owners: Iterable[str]) -> dict[str, list[str]]:
    """Which arguments of some modules' forwards are None when the model runs, defaults included.

    Args:
        model: The module to run once.
        batch: Its input.
        owners: Paths of the modules to look at.

    Returns:
        By path, the names of the arguments that were None in every call; scripted modules, which have no signature,
        are left out.
    """
    seen: dict[str, list[set[str]]] = {
        owner: [] for owner in owners if not isinstance(model.get_submodule(owner), torch.jit.ScriptModule)
    }

    def note(owner: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        seen[owner].append({name for name, value in bound.arguments.items() if value is None})

    handles = [
        model.get_submodule(owner).register_forward_pre_hook(functools.partial(note, owner), with_kwargs=True)
        for owner in seen
    ]
    try:
        trace(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {owner: sorted(set.intersection(*calls)) for owner, calls in seen.items() if calls}


@contextlib.contextmanager
def running(modules: Mapping[str, nn.Module]) -> Iterator[set[str]]:
    """Notes in this block which of some modules are called.

    Args:
        modules: By any name.

    Yields:
        The names of those that were called so far.
    """
    called: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: called.add(name))
        for name, module in modules.items()
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _describe(batch: Batch) -> str:
    return ", ".join(f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for tensor in batch.tensors())

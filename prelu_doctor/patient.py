"""A model under examination: opened from a checkpoint, or handed over in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from prelu_doctor import records
from prelu_doctor.checkpoints.architecture import build_architecture
from prelu_doctor.checkpoints.checkpoint import StoredCheckpoint, read_checkpoint
from prelu_doctor.checkpoints.finiteness import non_finite_names
from prelu_doctor.checkpoints.keys import load_weights
from prelu_doctor.checkpoints.program_devices import move
from prelu_doctor.checkpoints.torchscript import running
from prelu_doctor.devices import chosen_device
from prelu_doctor.errors import UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.expected_inputs import ExpectedInputs
from prelu_doctor.methods import run_method
from prelu_doctor.treatment.converted_file import restore
from prelu_doctor.treatment.recipe import Recipe, decode_recipe


@dataclass(frozen=True)
class Patient:
    """A model and what the report says of it.

    Attributes:
        module: The eager module, on its device.
        record: Its path, hash and kind.
        note: What was done to open it; may be empty.
        expected: What it takes, where its file tells.
        recipe: Of a converted file: what was done to the architecture's sites.
    """

    module: nn.Module
    record: records.Model
    note: str = ""
    expected: ExpectedInputs | None = None
    recipe: Recipe | None = None


def open_patient(
    source: nn.Module | str | Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, object] | None = None,
    trust: bool = False,
    allow_classes: Sequence[str] = (),
    weights_key: str | None = None,
    method: str | None = None,
    device: str = "auto",
) -> Patient:
    """Opens a checkpoint, or takes a module as it is.

    Args:
        source: A checkpoint file, or a module (which stays where it is).
        arch: For a file that holds weights alone: `module:callable`, `file.py:callable` or a file that holds a module.
        arch_args: Keyword arguments of the callable.
        trust: Read pickles of any class.
        allow_classes: Names of classes, `package.module.Class`, that a pickled module may use.
        weights_key: Where in a training dictionary the weights stand.
        method: What to run instead of `forward`.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        CheckpointError: The file cannot be read, is refused, or does not fit its architecture.
        UsageError: The architecture or the device is missing.
    """
    if isinstance(source, nn.Module):
        module = source if method is None else _with_method(copy.copy(source), method)
        return Patient(module, records.replace(_record(module, path="", sha256="", kind="in-memory"), method=method))
    target = chosen_device(device)
    stored = read_checkpoint(
        source, trust=trust, allow_classes=allow_classes, weights_key=weights_key, method=None if arch else method
    )
    module = move(_module_of(stored, arch, arch_args or {}, method), target)
    record = _record(module, path=str(source), sha256=stored.sha256, kind=stored.kind)
    recipe = None if stored.recipe_text is None else decode_recipe(stored.recipe_text)
    method = method or (recipe.method if recipe else None)
    record = records.replace(record, arch=arch, arch_args=dict(arch_args or {}), method=method)
    return Patient(module, record, stored.note, stored.expected, recipe)


def _module_of(
    stored: StoredCheckpoint, arch: str | None, arch_args: Mapping[str, object], method: str | None
) -> nn.Module:
    if stored.module is not None and arch is None:
        return stored.module if stored.kind in _PROGRAMS or method is None else _with_method(stored.module, method)
    state = stored.state if stored.module is None else _weights_of_program(stored)
    assert state is not None
    if arch is None:
        raise UsageError(
            f"{escaped(stored.path)} holds weights alone ({stored.kind}, {len(state)} tensors)",
            "the architecture that they belong to",
            "--arch module:callable, --arch path/to/file.py:callable, or --arch with a file that holds the module",
        )
    with torch.random.fork_rng(devices=[]):
        fresh = build_architecture(arch, dict(arch_args), method=method)
    if stored.recipe_text is not None:
        return restore(fresh, stored.recipe_text, state, method=method)
    load_weights(fresh, state)
    return fresh if method is None else _with_method(fresh, method)


_PROGRAMS = ("torchscript", "pt2")
"""Kinds of files that hold a program, whose reader picks the method; its weights fit the class that it was made of."""


def _weights_of_program(stored: StoredCheckpoint) -> dict[str, Tensor]:
    assert stored.module is not None
    if stored.kind not in _PROGRAMS:
        raise UsageError(
            f"{escaped(stored.path)} holds a whole module, and --arch names another one",
            "--arch for files that hold weights alone",
            "leave --arch out",
        )
    state = dict(stored.module.state_dict())
    if not state:
        raise UsageError(
            f"{escaped(stored.path)} is a frozen program: its weights are constants without names",
            "weights by name",
            "leave --arch out to scan it as it is, or save the program again unfrozen",
        )
    return state


def _with_method(module: nn.Module, method: str) -> nn.Module:
    """The module, changed so that calling it runs the method."""
    if isinstance(module, torch.jit.ScriptModule):
        return running(module, method)
    if not (isinstance(module, fx.GraphModule) and method == "forward"):
        run_method(module, method)
    return module


def _record(module: nn.Module, *, path: str, sha256: str, kind: str) -> records.Model:
    return records.Model(
        path=path,
        sha256=sha256,
        kind=kind,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        non_finite=non_finite_names(module),
    )

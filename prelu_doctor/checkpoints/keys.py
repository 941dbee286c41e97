"""The names of weights: do those of a file fit a module, and if not, which ones and what is nearest."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prelu_doctor.checkpoints.mapped_memory import MappedFiles, copy_into
from prelu_doctor.checkpoints.name_fitting import fit_names, is_counter, prefix_hint
from prelu_doctor.checkpoints.versions import versions_of
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped

_SHOWN = 10


def load_weights(module: nn.Module, state: dict[str, Tensor]) -> str:
    """Load the weights into the module: all of them, or none.

    Names must be the same on both sides, but for what `fit_names` makes equal. A name that is missing is not missed
    where its parameter goes by another name too that is there (tied weights).

    Args:
        module: Changed in place, once everything fits.
        state: The weights by name.

    Returns:
        What was done to make the names fit; may be empty.

    Raises:
        CheckpointError: Where names are missing or unexpected, or shapes or types differ: all of them at once.
    """
    entries = _entries(module)
    targets = _targets(entries)
    state, note = fit_names(state, targets)
    missing = _missing(targets, state)
    unexpected = [name for name in state if name not in targets]
    misfits = [line for name in targets if name in state and (line := _misfit(name, state[name], targets[name]))]
    misfits += _untied(targets, state)
    if missing or unexpected or misfits:
        raise _mismatch(missing, unexpected, misfits, prefix_hint(list(state), list(targets)))
    plain = set(_loaded_plainly(module, ""))
    others = OrderedDict((name, tensor) for name, tensor in state.items() if name not in plain)
    # The architecture's versions, whose names and shapes these are, where the file has none of its own: a safetensors
    # file never has, and some classes refuse weights without.
    others._metadata = {**versions_of(entries), **versions_of(state)}  # type: ignore[attr-defined]
    try:
        # Not strict: what strict would check was checked, but tied weights and extra state would fail it.
        module.load_state_dict(others, strict=False)
        files = MappedFiles()
        for name in (name for name in state if name in plain):
            copy_into(targets[name], state[name], files)
    except Exception as error:
        raise CheckpointError(
            f"the architecture cannot take these weights: {escaped(error, 300)}", "dense tensors that can be copied"
        ) from error
    return note


def _loaded_plainly(module: nn.Module, prefix: str) -> Iterator[str]:
    """The names that `load_state_dict` would copy as they are: no class or hook on the way has its own idea of them.

    It would copy each in one go, and so hold every page of a mapped file beside the model.
    """
    loaders = ("load_state_dict", "_load_from_state_dict")
    if any(getattr(type(module), loader) is not getattr(nn.Module, loader) for loader in loaders):
        return
    if module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks:
        return
    for own in (module._parameters, module._buffers):
        yield from (f"{prefix}{name}" for name, tensor in own.items() if tensor is not None)
    for name, part in module._modules.items():
        if part is not None:
            yield from _loaded_plainly(part, f"{prefix}{name}.")


def _entries(module: nn.Module) -> dict[str, Any]:
    try:
        return module.state_dict(keep_vars=True)
    except Exception as error:
        raise CheckpointError(f"the architecture's weights cannot be listed: {escaped(error, 300)}") from error


def _targets(entries: dict[str, Any]) -> dict[str, Tensor]:
    """The parameters and buffers that weights go into, by name; a tied one under each of its names."""
    targets = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    lazy = [name for name, value in targets.items() if torch.nn.parameter.is_lazy(value)]
    if lazy:
        raise CheckpointError(
            f"the architecture's '{escaped(lazy[0])}' is lazy: it has no shape yet",
            "layers of known sizes",
            "run the model once on a batch in the callable that --arch names",
        )
    return targets


def _missing(targets: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    given = {id(targets[name]) for name in state if name in targets}
    return [
        name
        for name, target in targets.items()
        if name not in state and id(target) not in given and not is_counter(name, state)
    ]


def _misfit(name: str, tensor: Tensor, target: Tensor) -> str:
    if tensor.is_meta:
        return f"'{escaped(name)}' is a meta tensor: it holds no data"
    if tensor.shape != target.shape:
        return f"'{escaped(name)}' is {_shape(tensor)} in the file and {_shape(target)} in the architecture"
    if not torch.can_cast(tensor.dtype, target.dtype):
        return f"'{escaped(name)}' is {tensor.dtype} in the file and {target.dtype} in the architecture"
    return ""


def _untied(targets: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """Names that the architecture ties into one parameter, and for which the file holds two different tensors."""
    first: dict[int, str] = {}
    lines = []
    for name in (name for name in targets if name in state):
        other = first.setdefault(id(targets[name]), name)
        if other != name and not _same(state[name], state[other]):
            lines.append(f"'{escaped(name)}' and '{escaped(other)}' are one in the architecture and differ in the file")
    return lines


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())  # noqa: PLR0124 - NaN


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _mismatch(
    missing: Sequence[str], unexpected: Sequence[str], misfits: Sequence[str], prefix_hint: str
) -> CheckpointError:
    lines = [
        *_shown([f"missing {_with_nearest(name, unexpected, 'in the file')}" for name in missing[:_SHOWN]], missing),
        *_shown([f"unexpected {_with_nearest(name, missing, 'missing')}" for name in unexpected[:_SHOWN]], unexpected),
        *_shown(list(misfits[:_SHOWN]), misfits),
    ]
    head = f"{len(missing)} missing, {len(unexpected)} unexpected, {len(misfits)} that do not fit"
    return CheckpointError(
        "\n  ".join([f"the file's weights are not this architecture's: {head}", *lines]),
        "the same names, shapes and types in the file as in the architecture",
        prefix_hint or "check --arch and --arch-arg; the architecture must be the one that was trained",
    )


def _shown(lines: list[str], every: Sequence[str]) -> list[str]:
    return [*lines, f"... and {len(every) - len(lines)} more"] if len(every) > len(lines) else lines


def _with_nearest(name: str, others: Sequence[str], where: str) -> str:
    near = difflib.get_close_matches(name, others, n=1)
    return f"'{escaped(name)}'" + (f" (nearest {where}: '{escaped(near[0])}')" if near else "")

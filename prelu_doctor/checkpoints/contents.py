"""What a file holds: a module or weights; and which of the two an unpickled object is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prelu_doctor.checkpoints.module_structure import check_restored_module, check_trusted_module
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, listed
from prelu_doctor.expected_inputs import ExpectedInputs

_TRAINING_KEYS = ("state_dict", "model_state_dict", "model")
_REMEDY = f"save torch.save(model.state_dict(), 'weights.pt'), or a dictionary with it under {listed(_TRAINING_KEYS)}"


@dataclass(frozen=True)
class Contents:
    """A module or weights, and where they were found.

    Attributes:
        module: None where there are weights.
        state: None where there is a module.
        note: As "taken from key 'model'"; may be empty.
        recipe_text: The JSON recipe of a converted file; None for others.
        expected: What the module takes, where the file tells.
        files: All files that were read, where they are several; empty for one file.
    """

    module: nn.Module | None = None
    state: dict[str, Tensor] | None = None
    note: str = ""
    recipe_text: str | None = None
    expected: ExpectedInputs | None = None
    files: tuple[Path, ...] = ()


def weights_or_module(content: Any, path: Path, *, trust: bool) -> Contents:
    """The weights or the module in what a file held.

    Args:
        content: The unpickled object.
        path: For messages.
        trust: True where the user vouched for the file, so that a module may carry hooks.

    Raises:
        CheckpointError: Where neither is there, or the module is not sound.
    """
    held = _weights_or_module(content, path, trust)
    if held is not None:
        return held
    if not isinstance(content, Mapping):
        raise _nothing_found(path, _described(content))
    for key in _TRAINING_KEYS:
        inner = _weights_or_module(content[key], path, trust) if key in content else None
        if inner is not None:
            return Contents(inner.module, inner.state, _joined(f"taken from key '{key}'", inner.note))
    raise _nothing_found(path, _described(content))


def _weights_or_module(content: Any, path: Path, trust: bool) -> Contents | None:
    if isinstance(content, nn.Module):
        check = check_trusted_module if trust else check_restored_module
        check(content, path)
        return Contents(content, None, "")
    if not _is_state_dict(content):
        return None
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    extra = len(content) - len(state)
    return Contents(None, state, f"{extra} entries of extra state left out" if extra else "")


def _is_state_dict(content: Any) -> bool:
    """Tensors by name; beside them a module's extra state, which may be anything."""
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        return False
    return all(
        isinstance(name, str) and (isinstance(value, Tensor) or name.endswith("_extra_state"))
        for name, value in content.items()
    )


def _described(content: Any) -> str:
    if isinstance(content, Tensor):
        return f"a bare tensor of shape {tuple(content.shape)}"
    if not isinstance(content, Mapping):
        return f"a {escaped(type(content).__name__)}"
    return f"a dictionary with the keys {listed(content)}" if content else "an empty dictionary"


def _nothing_found(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{escaped(path)}: holds {what}", "a module or a state dict (tensors by name)", _REMEDY)


def _joined(*notes: str) -> str:
    return ", ".join(note for note in notes if note)

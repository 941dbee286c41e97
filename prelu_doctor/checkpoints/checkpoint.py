"""A checkpoint file, read: what it is, and the weights or the module it holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from prelu_doctor.checkpoints.contents import weights_or_module
from prelu_doctor.checkpoints.pickles import unpickled
from prelu_doctor.checkpoints.recipes import recipe_beside
from prelu_doctor.checkpoints.recognition import readable_kind
from prelu_doctor.checkpoints.safetensors_files import read_safetensors
from prelu_doctor.checkpoints.wrappers import without_wrappers
from prelu_doctor.errors import CheckpointError, UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.file_kinds import FileKind

Kind = Literal["torch-module", "state-dict", "safetensors", "converted"]


@dataclass(frozen=True)
class StoredCheckpoint:
    """What a checkpoint file holds: a module or a state dict, never both.

    Attributes:
        path: As the user named it.
        sha256: Of the file's bytes, in hex.
        kind: `torch-module`, `state-dict`, `safetensors`, or `converted` (a file that `convert` wrote).
        module: The pickled module; None where the file holds weights alone.
        state: The weights by name; None where the file holds a module.
        recipe_text: The JSON recipe of a converted file; None for others.
        note: What was done to get there, as "taken from key 'model', prefix 'module.' removed"; may be empty.
    """

    path: Path
    sha256: str
    kind: Kind
    module: nn.Module | None
    state: dict[str, Tensor] | None
    recipe_text: str | None
    note: str


def read_checkpoint(path: Path | str, *, trust: bool = False, device: torch.device | str = "cpu") -> StoredCheckpoint:
    """Read a checkpoint, recognised by its content, without running its code.

    Pickles are read by the weights-only reader, which is allowed the classes of `torch.nn.modules` and no others.
    Prefixes that DistributedDataParallel (`module.`) and `torch.compile` (`_orig_mod.`) put before names are removed,
    except in converted files, whose names are kept as they were written.

    Args:
        path: The file.
        trust: Read pickles of any class. Such a file can run any code; only for files one made oneself.
        device: Where the tensors come to lie.

    Raises:
        CheckpointError: Where the file cannot be read, is of a kind not supported, or is refused.
        UsageError: Where the device is not there.
    """
    path = Path(path)
    file_kind = readable_kind(path)
    sha256 = _sha256(path)
    stored = (
        _from_safetensors(path, sha256)
        if file_kind is FileKind.SAFETENSORS
        else _from_pickle(path, sha256, zipped=file_kind is FileKind.TORCH_ZIP, trust=trust)
    )
    return _on_device(stored, device)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_safetensors(path: Path, sha256: str) -> StoredCheckpoint:
    state, recipe_text = read_safetensors(path)
    if recipe_text is not None:
        return StoredCheckpoint(path, sha256, "converted", None, state, recipe_text, "")
    state, note = without_wrappers(state)
    return StoredCheckpoint(path, sha256, "safetensors", None, state, None, note)


def _from_pickle(path: Path, sha256: str, *, zipped: bool, trust: bool) -> StoredCheckpoint:
    recipe_text = recipe_beside(path, sha256)
    content = unpickled(path, zipped=zipped, trust=trust)
    found = weights_or_module(content, path, trust=trust)
    if found.state is None:
        return StoredCheckpoint(path, sha256, "torch-module", found.module, None, None, found.note)
    if recipe_text is not None:
        return StoredCheckpoint(path, sha256, "converted", None, found.state, recipe_text, found.note)
    state, wrapper_note = without_wrappers(found.state)
    note = ", ".join(part for part in (found.note, wrapper_note) if part)
    return StoredCheckpoint(path, sha256, "state-dict", None, state, None, note)


def _on_device(stored: StoredCheckpoint, device: torch.device | str) -> StoredCheckpoint:
    try:
        target = torch.device(device)
        if target.type == "cpu":
            return stored
        state = stored.state and {name: tensor.to(target) for name, tensor in stored.state.items()}
        module = stored.module and stored.module.to(target)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise UsageError(
            f"device '{escaped(device)}': {escaped(error, 300)}", "a device that is there", "--device cpu"
        ) from error
    except NotImplementedError as error:
        raise CheckpointError(f"{escaped(stored.path)}: {escaped(error, 300)}", "tensors that hold data") from error
    return StoredCheckpoint(stored.path, stored.sha256, stored.kind, module, state, stored.recipe_text, stored.note)

"""A checkpoint file, read: what it is, and the weights or the module it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from prelu_doctor.checkpoints.contents import Contents, weights_or_module
from prelu_doctor.checkpoints.exported_programs import read_exported_program
from prelu_doctor.checkpoints.pickles import unpickled
from prelu_doctor.checkpoints.program_devices import move
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.checkpoints.recipes import recipe_beside
from prelu_doctor.checkpoints.recognition import readable_kind
from prelu_doctor.checkpoints.safetensors_files import read_safetensors
from prelu_doctor.checkpoints.torchscript import read_torchscript
from prelu_doctor.checkpoints.wrappers import without_wrappers
from prelu_doctor.errors import CheckpointError, UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.expected_inputs import ExpectedInputs
from prelu_doctor.file_kinds import FileKind

Kind = Literal[
    "torch-module",
    "state-dict",
    "safetensors",
    "converted",
    "hugging-face",
    "distributed",
    "torchscript",
    "pt2",
]


@dataclass(frozen=True)
class StoredCheckpoint:
    """What a checkpoint holds: a module or a state dict, never both.

    Attributes:
        path: As the user named it.
        sha256: Of the file's bytes, in hex.
        kind: What it was recognised as; `converted` is a file that `convert` wrote.
        module: None where the file holds weights alone.
        state: The weights by name; None where the file holds a module.
        recipe_text: The JSON recipe of a converted file; None for others.
        note: What was done to get there, as "taken from key 'model', prefix 'module.' removed"; may be empty.
        expected: What the module takes, where the file tells.
    """

    path: Path
    sha256: str
    kind: Kind
    module: nn.Module | None
    state: dict[str, Tensor] | None
    recipe_text: str | None
    note: str
    expected: ExpectedInputs | None = None


def read_checkpoint(
    path: Path | str,
    *,
    trust: bool = False,
    allow_classes: Sequence[str] = (),
    weights_key: str | None = None,
    method: str | None = None,
    device: torch.device | str = "cpu",
) -> StoredCheckpoint:
    """Read a checkpoint, recognised by its content, without running its code.

    Pickles are read by the weights-only reader, which is allowed the classes of `torch.nn.modules` and no others.
    Prefixes that DistributedDataParallel (`module.`) and `torch.compile` (`_orig_mod.`) put before names are removed,
    except in converted files, whose names are kept as they were written.

    Args:
        path: The file or folder.
        trust: Read pickles of any class. Such a file can run any code; only for files one made oneself.
        allow_classes: Names of classes of the user's, `package.module.Class`, that a pickled module may use.
        weights_key: Where in a training dictionary the weights stand; None for the usual keys.
        method: Which of a file's programs to take, and what to run of TorchScript instead of `forward`.
        device: Where the tensors come to lie.

    Raises:
        CheckpointError: Where the file cannot be read, is of a kind not supported, or is refused.
        UsageError: Where the device is not there.
    """
    path = Path(path)
    file_kind = readable_kind(path)
    sha256 = _sha256(path)
    reading = Reading(trust=trust, allowed_classes=tuple(allow_classes), weights_key=weights_key, method=method)
    contents = _READERS[file_kind](path, reading)
    return _on_device(_stored(contents, path, sha256, file_kind), device)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_pickle(path: Path, reading: Reading, *, zipped: bool) -> Contents:
    content = unpickled(path, zipped=zipped, trust=reading.trust)
    return weights_or_module(content, path, trust=reading.trust)


def _stored(contents: Contents, path: Path, sha256: str, file_kind: FileKind) -> StoredCheckpoint:
    recipe_text = contents.recipe_text
    if contents.state is not None and file_kind in (FileKind.TORCH_ZIP, FileKind.TORCH_LEGACY):
        recipe_text = recipe_beside(path, sha256)
    state, note = contents.state, contents.note
    if state is not None and recipe_text is None:
        state, removed = without_wrappers(state)
        note = ", ".join(part for part in (note, removed) if part)
    return StoredCheckpoint(
        path=path,
        sha256=sha256,
        kind="converted" if recipe_text is not None else _kind(contents, file_kind),
        module=contents.module,
        state=state,
        recipe_text=recipe_text,
        note=note,
        expected=contents.expected,
    )


def _kind(contents: Contents, file_kind: FileKind) -> Kind:
    if file_kind in (FileKind.TORCH_ZIP, FileKind.TORCH_LEGACY):
        return "torch-module" if contents.module is not None else "state-dict"
    return _KINDS[file_kind]


_KINDS: dict[FileKind, Kind] = {
    FileKind.SAFETENSORS: "safetensors",
    FileKind.TORCHSCRIPT: "torchscript",
    FileKind.PT2: "pt2",
}

_READERS: dict[FileKind, Callable[[Path, Reading], Contents]] = {
    FileKind.SAFETENSORS: read_safetensors,
    FileKind.TORCHSCRIPT: read_torchscript,
    FileKind.PT2: read_exported_program,
    FileKind.TORCH_ZIP: partial(_from_pickle, zipped=True),
    FileKind.TORCH_LEGACY: partial(_from_pickle, zipped=False),
}


def _on_device(stored: StoredCheckpoint, device: torch.device | str) -> StoredCheckpoint:
    try:
        target = torch.device(device)
        if target.type == "cpu":
            return stored
        state = stored.state and {name: tensor.to(target) for name, tensor in stored.state.items()}
        module = stored.module and move(stored.module, target)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise UsageError(
            f"device '{escaped(device)}': {escaped(error, 300)}", "a device that is there", "--device cpu"
        ) from error
    except NotImplementedError as error:
        raise CheckpointError(f"{escaped(stored.path)}: {escaped(error, 300)}", "tensors that hold data") from error
    return replace(stored, module=module, state=state)

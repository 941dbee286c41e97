"""A checkpoint file, read: what it is, and the weights or the module it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from prelu_doctor.checkpoints.contents import Contents, weights_or_module
from prelu_doctor.checkpoints.distributed import read_distributed
from prelu_doctor.checkpoints.exported_programs import read_exported_program
from prelu_doctor.checkpoints.folders import sha256_of, weights_in
from prelu_doctor.checkpoints.hugging_face import read_hugging_face
from prelu_doctor.checkpoints.pickles import unpickled
from prelu_doctor.checkpoints.program_devices import move
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.checkpoints.recipes import recipe_beside
from prelu_doctor.checkpoints.recognition import readable_kind
from prelu_doctor.checkpoints.safetensors_files import read_safetensors
from prelu_doctor.checkpoints.sharded import read_sharded
from prelu_doctor.checkpoints.torchscript import read_torchscript
from prelu_doctor.checkpoints.versions import with_versions_of
from prelu_doctor.checkpoints.wrappers import without_wrappers
from prelu_doctor.errors import CheckpointError, UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.expected_inputs import ExpectedInputs
from prelu_doctor.file_kinds import FileKind, recognised
from prelu_doctor.untrusted.opened_files import HashedFile, opened

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
        sha256: Of the file's bytes, in hex; of several files: of their names and digests (`folders.sha256_of`).
        kind: What it was recognised as; `converted` is a file that `convert` wrote.
        module: None where the file holds weights alone.
        state: The weights by name; None where the file holds a module.
        recipe_text: The JSON recipe of a converted file; None for others.
        note: What was done to get there, as "taken from key 'model', prefix 'module.' removed"; may be empty.
        expected: What the module takes, where the file tells.
        files: All that were read for it.
    """

    path: Path
    sha256: str
    kind: Kind
    module: nn.Module | None
    state: dict[str, Tensor] | None
    recipe_text: str | None
    note: str
    expected: ExpectedInputs | None = None
    files: tuple[Path, ...] = ()


def read_checkpoint(
    path: Path | str, reading: Reading | None = None, *, device: torch.device | str = "cpu"
) -> StoredCheckpoint:
    """Read a checkpoint, recognised by its content, without running its code.

    One opening of the file serves for all that is done with it. Pickles are surveyed, then read by the weights-only
    reader, which is allowed the classes of `torch.nn.modules`, inert stand-ins of harmless ones, and the user's.
    Prefixes that DistributedDataParallel (`module.`) and `torch.compile` (`_orig_mod.`) put before names are removed,
    except in converted files, whose names are kept as they were written.

    Args:
        path: The file or folder.
        reading: What the user allowed, and what of the file they want; None for nothing beside the usual.
        device: Where the tensors come to lie.

    Raises:
        CheckpointError: Where the file cannot be read, is of a kind not supported, or is refused.
        UsageError: Where the device is not there.
    """
    path = Path(path)
    if readable_kind(path) is FileKind.FOLDER:
        path = weights_in(path)
    read = _read_parts if readable_kind(path) in _IN_PARTS else _read_file
    return _on_device(read(path, reading or Reading()), device)


def _read_file(path: Path, reading: Reading) -> StoredCheckpoint:
    with opened(path, error=CheckpointError) as file:
        file_kind = readable_kind(file.path)
        if reading.weights_key is not None and file_kind in _WITHOUT_KEYS:
            raise UsageError(
                f"--weights-key {escaped(reading.weights_key)}: {escaped(path)} is {file_kind}, which has no keys",
                "--weights-key with a dictionary that torch.save wrote",
                "leave --weights-key out",
            )
        contents = _READERS[file_kind](file.path, reading)
        return _stored(contents, path, file.sha256, file_kind)


def _read_parts(path: Path, reading: Reading) -> StoredCheckpoint:
    file_kind = readable_kind(path)
    contents = _READERS[file_kind](path, reading)
    return _stored(contents, path, sha256_of(contents.parts), file_kind)


_WITHOUT_KEYS = (FileKind.TORCHSCRIPT, FileKind.PT2, FileKind.SAFETENSORS)
_IN_PARTS = (FileKind.SHARDED, FileKind.HUGGING_FACE_FOLDER, FileKind.DISTRIBUTED_FOLDER)
"""Kinds that consist of several files, each opened by itself."""


def _from_pickle(path: Path, reading: Reading, *, zipped: bool) -> Contents:
    found = unpickled(path, zipped=zipped, reading=reading)
    contents = weights_or_module(found.content, path, reading, found.classes)
    return replace(contents, note=", ".join(note for note in (contents.note, found.note) if note))


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
        files=tuple(part.path for part in contents.parts) or (path,),
    )


def _kind(contents: Contents, file_kind: FileKind) -> Kind:
    if file_kind in (FileKind.TORCH_ZIP, FileKind.TORCH_LEGACY):
        return "torch-module" if contents.module is not None else "state-dict"
    if file_kind is FileKind.SHARDED:
        return _kind(contents, recognised(contents.parts[-1].path, error=CheckpointError))
    return _KINDS[file_kind]


_KINDS: dict[FileKind, Kind] = {
    FileKind.SAFETENSORS: "safetensors",
    FileKind.HUGGING_FACE_FOLDER: "hugging-face",
    FileKind.DISTRIBUTED_FOLDER: "distributed",
    FileKind.TORCHSCRIPT: "torchscript",
    FileKind.PT2: "pt2",
}


def _weights_file(path: Path, reading: Reading) -> Contents:
    """The contents of one file of weights that lies in a folder, or those of the files that an index names."""
    kind = readable_kind(path)
    if kind not in (FileKind.SAFETENSORS, FileKind.TORCH_ZIP, FileKind.TORCH_LEGACY, FileKind.SHARDED):
        raise CheckpointError(f"{escaped(path)}: {kind}", "a file of weights", "name the checkpoint itself")
    if kind is FileKind.SHARDED:
        return _READERS[kind](path, reading)
    with opened(path, error=CheckpointError) as file:
        contents = _READERS[readable_kind(file.path)](file.path, reading)
        return replace(contents, parts=(HashedFile(path, file.sha256),))


def _shard(path: Path, reading: Reading) -> Contents:
    if readable_kind(path) is FileKind.SHARDED:
        raise CheckpointError(f"{escaped(path)}: an index, named by an index", "a file of weights")
    return _weights_file(path, reading)


_READERS: dict[FileKind, Callable[[Path, Reading], Contents]] = {
    FileKind.SAFETENSORS: read_safetensors,
    FileKind.TORCHSCRIPT: read_torchscript,
    FileKind.PT2: read_exported_program,
    FileKind.TORCH_ZIP: partial(_from_pickle, zipped=True),
    FileKind.TORCH_LEGACY: partial(_from_pickle, zipped=False),
    FileKind.SHARDED: partial(read_sharded, read_file=_shard),
    FileKind.HUGGING_FACE_FOLDER: partial(read_hugging_face, read_file=_weights_file),
    FileKind.DISTRIBUTED_FOLDER: read_distributed,
}


def _on_device(stored: StoredCheckpoint, device: torch.device | str) -> StoredCheckpoint:
    try:
        target = torch.device(device)
        if target.type == "cpu":
            return stored
        state = stored.state and with_versions_of(
            stored.state, {name: tensor.to(target) for name, tensor in stored.state.items()}
        )
        module = stored.module and move(stored.module, target)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise UsageError(
            f"device '{escaped(device)}': {escaped(error, 300)}", "a device that is there", "--device cpu"
        ) from error
    except NotImplementedError as error:
        raise CheckpointError(f"{escaped(stored.path)}: {escaped(error, 300)}", "tensors that hold data") from error
    return replace(stored, module=module, state=state)

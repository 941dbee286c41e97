"""The files of a checkpoint that is a folder: which of them hold weights, and whether a named one lies in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, listed
from prelu_doctor.file_kinds import FileKind, recognised
from prelu_doctor.untrusted.opened_files import HashedFile, bytes_of

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_WEIGHTS = frozenset({FileKind.SAFETENSORS, FileKind.TORCH_ZIP, FileKind.TORCH_LEGACY})
# What a trainer leaves beside the weights: pickles too, but none that anybody means by "the checkpoint".
_NOT_WEIGHTS = frozenset({"training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scheduler.bin"})


def weights_in(folder: Path) -> Path:
    """The one file in a folder that holds the weights, or the index of several.

    That is the first which is there of `model.safetensors`, its index, `pytorch_model.bin`, its index (the order in
    which transformers looks), else the only index or the only weights file, told by content.

    Args:
        folder: What is below its own folders is not looked at.

    Raises:
        CheckpointError: Where there is none, or more than one.
    """
    usual = (_WHOLE[0], _INDEXES[0], _WHOLE[1], _INDEXES[1])
    known = next((folder / name for name in usual if (folder / name).is_file()), None)
    if known is not None:
        return file_in_folder(folder, known.name, named_by=folder)
    kinds = {path: recognised(path, error=CheckpointError) for path in _files(folder)}
    indexes = [path for path, kind in kinds.items() if kind is FileKind.SHARDED]
    found = indexes or [path for path, kind in kinds.items() if kind in _WEIGHTS]
    if len(found) == 1:
        return file_in_folder(folder, found[0].name, named_by=folder)
    names = [path.name for path in found]
    raise CheckpointError(
        f"{escaped(folder)}: a folder with {len(found)} files of weights: {listed(names)}"
        if found
        else f"{escaped(folder)}: a folder without a file of weights in it",
        "a checkpoint, or a folder that holds exactly one",
        f"name one of them: {escaped(folder / names[0])}" if found else "name the checkpoint file itself",
    )


def file_in_folder(folder: Path, name: str, *, named_by: Path) -> Path:
    """The path of a file that lies in the folder itself.

    A link may lead to another file of the folder, or, as in the cache of the Hugging Face hub, from
    `models--NAME/snapshots/REVISION` to `models--NAME/blobs`.

    Args:
        folder: Where it must lie.
        name: As another file gives it.
        named_by: That file, for the message.

    Raises:
        CheckpointError: Where the name is more than a name, or no such file lies there.
    """
    if name != Path(name).name or "\\" in name or "\0" in name or name in ("", ".", ".."):
        raise _outside(named_by, name, "which is not the name of a file in its folder")
    path = folder / name
    if not path.is_file():
        raise CheckpointError(
            f"{escaped(named_by)}: names the file '{escaped(name)}', which is not there",
            f"that file in {escaped(folder)}",
            "copy or download the whole folder again",
        )
    if path.resolve().parent not in (folder.resolve(), _hub_blobs(folder)):
        raise _outside(named_by, name, "which is a link that leads out of the folder")
    return path


def sha256_of(parts: Sequence[HashedFile]) -> str:
    """The SHA-256 of several files: that of what `sha256sum` prints for them, in the order of their names."""
    lines = sorted((part.path.name, part.sha256) for part in parts)
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in lines).encode()).hexdigest()


def text_in_folder(folder: Path, name: str, most: int) -> tuple[bytes, HashedFile]:
    """The bytes of a small file that lies in the folder, read once.

    Args:
        folder: Where it must lie.
        name: Of the file.
        most: How many bytes it may have.

    Raises:
        CheckpointError: Where it does not lie there, cannot be read or is longer.
    """
    path = file_in_folder(folder, name, named_by=folder)
    content = bytes_of(path, most, error=CheckpointError)
    return content, HashedFile(path, hashlib.sha256(content).hexdigest())


def _files(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{escaped(folder)}: {error.strerror}", "a readable folder") from error
    return [path for path in entries if path.is_file() and path.name not in _NOT_WEIGHTS]


def _hub_blobs(folder: Path) -> Path | None:
    above = folder.resolve().parent
    return above.parent / "blobs" if above.name == "snapshots" else None


def _outside(named_by: Path, name: str, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{escaped(named_by)}: refused, because it names '{escaped(name)}', {problem}",
        "the plain name of a file beside it",
        "put all files of the checkpoint into one folder",
    )

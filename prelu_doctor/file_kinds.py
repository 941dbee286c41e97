"""What a file is, told by its content and never by its ending."""

from __future__ import annotations

import codecs
import json
import zipfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from prelu_doctor.errors import DoctorError
from prelu_doctor.escaping import escaped

_HEAD_BYTES = 4096
_LONGEST_SAFETENSORS_HEADER = 2**40  # a text that has `{` as its ninth letter reads as a far larger length
_LONGEST_INDEX = 64 * 2**20
WEIGHT_MAP = "weight_map"
"""The key of an index of weights under which the file of each tensor stands."""
_LEGACY_TORCH_MAGIC = bytes.fromhex("80028a0a6cfc9c46f920")
_ONNX_SECOND_TAGS = frozenset({0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42})  # any ModelProto field after ir_version


class FileKind(StrEnum):
    """Kinds of files and folders that people hand to this program; the value is how a message calls it."""

    TORCH_ZIP = "a torch.save file"
    TORCH_LEGACY = "a torch.save file of the old format"
    TORCHSCRIPT = "a TorchScript archive"
    PT2 = "a torch.export program (.pt2)"
    TORCH_PACKAGE = "a torch.package archive"
    SAFETENSORS = "a safetensors file"
    SHARDED = "an index of weights in several files"
    ONNX = "an ONNX model"
    NPZ = "a NumPy .npz archive"
    NPY = "a NumPy .npy array"
    ZIP = "a zip archive that torch.save did not write"
    BROKEN_ZIP = "a zip archive that is truncated or damaged"
    PICKLE = "a plain pickle that torch.save did not write"
    HDF5 = "an HDF5 file (Keras?)"
    GGUF = "a GGUF file"
    GZIP = "a gzip-compressed file"
    TAR = "a tar archive"
    GIT_LFS_POINTER = "a Git LFS pointer instead of the file itself"
    HTML = "an HTML page, so that a download probably failed"
    TEXT = "a text file"
    EMPTY = "an empty file"
    UNKNOWN = "a file of an unknown format"
    HUGGING_FACE_FOLDER = "a folder of a Hugging Face model"
    DISTRIBUTED_FOLDER = "a torch.distributed checkpoint folder"
    FOLDER = "a folder"


def recognised(path: Path, *, error: type[DoctorError]) -> FileKind:
    """What stands at the path.

    Args:
        path: A file or folder.
        error: The leaf to raise.

    Raises:
        DoctorError: Of that leaf, where nothing is there or it may not be read.
    """
    try:
        if path.is_dir():
            return _folder_kind(path)
        if not path.exists():
            raise error(f"{escaped(path)}: no such file", "a file that exists", "check the path")
        if not path.is_file():
            raise error(f"{escaped(path)}: not a regular file", "a file on disk", "copy it to disk first")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"{escaped(path)}: {reason}", "a readable file", "check the path and its permissions") from problem
    if head.startswith(b"PK"):
        return _zip_kind(path)
    kind = _kind_by_head(head)
    return FileKind.SHARDED if kind is FileKind.TEXT and _is_index(path, head) else kind


def _folder_kind(path: Path) -> FileKind:
    if (path / ".metadata").is_file():
        return FileKind.DISTRIBUTED_FOLDER
    return FileKind.HUGGING_FACE_FOLDER if (path / "config.json").is_file() else FileKind.FOLDER


def _kind_by_head(head: bytes) -> FileKind:
    return next((kind for kind, test in _HEAD_TESTS if test(head)), FileKind.UNKNOWN)


def _is_index(path: Path, head: bytes) -> bool:
    """Whether a text file is a JSON object with a `weight_map`, wherever in it that stands."""
    try:
        if not head.lstrip().startswith(b"{") or path.stat().st_size > _LONGEST_INDEX:
            return False
        content = path.read_bytes()
        return f'"{WEIGHT_MAP}"'.encode() in content and WEIGHT_MAP in json.loads(content)
    except (OSError, ValueError, RecursionError):
        return False


def _looks_like_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _LONGEST_SAFETENSORS_HEADER


def _looks_like_onnx(head: bytes) -> bool:
    """A protobuf whose first field is a small `ir_version`, followed by another field of ModelProto."""
    return len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 32 and head[2] in _ONNX_SECOND_TAGS


def _looks_like_pickle(head: bytes) -> bool:
    return len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def _looks_like_html(head: bytes) -> bool:
    return head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def _looks_like_text(head: bytes) -> bool:
    try:
        # Not final: the head may end in the middle of a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c.isspace() for c in text)


_HEAD_TESTS: tuple[tuple[FileKind, Callable[[bytes], bool]], ...] = (
    (FileKind.EMPTY, lambda head: not head),
    (FileKind.TORCH_LEGACY, lambda head: head.startswith(_LEGACY_TORCH_MAGIC)),
    (FileKind.SAFETENSORS, _looks_like_safetensors),
    (FileKind.NPY, lambda head: head.startswith(b"\x93NUMPY")),
    (FileKind.HDF5, lambda head: head.startswith(b"\x89HDF")),
    (FileKind.GGUF, lambda head: head.startswith(b"GGUF")),
    (FileKind.GZIP, lambda head: head.startswith(b"\x1f\x8b")),
    (FileKind.TAR, lambda head: head[257:262] == b"ustar"),
    (FileKind.PICKLE, _looks_like_pickle),
    (FileKind.ONNX, _looks_like_onnx),
    (FileKind.GIT_LFS_POINTER, lambda head: head.startswith(b"version https://git-lfs")),
    (FileKind.HTML, _looks_like_html),
    (FileKind.TEXT, _looks_like_text),
)


def _zip_kind(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a hostile directory raises whatever it likes
        return FileKind.BROKEN_ZIP
    return next((kind for kind, test in _ZIP_TESTS if test(names)), FileKind.ZIP)


def _below_top(names: list[str]) -> set[str]:
    return {name.partition("/")[2] for name in names}


# TorchScript stands before TORCH_ZIP because it holds a data.pkl too.
_ZIP_TESTS: tuple[tuple[FileKind, Callable[[list[str]], bool]], ...] = (
    (FileKind.TORCH_PACKAGE, lambda names: ".data/extern_modules" in _below_top(names)),
    (FileKind.TORCHSCRIPT, lambda names: any(name.startswith("code/") for name in _below_top(names))),
    (FileKind.TORCHSCRIPT, lambda names: "constants.pkl" in _below_top(names)),
    (FileKind.TORCH_ZIP, lambda names: "data.pkl" in _below_top(names)),
    (FileKind.PT2, lambda names: "serialized_exported_program.json" in names),
    (
        FileKind.PT2,
        lambda names: any(name == "archive_format" or name.startswith("models/") for name in _below_top(names)),
    ),
    (FileKind.NPZ, lambda names: bool(names) and all(name.endswith(".npy") for name in names)),
)

"""The `.metadata` of a distributed checkpoint: which tensors it has, and in which files their blocks lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch

from prelu_doctor.checkpoints.inert_pickle import ForeignNameError, Made, Name, described
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, listed, reason_of

METADATA = ".metadata"
LONGEST = 64 * 2**20
_MOST_AXES = 64
_RECORDS = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
_OTHERS = frozenset({"torch.Size", "torch.serialization._get_layout", "collections.OrderedDict"})

Index = tuple[int, ...]


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor, and where its bytes are."""

    offsets: Index
    sizes: Index
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class Entry:
    """A tensor of the checkpoint, all of it."""

    name: str
    shape: Index
    dtype: torch.dtype
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Description:
    """What `.metadata` says.

    Attributes:
        entries: The tensors.
        paths: The keys under which each stood in nested dictionaries when it was saved, by its name.
        others: How many entries are no tensors.
    """

    entries: tuple[Entry, ...]
    paths: Mapping[str, tuple[str | int, ...]]
    others: int


def description(folder: Path, content: bytes) -> Description:
    """What the folder's `.metadata` says, without unpickling it: nothing that it names is imported or called.

    Args:
        folder: For messages.
        content: The bytes of that file.

    Raises:
        CheckpointError: Where it is not sound, or names anything but tensors and plain records.
    """
    metadata = _metadata(folder, content)
    entries, others = _entries(folder, metadata)
    paths = metadata.attribute("planner_data")
    sound = {name: path for name, path in paths.items() if _is_path(path)} if isinstance(paths, dict) else {}
    return Description(tuple(entries), sound, others)


def unsound(folder: Path, problem: str) -> CheckpointError:
    """The error for a folder whose description or files are damaged or do not fit each other."""
    return CheckpointError(
        f"{escaped(folder)}: not a sound distributed checkpoint: {problem}",
        "a whole folder as torch.distributed.checkpoint.save writes it",
        "copy it again, with all files of all processes, or save it anew",
    )


def _metadata(folder: Path, content: bytes) -> Made:
    try:
        found = described(content, _is_plain)
    except ForeignNameError as error:
        raise CheckpointError(
            f"{escaped(folder / METADATA)}: refused, because reading it would run the code of {listed([error.name])}",
            "the plain records that torch.distributed.checkpoint writes",
            "save it anew with torch.distributed.checkpoint.save",
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises whatever it likes
        raise unsound(folder, f"its {METADATA} cannot be read: {reason_of(error)}") from error
    if not _is_record(found, "Metadata"):
        raise unsound(folder, f"its {METADATA} holds no Metadata")
    made: Made = found
    return made


def _is_plain(name: Name) -> bool:
    """Whether a name is one of the records, or of a type that is a plain value. None of them is ever called."""
    if "." in name.name:
        return False
    whole = str(name)
    records = name.module in _RECORDS
    return records or whole in _OTHERS or _dtype(name) is not None or name.module.partition(".")[0] == "pathlib"


def _entries(folder: Path, metadata: Made) -> tuple[list[Entry], int]:
    """The tensors, and how many entries are something else."""
    tensors = metadata.attribute("state_dict_metadata")
    storage = metadata.attribute("storage_data")
    if not isinstance(tensors, dict) or not isinstance(storage, dict):
        raise unsound(folder, f"its {METADATA} does not say what is stored where")
    places = {_place(folder, index): info for index, info in storage.items()}
    entries = [
        _entry(folder, name, record, places)
        for name, record in tensors.items()
        if _is_record(record, "TensorStorageMetadata")
    ]
    return entries, len(tensors) - len(entries)


def _place(folder: Path, index: Any) -> tuple[object, Index | None]:
    if not _is_record(index, "MetadataIndex"):
        raise unsound(folder, "a place in it is not named by a MetadataIndex")
    offset = index.attribute("offset")
    return index.attribute("fqn"), None if offset is None else _sizes(folder, offset)


def _entry(folder: Path, name: object, record: Made, places: Mapping[tuple[object, Index | None], Any]) -> Entry:
    if not isinstance(name, str):
        raise unsound(folder, "the name of a tensor in it is no string")
    shape = _sizes(folder, record.attribute("size"))
    dtype = _dtype_of(folder, name, record.attribute("properties"))
    chunks = record.attribute("chunks")
    if not isinstance(chunks, list):
        raise unsound(folder, f"'{escaped(name)}' has no list of blocks")
    found = tuple(_chunk(folder, name, chunk, places) for chunk in chunks)
    _check_blocks(folder, name, shape, found)
    return Entry(name, shape, dtype, found)


def _chunk(folder: Path, name: str, record: Any, places: Mapping[tuple[object, Index | None], Any]) -> Chunk:
    if not _is_record(record, "ChunkStorageMetadata"):
        raise unsound(folder, f"a block of '{escaped(name)}' is not described")
    offsets = _sizes(folder, record.attribute("offsets"))
    info = places.get((name, offsets))
    if not _is_record(info, "_StorageInfo"):
        raise unsound(folder, f"a block of '{escaped(name)}' is in no file")
    if info.attribute("transform_descriptors"):
        raise CheckpointError(
            f"{escaped(folder)}: '{escaped(name)}' is compressed or otherwise transformed",
            "tensors as torch.distributed.checkpoint writes them without extensions",
            "save it anew without extensions",
        )
    file, start, length = (info.attribute(key) for key in ("relative_path", "offset", "length"))
    if not isinstance(file, str) or not _is_size(start) or not _is_size(length):
        raise unsound(folder, f"the place of '{escaped(name)}' is no part of a file")
    return Chunk(offsets, _sizes(folder, record.attribute("sizes")), file, start, length)


def _check_blocks(folder: Path, name: str, shape: Index, chunks: tuple[Chunk, ...]) -> None:
    """Each block lies in the tensor, and together they are as many elements; that none is twice, `_read` sees."""
    for chunk in chunks:
        if not len(chunk.offsets) == len(chunk.sizes) == len(shape) or any(
            offset + size > end for offset, size, end in zip(chunk.offsets, chunk.sizes, shape, strict=True)
        ):
            raise unsound(folder, f"a block of '{escaped(name)}' lies outside of the tensor")
    if sum(math.prod(chunk.sizes) for chunk in chunks) != math.prod(shape):
        raise unsound(folder, f"the blocks of '{escaped(name)}' are not the whole tensor")


def _is_path(path: object) -> bool:
    return isinstance(path, tuple) and bool(path) and all(isinstance(step, str | int) for step in path)


def _is_record(found: object, name: str) -> TypeGuard[Made]:
    return isinstance(found, Made) and found.name.module in _RECORDS and found.name.name == name


def _sizes(folder: Path, found: Any) -> Index:
    """The numbers of a torch.Size."""
    sizes = found.arguments[0] if isinstance(found, Made) and len(found.arguments) == 1 else None
    if (
        str(getattr(found, "name", "")) != "torch.Size"
        or not isinstance(sizes, tuple)
        or len(sizes) > _MOST_AXES
        or not all(map(_is_size, sizes))
    ):
        raise unsound(folder, f"a shape in its {METADATA} is none")
    return sizes


def _is_size(found: object) -> bool:
    return type(found) is int and 0 <= found < 2**63


def _dtype(name: Name) -> torch.dtype | None:
    found = vars(torch).get(name.name) if name.module == "torch" else None
    return found if isinstance(found, torch.dtype) else None


def _dtype_of(folder: Path, name: str, properties: Any) -> torch.dtype:
    """The type of a tensor: the first of the values that TensorProperties are pickled as."""
    state = properties.state if _is_record(properties, "TensorProperties") else None
    first = state[0] if isinstance(state, tuple) and state else None
    dtype = _dtype(first) if isinstance(first, Name) else None
    if dtype is None:
        raise unsound(folder, f"the type of '{escaped(name)}' is none of torch's")
    return dtype

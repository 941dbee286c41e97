"""A folder that `torch.distributed.checkpoint` wrote, read in one process and without unpickling its `.metadata`."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prelu_doctor.checkpoints.contents import Contents, weights_or_module
from prelu_doctor.checkpoints.file_part import FilePart
from prelu_doctor.checkpoints.folders import file_in_folder
from prelu_doctor.checkpoints.inert_pickle import ForeignNameError, Made, Name, described
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, listed, reason_of

METADATA = ".metadata"
_LONGEST = 256 * 2**20
_MOST_AXES = 64
_RECORDS = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
_OTHERS = frozenset({"torch.Size", "torch.serialization._get_layout", "collections.OrderedDict"})

Index = tuple[int, ...]


@dataclass(frozen=True)
class _Chunk:
    """A block of a tensor, and where its bytes are."""

    offsets: Index
    sizes: Index
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class _Entry:
    """A tensor of the checkpoint, all of it."""

    name: str
    shape: Index
    dtype: torch.dtype
    chunks: tuple[_Chunk, ...]


def read_distributed(folder: Path, reading: Reading) -> Contents:
    """The weights among the tensors of the checkpoint, put together from the blocks that the processes wrote.

    `.metadata` is a pickle: it is read as a description, so that nothing it names is imported or called. Entries that
    are no tensors are pickles too, and are left out. Of a training state only the weights are read.

    Args:
        folder: With `.metadata` in it.
        reading: Which part of a training state is wanted. Nothing is trusted here.

    Raises:
        CheckpointError: Where the description is not sound, names anything but tensors and plain records, or does not
            fit the files.
    """
    metadata = _metadata(folder)
    entries, left_out = _entries(folder, metadata)
    files = {
        name: file_in_folder(folder, name, named_by=folder / METADATA)
        for name in sorted({chunk.file for entry in entries for chunk in entry.chunks})
    }
    _check_claims(folder, entries, files)
    # Their numbers stand for the entries until it is known which of them are the weights.
    numbers = {entry.name: torch.tensor(number) for number, entry in enumerate(entries)}
    chosen = weights_or_module(_nested(numbers, metadata), folder, reading)
    assert chosen.state is not None
    state = {name: _read(entries[int(number)], files, folder) for name, number in chosen.state.items()}
    notes = (chosen.note, f"{left_out} entries that are no tensors left out" if left_out else "")
    return Contents(
        state=state,
        note=", ".join(note for note in notes if note),
        files=(folder / METADATA, *files.values()),
    )


def _metadata(folder: Path) -> Made:
    path = folder / METADATA
    try:
        if path.stat().st_size > _LONGEST:
            raise _unsound(folder, f"its {METADATA} is longer than {_LONGEST} bytes")
        found = described(path.read_bytes(), _is_plain)
    except ForeignNameError as error:
        raise CheckpointError(
            f"{escaped(path)}: refused, because reading it would run the code of {listed([error.name])}",
            "the plain records that torch.distributed.checkpoint writes",
            "save it anew with torch.distributed.checkpoint.save",
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises whatever it likes
        raise _unsound(folder, f"its {METADATA} cannot be read: {reason_of(error)}") from error
    if not _is_record(found, "Metadata"):
        raise _unsound(folder, f"its {METADATA} holds no Metadata")
    return found


def _is_plain(name: Name) -> bool:
    """Whether a name is one of the records, or of a type that is a plain value. None of them is ever called."""
    if "." in name.name:
        return False
    whole = str(name)
    records = name.module in _RECORDS
    return records or whole in _OTHERS or _dtype(name) is not None or name.module.partition(".")[0] == "pathlib"


def _entries(folder: Path, metadata: Made) -> tuple[list[_Entry], int]:
    """The tensors, and how many entries are something else."""
    tensors = metadata.attribute("state_dict_metadata")
    storage = metadata.attribute("storage_data")
    if not isinstance(tensors, dict) or not isinstance(storage, dict):
        raise _unsound(folder, f"its {METADATA} does not say what is stored where")
    places = {_place(folder, index): info for index, info in storage.items()}
    entries = [
        _entry(folder, name, record, places)
        for name, record in tensors.items()
        if _is_record(record, "TensorStorageMetadata")
    ]
    return entries, len(tensors) - len(entries)


def _place(folder: Path, index: Any) -> tuple[object, Index | None]:
    if not _is_record(index, "MetadataIndex"):
        raise _unsound(folder, "a place in it is not named by a MetadataIndex")
    offset = index.attribute("offset")
    return index.attribute("fqn"), None if offset is None else _sizes(folder, offset)


def _entry(folder: Path, name: object, record: Made, places: Mapping[tuple[object, Index | None], Any]) -> _Entry:
    if not isinstance(name, str):
        raise _unsound(folder, "the name of a tensor in it is no string")
    shape = _sizes(folder, record.attribute("size"))
    dtype = _dtype_of(folder, name, record.attribute("properties"))
    chunks = record.attribute("chunks")
    if not isinstance(chunks, list):
        raise _unsound(folder, f"'{escaped(name)}' has no list of blocks")
    found = tuple(_chunk(folder, name, chunk, places) for chunk in chunks)
    _check_blocks(folder, name, shape, found)
    return _Entry(name, shape, dtype, found)


def _chunk(folder: Path, name: str, record: Any, places: Mapping[tuple[object, Index | None], Any]) -> _Chunk:
    if not _is_record(record, "ChunkStorageMetadata"):
        raise _unsound(folder, f"a block of '{escaped(name)}' is not described")
    offsets = _sizes(folder, record.attribute("offsets"))
    info = places.get((name, offsets))
    if not _is_record(info, "_StorageInfo"):
        raise _unsound(folder, f"a block of '{escaped(name)}' is in no file")
    if info.attribute("transform_descriptors"):
        raise CheckpointError(
            f"{escaped(folder)}: '{escaped(name)}' is compressed or otherwise transformed",
            "tensors as torch.distributed.checkpoint writes them without extensions",
            "save it anew without extensions",
        )
    file, start, length = (info.attribute(key) for key in ("relative_path", "offset", "length"))
    if not isinstance(file, str) or not _is_size(start) or not _is_size(length):
        raise _unsound(folder, f"the place of '{escaped(name)}' is no part of a file")
    return _Chunk(offsets, _sizes(folder, record.attribute("sizes")), file, start, length)


def _check_blocks(folder: Path, name: str, shape: Index, chunks: tuple[_Chunk, ...]) -> None:
    """Each block lies in the tensor, and together they are as many elements; that none is twice, `_read` sees."""
    for chunk in chunks:
        if not len(chunk.offsets) == len(chunk.sizes) == len(shape) or any(
            offset + size > end for offset, size, end in zip(chunk.offsets, chunk.sizes, shape, strict=True)
        ):
            raise _unsound(folder, f"a block of '{escaped(name)}' lies outside of the tensor")
    if sum(math.prod(chunk.sizes) for chunk in chunks) != math.prod(shape):
        raise _unsound(folder, f"the blocks of '{escaped(name)}' are not the whole tensor")


def _check_claims(folder: Path, entries: list[_Entry], files: Mapping[str, Path]) -> None:
    """No block is larger than its part of a file, and all of them not than all files: what is claimed can be there."""
    ends = {name: path.stat().st_size for name, path in files.items()}
    claimed = 0
    for entry in entries:
        for chunk in entry.chunks:
            needed = math.prod(chunk.sizes) * entry.dtype.itemsize
            claimed += needed
            if chunk.start + chunk.length > ends[chunk.file] or needed > chunk.length:
                raise _unsound(folder, f"'{escaped(entry.name)}' claims more than '{escaped(chunk.file)}' holds")
    if claimed > sum(ends.values()):
        raise _unsound(folder, f"its tensors claim {claimed} bytes, and its files hold {sum(ends.values())}")


def _check_shape(folder: Path, entry: _Entry) -> None:
    try:
        torch.empty(entry.shape, dtype=entry.dtype, device="meta")
    except RuntimeError as error:  # a shape with a 0 in it may still be too large
        raise _unsound(folder, f"'{escaped(entry.name)}': {reason_of(error)}") from error


def _nested(tensors: Mapping[str, Tensor], metadata: Made) -> dict[Any, Any]:
    """The tensors in the nested dictionaries in which they were saved, as far as that is written down."""
    paths = metadata.attribute("planner_data")
    nested: dict[Any, Any] = {}
    for name, tensor in tensors.items():
        path = paths.get(name) if isinstance(paths, dict) else None
        steps = path if isinstance(path, tuple) and path and all(isinstance(s, str | int) for s in path) else (name,)
        within = nested
        for step in steps[:-1]:
            within = within.setdefault(step, {})
            if not isinstance(within, dict):  # two names, of which one would lie in the other's tensor
                return dict(tensors)
        within[steps[-1]] = tensor
    return nested


def _read(entry: _Entry, files: Mapping[str, Path], folder: Path) -> Tensor:
    """The whole tensor; where one block is all of it, that block."""
    _check_shape(folder, entry)
    blocks = ((chunk, _block(entry, chunk, files[chunk.file], folder)) for chunk in entry.chunks)
    if len(entry.chunks) == 1:
        return next(block for _, block in blocks)
    whole = torch.zeros(entry.shape, dtype=entry.dtype)
    written = torch.zeros(entry.shape, dtype=torch.bool)
    for chunk, block in blocks:
        where = tuple(slice(o, o + size) for o, size in zip(chunk.offsets, chunk.sizes, strict=True))
        whole[where] = block
        written[where] = True
    if not written.all():  # as many elements as the tensor has, so that some were there twice
        raise _unsound(folder, f"blocks of '{escaped(entry.name)}' lie on each other")
    return whole


def _block(entry: _Entry, chunk: _Chunk, path: Path, folder: Path) -> Tensor:
    try:
        with path.open("rb") as file:
            _check_item(FilePart(file, chunk.start, chunk.length), chunk.length)
            part = FilePart(file, chunk.start, chunk.length)
            block = torch.load(part, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # the reader of zip archives and torch's raise whatever they like
        raise _unsound(folder, f"'{escaped(entry.name)}' in '{escaped(path.name)}': {reason_of(error)}") from error
    if (
        not isinstance(block, Tensor)
        or block.layout is not torch.strided
        or tuple(block.shape) != chunk.sizes
        or block.dtype != entry.dtype
    ):
        raise _unsound(folder, f"'{escaped(path.name)}' does not hold the block of '{escaped(entry.name)}' it should")
    return block.detach()


def _check_item(part: FilePart, length: int) -> None:
    """Refuse an archive whose entries unpack to more than they are."""
    with zipfile.ZipFile(part) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise pickle.UnpicklingError("an archive with compressed entries")
    if sum(entry.file_size for entry in entries) > length:
        raise pickle.UnpicklingError("an archive whose entries claim more than it holds")


def _is_record(found: Any, name: str) -> bool:
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
        raise _unsound(folder, f"a shape in its {METADATA} is none")
    return sizes


def _is_size(found: object) -> bool:
    return type(found) is int and 0 <= found < 2**63


def _dtype(name: Name) -> torch.dtype | None:
    found = vars(torch).get(name.name) if name.module == "torch" else None
    return found if isinstance(found, torch.dtype) else None


def _dtype_of(folder: Path, name: str, properties: Any) -> torch.dtype:
    """The type of a tensor: the first of the values that TensorProperties are pickled as."""
    state = properties.state if _is_record(properties, "TensorProperties") else None
    values: Iterator[Any] = iter(state if isinstance(state, tuple) else ())
    first = next(values, None)
    dtype = _dtype(first) if isinstance(first, Name) else None
    if dtype is None:
        raise _unsound(folder, f"the type of '{escaped(name)}' is none of torch's")
    return dtype


def _unsound(folder: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{escaped(folder)}: not a sound distributed checkpoint: {problem}",
        "a whole folder as torch.distributed.checkpoint.save writes it",
        "copy it again, with all files of all processes, or save it anew",
    )

"""A folder that `torch.distributed.checkpoint` wrote, read in one process and without unpickling its `.metadata`."""

from __future__ import annotations

import contextlib
import math
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from prelu_doctor.checkpoints.contents import Contents, weights_or_module
from prelu_doctor.checkpoints.distributed_metadata import (
    LONGEST,
    METADATA,
    Chunk,
    Description,
    Entry,
    description,
    unsound,
)
from prelu_doctor.checkpoints.file_part import FilePart
from prelu_doctor.checkpoints.folders import file_in_folder, text_in_folder
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, reason_of
from prelu_doctor.untrusted.opened_files import HashedFile, opened
from prelu_doctor.untrusted.torch_saves import Advice, surveyed

_ADVICE = Advice(CheckpointError, "blocks as torch.distributed.checkpoint writes them", "save it anew")


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
    content, described = text_in_folder(folder, METADATA, LONGEST)
    found = description(folder, content)
    names = sorted({chunk.file for entry in found.entries for chunk in entry.chunks})
    paths = {name: file_in_folder(folder, name, named_by=folder / METADATA) for name in names}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(opened(path, error=CheckpointError)) for name, path in paths.items()}
        state, note = _weights(folder, found, {name: file.path for name, file in files.items()}, reading)
        parts = (described, *(HashedFile(paths[name], file.sha256) for name, file in files.items()))
    return Contents(state=state, note=note, parts=parts)


def _weights(
    folder: Path, found: Description, files: Mapping[str, Path], reading: Reading
) -> tuple[dict[str, Tensor], str]:
    """The weights, and a note of where they stood and what was left out."""
    entries = found.entries
    _check_claims(folder, entries, files)
    # Their numbers stand for the entries until it is known which of them are the weights.
    numbers = {entry.name: torch.tensor(number) for number, entry in enumerate(entries)}
    chosen = weights_or_module(_nested(numbers, found.paths), folder, reading)
    assert chosen.state is not None
    state = {name: _read(entries[int(number)], files, folder) for name, number in chosen.state.items()}
    notes = (chosen.note, f"{found.others} entries that are no tensors left out" if found.others else "")
    return state, ", ".join(note for note in notes if note)


def _check_claims(folder: Path, entries: Sequence[Entry], files: Mapping[str, Path]) -> None:
    """No block is larger than its part of a file, and all of them not than all files: what is claimed can be there."""
    ends = {name: path.stat().st_size for name, path in files.items()}
    claimed = 0
    for entry in entries:
        for chunk in entry.chunks:
            needed = math.prod(chunk.sizes) * entry.dtype.itemsize
            claimed += needed
            if chunk.start + chunk.length > ends[chunk.file] or needed > chunk.length:
                raise unsound(folder, f"'{escaped(entry.name)}' claims more than '{escaped(chunk.file)}' holds")
    if claimed > sum(ends.values()):
        raise unsound(folder, f"its tensors claim {claimed} bytes, and its files hold {sum(ends.values())}")


def _check_shape(folder: Path, entry: Entry) -> None:
    try:
        torch.empty(entry.shape, dtype=entry.dtype, device="meta")
    except RuntimeError as error:  # a shape with a 0 in it may still be too large
        raise unsound(folder, f"'{escaped(entry.name)}': {reason_of(error)}") from error


def _nested(tensors: Mapping[str, Tensor], paths: Mapping[str, tuple[str | int, ...]]) -> dict[Any, Any]:
    """The tensors in the nested dictionaries in which they were saved, as far as that is written down."""
    nested: dict[Any, Any] = {}
    for name, tensor in tensors.items():
        steps = paths.get(name, (name,))
        within = nested
        for step in steps[:-1]:
            within = within.setdefault(step, {})
            if not isinstance(within, dict):
                return dict(tensors)
        if steps[-1] in within:  # two names that cannot both have been saved under these keys
            return dict(tensors)
        within[steps[-1]] = tensor
    return nested


def _read(entry: Entry, files: Mapping[str, Path], folder: Path) -> Tensor:
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
        raise unsound(folder, f"blocks of '{escaped(entry.name)}' lie on each other")
    return whole


def _block(entry: Entry, chunk: Chunk, path: Path, folder: Path) -> Tensor:
    try:
        with path.open("rb") as file:
            _check_item(FilePart(file, chunk.start, chunk.length), chunk.length)
            surveyed(cast(BinaryIO, FilePart(file, chunk.start, chunk.length)), path, zipped=True, advice=_ADVICE)
            part = FilePart(file, chunk.start, chunk.length)
            block = torch.load(cast(BinaryIO, part), map_location="cpu", weights_only=True)
    except CheckpointError as error:
        reason = error.found.removeprefix(f"{escaped(path)}: ")
        raise unsound(folder, f"'{escaped(entry.name)}' in '{escaped(chunk.file)}': {reason}") from error
    except Exception as error:  # the reader of zip archives and torch's raise whatever they like
        raise unsound(folder, f"'{escaped(entry.name)}' in '{escaped(chunk.file)}': {reason_of(error)}") from error
    if (
        not isinstance(block, Tensor)
        or block.layout is not torch.strided
        or tuple(block.shape) != chunk.sizes
        or block.dtype != entry.dtype
    ):
        raise unsound(folder, f"'{escaped(chunk.file)}' does not hold the block of '{escaped(entry.name)}' it should")
    return block.detach()


def _check_item(part: FilePart, length: int) -> None:
    """Refuse an archive whose entries unpack to more than they are."""
    with zipfile.ZipFile(part) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise pickle.UnpicklingError("an archive with compressed entries")
    if sum(entry.file_size for entry in entries) > length:
        raise pickle.UnpicklingError("an archive whose entries claim more than it holds")

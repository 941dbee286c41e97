"""Tensors whose memory is a mapped file: copied piece by piece, so that the pages read do not add up."""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_PIECE = 2**23  # bytes
_ALIGNMENT = 64
_MAPS = Path("/proc/self/maps")


class MappedFiles:
    """The files that are mapped into this process now; empty where the system does not tell."""

    def __init__(self) -> None:
        lines = _MAPS.read_text().splitlines() if _MAPS.exists() else []
        fields = [line.split(maxsplit=5) for line in lines]
        # Inode 0 is memory of no file; "p" is private: nothing that is written there reaches the file.
        ranges = [field[0].split("-") for field in fields if field[1].endswith("p") and field[4] != "0"]
        self._ranges = sorted((int(start, 16), int(end, 16)) for start, end in ranges)

    def let_go(self, tensor: Tensor) -> None:
        """Give the pages of a tensor back, if they are a file's: they are read again should anybody look.

        Args:
            tensor: Contiguous. Its values must be the file's: what was written to it since is lost.
        """
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start and self._hold(start, end):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)

    def _hold(self, start: int, end: int) -> bool:
        place = bisect_right(self._ranges, (start, 2**64)) - 1
        return place >= 0 and end <= self._ranges[place][1]


def copy_into(target: Tensor, source: Tensor, files: MappedFiles) -> None:
    """The values of one tensor in the place of another's, which may be of another type.

    Args:
        target: Changed in place; of the same shape.
        source: As it was read, and not changed.
        files: What is mapped: pages that were read are given back.
    """
    with torch.no_grad():
        if not (target.is_contiguous() and source.is_contiguous()) or target.numel() == 0:
            target.copy_(source)
            return
        step = _PIECE // source.element_size()
        for own, read in zip(target.view(-1).split(step), source.view(-1).split(step), strict=True):
            own.copy_(read)
            files.let_go(read)


def aligned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, in memory of their own where theirs is not aligned as torch's is.

    Tensors in a safetensors file begin wherever its header ends, and matrix products of misaligned weights come out
    differently in their last bits: a copy of the model would not be equal to the model.

    Args:
        state: As it was read, and not changed. Names of one tensor get one copy.
    """
    files = MappedFiles()
    copies: dict[tuple[object, ...], Tensor] = {}

    def own(tensor: Tensor) -> Tensor:
        if tensor.layout is not torch.strided or not tensor.is_contiguous() or tensor.data_ptr() % _ALIGNMENT == 0:
            return tensor
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape)
        if key not in copies:
            copies[key] = torch.empty_like(tensor, requires_grad=False)
            copy_into(copies[key], tensor.detach(), files)
        return copies[key]

    return {name: own(tensor) for name, tensor in state.items()}

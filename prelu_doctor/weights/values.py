"""One pass over one tensor: what is not finite, and which of its slices are all zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_BLOCK = 2**20
"""Elements that are looked at together, so that the temporaries of a pass stay small."""

_Start = tuple[int, int]


@dataclass
class Values:
    """What a tensor holds.

    Attributes:
        nan: Elements that are NaN; of a complex tensor its real and imaginary parts are counted.
        positive_infinite: Elements that are +inf.
        negative_infinite: Elements that are -inf.
        zeros: Elements that are 0.
        rows: [O] True where the slice at this place of axis 0 holds anything but 0; empty for less than two axes.
        columns: [I] Likewise for axis 1.
    """

    nan: int
    positive_infinite: int
    negative_infinite: int
    zeros: int
    rows: Tensor
    columns: Tensor

    @property
    def infinite(self) -> int:
        """Elements that are infinite, of either sign."""
        return self.positive_infinite + self.negative_infinite


def values_of(tensor: Tensor) -> Values:
    """The values of a dense floating or complex tensor, counted block by block.

    Args:
        tensor: Of any shape and layout in memory; not changed.

    Raises:
        RuntimeError: torch cannot compute with this type.
    """
    parts = torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()
    outputs, inputs = tensor.shape[:2] if tensor.ndim >= 2 else (0, 0)
    values = Values(0, 0, 0, 0, torch.zeros(outputs, dtype=torch.bool), torch.zeros(inputs, dtype=torch.bool))
    with torch.inference_mode():
        for start, block in _blocks(parts):
            _count(values, start, block.float() if block.element_size() == 1 else block)
    return values


def _blocks(tensor: Tensor, start: _Start = (0, 0), axis: int = 0) -> Iterator[tuple[_Start, Tensor]]:
    """Parts of at most `LARGEST_BLOCK` elements that make up the tensor, each with where it starts on axes 0 and 1."""
    if tensor.numel() <= LARGEST_BLOCK:
        yield start, tensor
        return
    size = tensor.shape[axis]
    step = max(LARGEST_BLOCK * size // tensor.numel(), 1)
    for first in range(0, size, step):
        at = (first, 0) if axis == 0 else (start[0], first) if axis == 1 else start
        yield from _blocks(tensor.narrow(axis, first, min(step, size - first)), at, axis + 1)


def _count(values: Values, start: _Start, block: Tensor) -> None:
    # The usual block is finite and holds no zero: two fast reductions tell that. A sum may also overflow, which the
    # exact counts then find harmless.
    if not _sum_is_finite(block):
        values.nan += int(block.isnan().sum())
        values.positive_infinite += int(block.isposinf().sum())
        values.negative_infinite += int(block.isneginf().sum())
    zeros = block.numel() - int(block.count_nonzero())
    values.zeros += zeros
    if not len(values.rows) or not block.numel():
        return
    at_rows = slice(start[0], start[0] + block.shape[0])
    at_columns = slice(start[1], start[1] + block.shape[1])
    if not zeros:
        values.rows[at_rows] = True
        values.columns[at_columns] = True
        return
    held = (block != 0).reshape(*block.shape[:2], -1).any(-1)
    values.rows[at_rows] |= held.any(1)
    values.columns[at_columns] |= held.any(0)


def _sum_is_finite(block: Tensor) -> bool:
    wide = torch.float64 if block.dtype == torch.float64 else torch.float32
    return bool(torch.isfinite(block.sum(dtype=wide)))

"""What a tensor holds, counted by plain Python, one number at a time."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def numbers_at(tensor: Tensor, axis: int, index: int) -> list[complex]:
    """Every number of one slice."""
    return tensor.select(axis, index).to(torch.complex128).flatten().tolist()


def slow_counts(tensor: Tensor) -> tuple[int, int, int]:
    """How many NaN, +inf and -inf there are."""
    numbers = tensor.double().flatten().tolist()
    return (
        sum(math.isnan(number) for number in numbers),
        sum(number == math.inf for number in numbers),
        sum(number == -math.inf for number in numbers),
    )


def slow_held(tensor: Tensor, axis: int) -> list[bool]:
    """For each slice along an axis, whether anything but 0 is in it."""
    return [any(number != 0 for number in numbers_at(tensor, axis, index)) for index in range(tensor.shape[axis])]


def places(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every place of a tensor of this shape."""
    return list(itertools.product(*(range(size) for size in shape)))

"""A sum of floating-point numbers that does not depend on their order."""

from __future__ import annotations

import torch
from torch import Tensor


class ExactSum:
    """Sums float64 vectors so that batches, shards and ranks add up to the same bits in any order.

    Every addend is cut into multiples of fixed powers of two (2^-120, 2^-80, ..., 2^120), and each of these digits is
    summed in integers, which are associative. What lies below 2^-120 is dropped the same way every time; above 2^160
    a digit overflows int64 after 2^23 addends or more.

    Args:
        width: Number of components C.
    """

    _STEP = 40
    _EXPONENTS = range(120, -121, -_STEP)

    def __init__(self, width: int) -> None:
        self._digits = torch.zeros(len(self._EXPONENTS), width, dtype=torch.int64)

    def add(self, addends: Tensor) -> None:
        """Adds vectors.

        Args:
            addends: Finite float64 values `[N, C]`.
        """
        rest = addends.to(torch.float64).cpu()
        for row, exponent in enumerate(self._EXPONENTS):
            scaled = torch.ldexp(rest, torch.tensor(-exponent)).trunc()
            self._digits[row] += scaled.to(torch.int64).sum(0)
            rest = rest - torch.ldexp(scaled, torch.tensor(exponent))

    def merge(self, other: ExactSum) -> None:
        """Adds what another one has summed."""
        self._digits += other._digits

    def value(self) -> Tensor:
        """The sum, float64 `[C]`."""
        weights = torch.tensor([2.0**exponent for exponent in self._EXPONENTS], dtype=torch.float64)
        return (self._digits.to(torch.float64) * weights[:, None]).flip(0).sum(0)

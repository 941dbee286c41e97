"""A sum of floating-point numbers that does not depend on their order."""

from __future__ import annotations

import torch
from torch import Tensor


class ExactSum:
    """Sums float64 vectors so that batches, shards and ranks add up to the same bits in any order.

    Every addend is cut into multiples of fixed powers of two (2^-120, 2^-80, ..., 2^120), and each of these digits is
    summed in integers, which are associative. What lies below 2^-120 is dropped the same way every time. Digits that
    grow are carried upwards, so that only sums beyond 2^183 overflow.

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
            addends: Finite float64 values `[N, C]`, at most 2^23 rows.
        """
        rest = addends.to(torch.float64).cpu()
        for row, exponent in enumerate(self._EXPONENTS):
            scaled = torch.ldexp(rest, torch.tensor(-exponent)).trunc()
            self._digits[row] += scaled.to(torch.int64).sum(0)
            rest = rest - torch.ldexp(scaled, torch.tensor(exponent))
        self._carry()

    def merge(self, other: ExactSum) -> None:
        """Adds what another one has summed."""
        self._digits += other._digits
        self._carry()

    def value(self) -> Tensor:
        """The sum, float64 `[C]`, correctly rounded."""
        floor = self._EXPONENTS[-1]
        totals = [
            sum(digit << (exponent - floor) for digit, exponent in zip(column, self._EXPONENTS, strict=True))
            for column in self._digits.t().tolist()
        ]
        return torch.tensor([total / 2**-floor for total in totals], dtype=torch.float64)

    def _carry(self) -> None:
        """Keeps every digit but the highest within 0..2^40 - 1; the sum stays what it is."""
        for row in range(len(self._EXPONENTS) - 1, 0, -1):
            carried = self._digits[row] >> self._STEP
            self._digits[row] -= carried << self._STEP
            self._digits[row - 1] += carried

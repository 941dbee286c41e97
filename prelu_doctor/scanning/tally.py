"""Streaming counts of one site: O(units) of state, whatever the number of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from prelu_doctor.records import Function
from prelu_doctor.scanning.exact_sum import ExactSum
from prelu_doctor.sites.activations import RECTIFIERS


class Tally:
    """Counts on which samples each unit fires.

    fires: the derivative is not 0 at one position at least (x > 0; 0 < x < 6 for ReLU6; for others x > 0).
    Counts are integers and magnitudes an exact sum, so that tallies merge in any order to the same bits.

    Args:
        units: Number of units C.
        function: The rectifier, which tells where its derivative is 0.
    """

    def __init__(self, units: int, function: Function) -> None:
        self.function = function
        self.samples = 0
        self.positions = 0
        self.fired = torch.zeros(units, dtype=torch.int64)
        self.positive = torch.zeros(units, dtype=torch.int64)
        self.magnitude = ExactSum(units)
        self.saw_nan = False
        self.saw_negative_infinity = False
        self._pending: Tensor | None = None

    def look(self, active: Tensor, output: Tensor) -> None:
        """Looks at one call of the site.

        Several calls in one forward (a loop, a Siamese encoder) make one verdict a sample: it fires if any call does.

        Args:
            active: `[N, C, P]`, positive exactly where the activation's derivative is that of its positive side.
            output: `[N, C, P]` outputs of the activation.
        """
        if active.shape[2] == 0:
            return
        peak = active.amax(2)
        if peak.is_floating_point() and bool(peak.isnan().any()):
            peak = active.nan_to_num(nan=0.0).amax(2)
        size = output if self.function in RECTIFIERS else output.abs()
        self.add(
            fired=peak > 0,
            positive=_counted(active),
            positions=active.shape[0] * active.shape[2],
            magnitude=size.sum(2, dtype=torch.float64 if output.dtype == torch.float64 else torch.float32),
        )

    def add(self, *, fired: Tensor, positive: Tensor, positions: int, magnitude: Tensor) -> None:
        """Counts one call of the site that somebody else has looked at.

        Args:
            fired: `[N, C]` booleans: the unit fires on the sample.
            positive: int64 `[C]`: positions of all samples at which it does.
            positions: Positions of all samples.
            magnitude: `[N, C]`: sums of |h| over the positions of a sample; NaN where one of them was.
        """
        if self._pending is not None and self._pending.shape != fired.shape:
            self.commit()
        self._pending = fired if self._pending is None else self._pending | fired
        self.positive += positive
        self.positions += positions
        self.saw_nan |= bool(magnitude.isnan().any())
        self.magnitude.add(torch.nan_to_num(magnitude.double(), nan=0.0, posinf=0.0, neginf=0.0))

    def commit(self) -> None:
        """Ends a forward: the samples looked at since the last one are counted."""
        if self._pending is None:
            return
        self.fired += self._pending.sum(0).cpu()
        self.samples += self._pending.shape[0]
        self._pending = None

    def merge(self, other: Tally) -> None:
        """Adds the counts of other samples."""
        self.samples += other.samples
        self.positions += other.positions
        self.fired += other.fired
        self.positive += other.positive
        self.magnitude.merge(other.magnitude)
        self.saw_nan |= other.saw_nan
        self.saw_negative_infinity |= other.saw_negative_infinity

    def sokar_scores(self) -> Tensor:
        """E|h_i| / mean_k E|h_k| of every unit, float64 `[C]`; 0 for all where the whole site is silent.

        Source: Sokar et al. 2023, The Dormant Neuron Phenomenon, eq. 1.
        """
        means = self.magnitude.value() / max(self.positions, 1)
        overall = means.mean()
        return means / overall if overall > 0 else torch.zeros_like(means)


def _counted(active: Tensor) -> Tensor:
    """How many positions of each unit are active, int64 `[C]`; exact, because no float32 sum reaches 2^24.

    `sign().sum()` reads memory several times faster on a CPU than `(x > 0).sum()`.
    """
    if active.dtype == torch.bool:
        return active.sum((0, 2)).cpu()
    positions = active.shape[2]
    if positions >= 2**24:
        return (active > 0).sum((0, 2)).cpu()
    return active.sign().sum(2, dtype=torch.float32).sum(0, dtype=torch.float64).to(torch.int64).cpu()

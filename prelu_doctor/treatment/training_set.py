"""The samples of a fine-tune: drawn in a seeded order, a part held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from prelu_doctor.data.batches import Batch, Dataset, joined
from prelu_doctor.data.fixed_batches import filled
from prelu_doctor.errors import DataError

HELD_OUT_SHARE = 0.2
"""Share of the samples held out where the data names no held-out part."""


class TrainingSet:
    """Training and held-out samples, in memory.

    Args:
        dataset: The sample data. Where it has no held-out part, a seeded fifth of it is held out.
        seed: Seed of the split and of the order of every epoch.

    Attributes:
        held_out: The batches that no step sees.
        batch_size: Samples a step.

    Raises:
        DataError: The batches differ in shape, so that their samples cannot be drawn anew.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        scanned = list(dataset.scanned())
        self._generator = torch.Generator().manual_seed(seed)
        self.batch_size = max(batch.size for batch in scanned)
        self._only_size = scanned[0].only_size
        if dataset.held_out is not None:
            self._whole, self.held_out = _joined(scanned), list(dataset.held_out())
            self._start = self._generator.get_state()
            return
        whole = _joined(scanned)
        order = torch.randperm(whole.size, generator=self._generator)
        kept = whole.size - max(1, int(whole.size * HELD_OUT_SHARE)) if whole.size > 1 else 1
        self._whole = whole.take(order[:kept])
        self.held_out = list(self._cut(whole.take(order[kept:])))
        self._start = self._generator.get_state()

    @property
    def all(self) -> list[Batch]:
        """Every batch that a fine-tune will see; the held-out ones first, the others together."""
        return [*self.held_out, self._whole]

    @property
    def batches_an_epoch(self) -> int:
        """Steps that see every training sample once."""
        return -(-self._whole.size // self.batch_size)

    def rewind(self) -> None:
        """The next epoch is the first one again."""
        self._generator.set_state(self._start)

    def epoch(self) -> Iterator[Batch]:
        """All training samples in a new order, but for a last batch of one: batch norm cannot train on it."""
        order = torch.randperm(self._whole.size, generator=self._generator)
        for batch in self._cut(self._whole.take(order)):
            if batch.size > 1 or self.batches_an_epoch == self._whole.size:
                yield batch

    def _cut(self, whole: Batch) -> Iterator[Batch]:
        """Batches of these samples; full ones alone, and one at least, where the model takes no others."""
        for start in range(0, whole.size, self.batch_size):
            batch = whole.take(slice(start, start + self.batch_size))
            if not self._only_size or batch.size == self.batch_size:
                yield batch
            elif not start:
                yield filled(batch, self.batch_size)


def _joined(batches: Sequence[Batch]) -> Batch:
    try:
        return joined(batches)
    except ValueError as error:
        raise DataError(
            "the batches hold samples of different shapes", "samples of one shape, to train on", "use --steps 0"
        ) from error

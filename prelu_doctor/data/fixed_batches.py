"""Batches of the one size that a model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.data.intake import Intake


def in_the_only_size(dataset: Dataset, intake: Intake) -> Dataset:
    """The data set in batches of the one size that the model takes; as it is where the model takes any."""
    size = intake.only_size
    if size is None:
        return dataset
    return replace(
        dataset,
        scanned=_cut(dataset.scanned, size),
        held_out=None if dataset.held_out is None else _cut(dataset.held_out, size),
        contents=f"{dataset.contents}, in batches of {size}, which the model's file asks for".removeprefix(", "),
    )


def _cut(batches: Callable[[], Iterator[Batch]], size: int) -> Callable[[], Iterator[Batch]]:
    def cut() -> Iterator[Batch]:
        for batch in batches():
            if batch.whole:
                yield batch
                continue
            for start in range(0, batch.size, size):
                yield filled(batch.take(slice(start, start + size)), size)

    return cut


def filled(batch: Batch, size: int) -> Batch:
    """A batch of exactly this size: its last sample is repeated, and the repetitions are not counted.

    Args:
        batch: At most so many samples.
        size: The only size that the model takes.
    """
    padding = size - batch.size
    rows = torch.arange(size).clamp(max=batch.size - 1)
    return replace(batch.take(rows) if padding else batch, only_size=True, padding=padding)

"""A batch of samples as a model's forward takes it, and the data set that yields them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prelu_doctor.errors import DataError


@dataclass(frozen=True)
class Batch:
    """Inputs of one forward call, with the batch along axis 0 of every tensor.

    Attributes:
        args: Positional inputs, each `[N, ...]`.
        kwargs: Keyword inputs, each `[N, ...]`.
        target: Labels `[N]` (class indices) or values `[N, ...]`; None where there are none.
    """

    args: tuple[Tensor, ...] = ()
    kwargs: Mapping[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of samples N."""
        return next(iter((*self.args, *self.kwargs.values()))).shape[0]

    def run(self, model: Callable[..., Any]) -> Any:
        """The model's output on this batch."""
        return model(*self.args, **self.kwargs)

    def take(self, rows: slice | Tensor) -> Batch:
        """The batch of these samples alone."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def clone(self) -> Batch:
        """A copy that a forward working in place may overwrite."""
        return self._map(Tensor.clone)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            args=tuple(change(tensor) for tensor in self.args),
            kwargs={name: change(tensor) for name, tensor in self.kwargs.items()},
            target=None if self.target is None else change(self.target),
        )


@dataclass(frozen=True)
class Dataset:
    """The sample data of one run; every iteration starts anew and yields the same batches.

    Attributes:
        source: The data spec, as the user typed it; what the report calls the data.
        synthetic: True for seeded Gaussian noise.
        seed: Seed of whatever was drawn.
        scanned: Called for a fresh iterator over the batches to scan and to train on.
        held_out: Likewise for the held-out part; None where there is none.
        contents: Names, number and shapes of what was found there; may be empty.
    """

    source: str
    synthetic: bool
    seed: int
    scanned: Callable[[], Iterator[Batch]]
    held_out: Callable[[], Iterator[Batch]] | None = None
    contents: str = ""

    def first(self) -> Batch:
        """The first batch to scan.

        Raises:
            DataError: There is none.
        """
        first = next(self.scanned(), None)
        if first is None:
            raise DataError(f"{self.source}: no samples", "at least one sample", "check --data and --max-samples")
        return first

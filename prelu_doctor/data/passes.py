"""Passes over somebody's own batches: every one the same, and whole calls answered where an answer is waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from prelu_doctor.data.batch_forms import batch_from
from prelu_doctor.data.batches import Batch
from prelu_doctor.data.intake import Intake
from prelu_doctor.data.randomness import OwnRandomness
from prelu_doctor.data.shapes import check_lengths, check_shapes

_END = object()


@dataclass(frozen=True)
class Source:
    """Where batches come from, pass after pass.

    Attributes:
        opened: Gives what a pass iterates over.
        name: For messages.
        seed: Of the random generators of torch, NumPy and Python, which are seeded for each pass and put back between
            its steps.
        guard: Entered whenever the source's code runs.
    """

    opened: Callable[[], Iterable[Any]]
    name: str
    seed: int
    guard: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext

    def batches(
        self, intake: Intake, input_shapes: Sequence[tuple[int, ...]] = (), max_samples: int | None = None
    ) -> Iterator[Batch]:
        """One pass over the batches, in the form that the model takes.

        A generator that yields whole calls may wait for what the model makes of each (`output = yield call`), as a
        stream does that carries a recurrent state: it gets the first output of the call, and None where nobody has run
        it.

        Args:
            intake: What the model takes.
            input_shapes: That the samples must have; none: anything.
            max_samples: After so many the pass ends; a whole call is not cut.
        """
        left = max_samples
        for item, answer in self._items():
            batch = batch_from(item, intake.signature, self.name)
            check_lengths(batch, self.name)
            check_shapes(batch, input_shapes, self.name)
            batch = replace(batch, answer=answer) if batch.whole else batch.take(slice(left))
            batch = intake.fitted(batch, self.name)
            yield batch
            left = None if left is None else left - batch.size
            if left is not None and left <= 0:
                return

    def _items(self) -> Iterator[tuple[Any, _Answer]]:
        randomness = OwnRandomness(self.seed)
        answer = _Answer()
        with randomness.active(), self.guard():
            iterator = iter(self.opened())
        while True:
            # Entered anew for each step: between two steps the random state and sys.path are the caller's.
            with randomness.active(), self.guard():
                item = _step(iterator, answer.output)
            if item is _END:
                return
            answer = _Answer()
            yield item, answer


def _step(iterator: Iterator[Any], output: Any) -> Any:
    try:
        return next(iterator) if output is None or not hasattr(iterator, "send") else iterator.send(output)
    except StopIteration:
        return _END


class _Answer:
    """Keeps what the model makes of a call: its first output, in tensors that the generator may do anything with."""

    output: Any = None

    def __call__(self, output: Any) -> None:
        if self.output is not None:
            return
        with torch.inference_mode(False), torch.no_grad():
            self.output = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), output)

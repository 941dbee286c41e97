"""A batch of samples as a model's forward takes it, and the data set that yields them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from prelu_doctor.errors import DataError


@dataclass(frozen=True)
class Batch:
    """Inputs of one forward call: tensors and plain values, in tuples, lists and dictionaries nested as they come.

    As a rule the batch lies along axis 0 of every tensor, and samples can be taken from it. A *whole call* (`samples`
    is given) is run exactly as it is: its tensors may hold their samples anywhere, as a recurrent state `[2, N, H]`
    does.

    Attributes:
        args: Positional inputs, tensors `[N, ...]` or trees of them.
        kwargs: Keyword inputs likewise.
        target: Labels `[N]` (class indices) or values `[N, ...]`; None where there are none.
        samples: Number of samples N of a whole call; None where axis 0 of every tensor is the batch.
        only_size: True where the model takes batches of this size alone.
        padding: How many samples at the end repeat the one before them, to fill such a batch; they are not counted.
        answer: Takes the model's output on a whole call back to whoever yielded it.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    target: Tensor | None = None
    samples: int | None = None
    only_size: bool = False
    padding: int = 0
    answer: Callable[[Any], None] | None = None

    @property
    def size(self) -> int:
        """Number of samples N, padding included."""
        return self.tensors()[0].shape[0] if self.samples is None else self.samples

    @property
    def counted(self) -> int:
        """Number of samples without the padding."""
        return self.size - self.padding

    @property
    def whole(self) -> bool:
        """True for a whole call, which cannot be taken apart."""
        return self.samples is not None

    @property
    def resizable(self) -> bool:
        """True where the same forward may be run on fewer or more samples."""
        return not (self.whole or self.only_size)

    def tensors(self) -> list[Tensor]:
        """The tensors among the inputs, in the order of the arguments."""
        return [leaf for leaf in self._leaves() if isinstance(leaf, Tensor)]

    def run(self, model: Callable[..., Any]) -> Any:
        """The model's output on this batch; whoever yielded a whole call is told it."""
        output = self.call(model)
        self.tell(output)
        return output

    def call(self, model: Callable[..., Any]) -> Any:
        """The model's output, told to nobody."""
        return model(*self.args, **self.kwargs)

    def tell(self, output: Any) -> None:
        """Sends the model's output back to whoever yielded this call, if they wait for one."""
        if self.answer is not None:
            self.answer(output)

    def take(self, rows: slice | Tensor) -> Batch:
        """The batch of these samples alone.

        Raises:
            DataError: This is a whole call.
        """
        if self.whole:
            raise DataError(
                "a whole call, which is run as it is and not taken apart",
                "batches, with the samples along axis 0 of every tensor",
                "yield tensors instead of a Call, where every one of them has the batch on axis 0",
            )
        return replace(self.each(lambda tensor: tensor[rows]), padding=0)

    def few(self) -> Batch:
        """Samples 0 and 1, for a look at the model; the batch as it is where it cannot be made smaller.

        A single sample is doubled, because several models treat a batch of one apart.
        """
        if not self.resizable:
            return self
        return self.take(slice(0, 2)) if self.size > 1 else self.take(torch.tensor([0, 0]))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self.each(lambda tensor: tensor.to(device))

    def clone(self) -> Batch:
        """A copy that a forward working in place may overwrite."""
        return self.each(Tensor.clone)

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed, the target too."""
        return replace(self, **self._inputs(change), target=None if self.target is None else change(self.target))

    def inputs_changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every input tensor changed."""
        return replace(self, **self._inputs(change))

    def _inputs(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        args, kwargs = pytree.tree_map_only(Tensor, change, (tuple(self.args), dict(self.kwargs)))
        return {"args": args, "kwargs": kwargs}

    def _leaves(self) -> list[Any]:
        return pytree.tree_leaves((tuple(self.args), dict(self.kwargs)))


def joined(batches: Sequence[Batch]) -> Batch:
    """All their samples in one batch, without padding; labels only where every batch has some.

    Raises:
        DataError: One is a whole call.
        ValueError: They differ in structure, in a plain value, or in the shapes of their samples.
    """
    batches = [batch.take(slice(batch.counted)) if batch.padding or batch.whole else batch for batch in batches]
    trees = [(tuple(batch.args), dict(batch.kwargs)) for batch in batches]
    try:
        args, kwargs = pytree.tree_map(_together, *trees)
        targets = [batch.target for batch in batches if batch.target is not None]
        target = torch.cat(targets) if len(targets) == len(batches) else None
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return replace(batches[0], args=args, kwargs=kwargs, target=target)


def _together(first: Any, *others: Any) -> Any:
    if isinstance(first, Tensor):
        return torch.cat([first, *others])
    if any(other != first for other in others):
        raise ValueError(f"a plain value differs from batch to batch: {[first, *others][:3]}")
    return first


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

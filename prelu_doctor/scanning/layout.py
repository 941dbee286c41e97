"""Where the samples of a batch lie in a site's activation tensor."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import ForwardError
from prelu_doctor.records import Function
from prelu_doctor.sites.activations import RECOGNISED
from prelu_doctor.sites.find import FoundSite
from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.trace import trace

Prints = dict[tuple[str, ...], list[Tensor]]
"""By the path of an activation call, for each axis of its pre-activation `[length]` numbers, which move with it."""


@dataclass(frozen=True)
class Layout:
    """How to read samples from an activation tensor A.

    Attributes:
        axis: Axis of the samples, after unfolding.
        folded: `no`, or how samples and rows share axis 0: `sample-major` (the rows of a sample are neighbours, as
            after flattening `[N, T, C]`), `sample-minor` (as after flattening `[T, N, C]`).
        known: False where samples could not be told apart, so that rows are counted.
        lone: True where the call has one sample, to which everything belongs.
    """

    axis: int = 0
    folded: str = "no"
    known: bool = True
    lone: bool = False

    def arrange(self, tensor: Tensor, samples: int, unit_axis: int) -> Tensor | None:
        """The activation tensor as `[N, C, P]`.

        Args:
            tensor: The activation tensor.
            samples: Samples N in this batch.
            unit_axis: Its unit axis.

        Returns:
            A view or copy `[N, C, P]`, or None where the shape does not fit this layout.
        """
        if self.lone:
            return tensor.movedim(unit_axis, 0).reshape(1, tensor.shape[unit_axis], -1) if samples == 1 else None
        if self.folded != "no":
            if tensor.shape[0] % samples:
                return None
            rows = (samples, -1) if self.folded == "sample-major" else (-1, samples)
            tensor = tensor.unflatten(0, rows)
            unit_axis += 1
        if self.axis >= tensor.dim() or self.axis == unit_axis or tensor.shape[self.axis] != samples:
            return None
        return (
            tensor.movedim((self.axis, unit_axis), (0, 1)).flatten(2) if tensor.dim() > 2 else _pair(tensor, unit_axis)
        )


def rows_as_samples(tensor: Tensor, unit_axis: int) -> Tensor:
    """The activation tensor as `[rows, C, P]`: axis 0 counted as it is, or one row where axis 0 holds the units."""
    if unit_axis == 0:
        return tensor.flatten(1).unsqueeze(0) if tensor.dim() > 1 else tensor.reshape(1, -1, 1)
    return tensor.movedim(unit_axis, 1).flatten(2) if tensor.dim() > 2 else tensor.unsqueeze(-1)


def _pair(tensor: Tensor, unit_axis: int) -> Tensor:
    return (tensor if unit_axis == 1 else tensor.t()).unsqueeze(-1)


def find_layouts(
    model: nn.Module, batch: Batch, sites: list[FoundSite], functions: Collection[Function] = RECOGNISED
) -> dict[str, Layout]:
    """Tells where each site of a module holds its samples.

    Args:
        model: The traced model.
        batch: Two samples, or what the model takes.
        sites: Its sites, found on this batch.
        functions: What counts as an activation.

    Returns:
        A layout for every site id.
    """
    return layouts_told_by(lambda changed: _prints(model, changed, functions), batch, sites)


def layouts_told_by(prints_of: Callable[[Batch], Prints], batch: Batch, sites: list[FoundSite]) -> dict[str, Layout]:
    """Tells where each site holds its samples by changing one sample, then another, and looking at what moves.

    Where too little moves to tell, a third sample is added to two: the axis that grows is the samples'. A whole call
    of one sample holds nothing else; of several, its first tensor alone is changed, and where nothing moves, nothing
    is told.

    Args:
        prints_of: Runs a batch, and gives the fingerprint of every pre-activation along each of its axes.
        batch: Two samples, or what the model takes.
        sites: The sites, found on this batch.

    Returns:
        A layout for every site id.
    """
    if batch.size == 1:
        return {site.id: Layout(lone=True) for site in sites}
    original, first, second = (prints_of(changed) for changed in (batch, *_changed_samples(batch)))
    fitting = {
        site.id: _fitting(site, batch, *(prints.get(site.position.path) for prints in (original, first, second)))
        for site in sites
    }
    if batch.resizable and any(len(layouts) > 1 for layouts in fitting.values()):
        grown = _prints_of_three(prints_of, batch)
        for site in sites:
            path = site.position.path
            layouts = fitting[site.id]
            if len(layouts) > 1 and path in grown:
                fitting[site.id] = [layout for layout in layouts if _grows(layout, original[path], grown[path])]
    return {name: layouts[0] if len(layouts) == 1 else Layout(known=False) for name, layouts in fitting.items()}


def _prints_of_three(prints_of: Callable[[Batch], Prints], batch: Batch) -> Prints:
    try:
        return prints_of(batch.take(torch.tensor([0, 1, 0])))
    except ForwardError:  # a model may take batches of certain sizes only
        return {}


def _grows(layout: Layout, two: list[Tensor], three: list[Tensor]) -> bool:
    """True where of all axes the layout's alone has half as much again with three samples as with two."""
    axis = 0 if layout.folded != "no" else layout.axis
    expected = [len(one) * 3 // 2 if number == axis else len(one) for number, one in enumerate(two)]
    return expected == [len(one) for one in three]


def _changed_samples(batch: Batch) -> tuple[Batch, Batch]:
    """The batch with another sample 0, and with another sample 1.

    Each of the two is replaced by the other one, which is valid input; where both are the same, it is reversed along
    its last axis.
    """
    first, second = (_changed(batch, sample, _exchanged) for sample in (0, 1))
    pairs = zip(batch.tensors(), first.tensors(), strict=True)
    if not all(torch.equal(before, after) for before, after in pairs):
        return first, second
    return _changed(batch, 0, _reversed), _changed(batch, 1, _reversed)


def _changed(batch: Batch, sample: int, change: Callable[[Tensor, int], Tensor]) -> Batch:
    """The batch with one sample changed; of a whole call, in its first tensor if that holds the samples on axis 0.

    Axis 0 of another tensor may be as long by chance: that of the state of two layers, with two samples.
    """
    candidates = batch.tensors()[:1] if batch.whole else batch.tensors()
    chosen = [tensor for tensor in candidates if tensor.shape[:1] == (batch.size,)]

    def changed(tensor: Tensor) -> Tensor:
        if not any(tensor is each for each in chosen):
            return tensor
        copy = tensor.clone()
        copy[sample] = change(tensor, sample)
        return copy

    return batch.inputs_changed(changed)


def _exchanged(tensor: Tensor, sample: int) -> Tensor:
    return tensor[1 - sample]


def _reversed(tensor: Tensor, sample: int) -> Tensor:
    return tensor[sample].flip(-1) if tensor.dim() > 1 else tensor[sample]


def _prints(model: nn.Module, batch: Batch, functions: Collection[Function]) -> Prints:
    prints = _Fingerprints()
    trace(model, batch, prints, functions)
    return prints.seen


class _Fingerprints:
    """A fingerprint of every pre-activation: its values summed along each axis but one."""

    ops: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.seen: Prints = {}

    def before(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        assert call.position is not None
        wide = tensor.detach().double()
        weights = torch.linspace(1, 2, wide.numel(), dtype=torch.float64, device=wide.device)
        weighted = wide * weights.reshape(wide.shape)
        self.seen[call.position.path] = [_along(weighted, axis).cpu() for axis in range(wide.dim())]

    def after(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        pass


def _along(tensor: Tensor, axis: int) -> Tensor:
    return tensor.sum([other for other in range(tensor.dim()) if other != axis]) if tensor.dim() > 1 else tensor


def _fitting(
    site: FoundSite,
    batch: Batch,
    before: list[Tensor] | None,
    first: list[Tensor] | None,
    second: list[Tensor] | None,
) -> list[Layout]:
    """The layouts that fit what moved."""
    if site.input_independent or before is None or first is None or second is None:
        return []
    if not len(before) == len(first) == len(second):
        return []
    moved = [(_moved(old, one), _moved(old, two)) for old, one, two in zip(before, first, second, strict=True)]
    if batch.whole and not all(bool(change.any()) for change in moved[0]):
        return []  # an axis of length N may be anything, where no sample is seen to lie on it
    lengths = [len(one) for one, _ in moved]
    return [layout for layout in _candidates(site, lengths, batch.size) if _fits(layout, moved, batch.size)]


def _candidates(site: FoundSite, lengths: list[int], samples: int) -> list[Layout]:
    """Every place where so many samples may lie in a tensor with these axis lengths."""
    plain = [Layout(axis=axis) for axis, length in enumerate(lengths) if length == samples and axis != site.unit_axis]
    if site.unit_axis == 0 or lengths[0] % samples or lengths[0] == samples:
        return plain
    return [*plain, Layout(folded="sample-major"), Layout(axis=1, folded="sample-minor")]


def _fits(layout: Layout, moved: list[tuple[Tensor, Tensor]], samples: int) -> bool:
    """True where changing a sample moved nothing outside its own place."""
    changes = moved[layout.axis if layout.folded == "no" else 0]
    if len(changes[0]) != len(changes[1]):
        return False
    return not any(bool(_of_others(layout, change, samples, own).any()) for own, change in enumerate(changes))


def _of_others(layout: Layout, rows: Tensor, samples: int, own: int) -> Tensor:
    """The rows of all samples but one."""
    by_sample = rows.view(-1, samples).t() if layout.folded == "sample-minor" else rows.view(samples, -1)
    return torch.cat([by_sample[:own], by_sample[own + 1 :]])


def _moved(one: Tensor, other: Tensor) -> Tensor:
    """Which entries differ by more than rounding."""
    if one.shape != other.shape:
        return torch.ones(max(len(one), len(other)), dtype=torch.bool)
    return ~torch.isclose(one, other, rtol=1e-6, atol=1e-12, equal_nan=True)

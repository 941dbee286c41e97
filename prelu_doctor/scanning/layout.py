"""Where the samples of a batch lie in a site's activation tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.sites.find import FoundSite
from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.trace import trace


@dataclass(frozen=True)
class Layout:
    """How to read samples from an activation tensor A.

    Attributes:
        axis: Axis of the samples, after unfolding.
        folded: `no`, or how samples and rows share axis 0: `sample-major` (the rows of a sample are neighbours, as
            after flattening `[N, T, C]`), `sample-minor` (as after flattening `[T, N, C]`).
        known: False where samples could not be told apart, so that rows are counted.
    """

    axis: int = 0
    folded: str = "no"
    known: bool = True

    def arrange(self, tensor: Tensor, samples: int, unit_axis: int) -> Tensor | None:
        """The activation tensor as `[N, C, P]`.

        Args:
            tensor: The activation tensor.
            samples: Samples N in this batch.
            unit_axis: Its unit axis.

        Returns:
            A view or copy `[N, C, P]`, or None where the shape does not fit this layout.
        """
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


def find_layouts(model: nn.Module, batch: Batch, sites: list[FoundSite]) -> dict[str, Layout]:
    """Tells where each site holds its samples by changing sample 0 and looking at what moves.

    Args:
        model: The traced model.
        batch: Two samples.
        sites: Its sites, found on this batch.

    Returns:
        A layout for every site id.
    """
    if batch.size != 2:
        return {site.id: Layout(known=site.unit_axis != 0) for site in sites}
    original, changed = _Prints(), _Prints()
    trace(model, batch, original)
    trace(model, _with_other_first_sample(batch), changed)
    layouts = {}
    for site in sites:
        key = site.position.path
        before, after = original.seen.get(key), changed.seen.get(key)
        layouts[site.id] = _layout_of(site, before, after)
    return layouts


def _with_other_first_sample(batch: Batch) -> Batch:
    """Sample 0 replaced by sample 1, which is valid input; reversed along its last axis where both are the same."""
    doubled = batch.take(torch.tensor([1, 1]))
    pairs = zip((*batch.args, *batch.kwargs.values()), (*doubled.args, *doubled.kwargs.values()), strict=True)
    if not all(torch.equal(one, other) for one, other in pairs):
        return doubled
    return Batch(tuple(_reversed(x) for x in batch.args), {name: _reversed(x) for name, x in batch.kwargs.items()})


def _reversed(tensor: Tensor) -> Tensor:
    return torch.stack([tensor[0].flip(-1) if tensor.dim() > 1 else tensor[0], tensor[1]])


class _Prints:
    """A fingerprint of every pre-activation: its values summed along each axis but one."""

    ops: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.seen: dict[tuple[str, ...], list[Tensor]] = {}

    def before(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        assert call.position is not None
        wide = tensor.detach().double()
        weighted = wide * torch.linspace(1, 2, wide.numel(), dtype=torch.float64, device=wide.device).reshape(
            wide.shape
        )
        axes = range(wide.dim())
        self.seen[call.position.path] = [weighted.movedim(axis, 0).flatten(1).sum(1).cpu() for axis in axes]

    def after(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        pass


def _layout_of(site: FoundSite, before: list[Tensor] | None, after: list[Tensor] | None) -> Layout:
    if before is None or after is None or len(before) != len(after):
        return Layout(known=False)
    moved = [_moved(one, other) for one, other in zip(before, after, strict=True)]
    if not any(bool(marks.any()) for marks in moved):
        return Layout(known=not site.input_independent and site.unit_axis != 0 and len(moved[0]) == 2)
    if site.unit_axis != 0 and len(moved[0]) % 2 == 0:
        rows = moved[0]
        if len(rows) == 2 and bool(rows[0]) and not bool(rows[1]):
            return Layout()
        major, minor = rows.reshape(2, -1), rows.reshape(-1, 2)
        if bool(major[0].any()) and not bool(major[1].any()):
            return Layout(folded="sample-major")
        if bool(minor[:, 0].any()) and not bool(minor[:, 1].any()):
            return Layout(axis=1, folded="sample-minor")
    for axis, marks in enumerate(moved):
        if axis not in (0, site.unit_axis) and len(marks) == 2 and bool(marks[0]) and not bool(marks[1]):
            return Layout(axis=axis)
    return Layout(known=False)


def _moved(one: Tensor, other: Tensor) -> Tensor:
    """Which entries differ by more than rounding."""
    if one.shape != other.shape:
        return torch.ones(max(len(one), len(other)), dtype=torch.bool)
    return ~torch.isclose(one, other, rtol=1e-6, atol=1e-12, equal_nan=True)

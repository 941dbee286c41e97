"""Feeds every activation call of a forward to the tally of its site."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import ForwardError
from prelu_doctor.records import Function
from prelu_doctor.scanning.layout import Layout, find_layouts, rows_as_samples
from prelu_doctor.scanning.tally import Tally
from prelu_doctor.sites.activations import RECOGNISED, RECTIFIERS
from prelu_doctor.sites.find import FoundSite, Sites, find_sites
from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.trace import trace


@dataclass
class Examined:
    """A site with what the sample has shown of it so far.

    Attributes:
        site: The site.
        layout: Where its samples lie.
        tally: Its counts.
        graph: The forward in which its calls were found.
        calls: These calls.
        rows: True once rows were counted, because samples could not be told apart.
    """

    site: FoundSite
    layout: Layout
    tally: Tally
    graph: Graph
    calls: list[Call]
    rows: bool = False


@dataclass
class Probe:
    """Watches a model's activations, batch after batch.

    Attributes:
        model: The module to run.
        sites: Its sites; a call that no earlier forward made adds a new one.
        graph: The traced forward in which the sites were found.
        example: The batch that it ran on: two samples, or what the model takes.
        examined: By site id, in forward order.
    """

    model: nn.Module
    sites: Sites
    graph: Graph
    example: Batch
    examined: dict[str, Examined] = field(default_factory=dict)
    ops: frozenset[str] = frozenset()
    _counted: int = 0
    _now: dict[int, Examined] = field(default_factory=dict)
    _before: Tensor | None = None

    @classmethod
    def on(cls, model: nn.Module, batch: Batch, functions: Collection[Function] = RECOGNISED) -> Probe:
        """A probe for a model, its sites found on a small batch.

        Args:
            model: The module, on the batch's device.
            batch: At least one sample; two are used, or all where the forward takes no two.
            functions: What counts as an activation.
        """
        example, graph = _traced(model, batch, functions)
        sites = find_sites(model, graph)
        layouts = find_layouts(model, example, sites.found, functions)
        probe = cls(model, sites, graph, example)
        for site in sites.found:
            probe.examined[site.id] = _examined(site, layouts[site.id], graph)
        return probe

    def run(self, batch: Batch) -> None:
        """Scans one batch."""
        self._now.clear()
        self._counted = batch.counted
        graph = trace(self.model, batch, self, self.graph.functions)
        self.sites.settle(graph)
        for index, examined in self._now.items():
            if examined.graph is graph:
                examined.calls.append(graph.calls[index])
        self.examined = {examined.site.id: examined for examined in self.examined.values()}
        for examined in self.examined.values():
            examined.tally.commit()

    def before(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        """Places the call, and looks at the pre-activation before an in-place call overwrites it."""
        site = self.sites.add(graph, call)
        if site is None:
            return
        examined = self.examined.get(site.id)
        if examined is None:
            # Nobody has looked at where the samples of this call lie, so that its rows are counted.
            examined = self.examined[site.id] = _examined(site, Layout(known=False), graph)
        self._now[call.index] = examined
        examined.tally.saw_negative_infinity |= _holds_negative_infinity(tensor)
        if site.activation.function not in RECTIFIERS:
            self._before = tensor > 0

    def after(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        """Tallies the activation's output."""
        examined = self._now.get(call.index)
        if examined is None or tensor.numel() == 0:
            return
        active = _active(examined.site, tensor, self._before)
        self._before = None
        axis = examined.site.unit_axis
        shaped = [self._arrange(examined, part, graph.samples, axis) for part in (active, tensor)]
        examined.tally.look(*shaped)

    def _arrange(self, examined: Examined, tensor: Tensor, samples: int, axis: int) -> Tensor:
        """The tensor as `[N, C, P]`, without the samples that fill up a batch."""
        arranged = examined.layout.arrange(tensor, samples, axis) if examined.layout.known else None
        if arranged is not None:
            return arranged[: self._counted]
        examined.rows = True
        rows = rows_as_samples(tensor, axis)
        return rows[: -(-len(rows) * self._counted // samples)]  # as many of the rows as of the samples


def _active(site: FoundSite, output: Tensor, positive: Tensor | None) -> Tensor:
    """Positive exactly where the derivative is that of the positive side."""
    ceiling = site.activation.ceiling
    if positive is not None:
        return positive
    return output if ceiling is None else (output > 0) & (output < ceiling)


def _traced(model: nn.Module, batch: Batch, functions: Collection[Function]) -> tuple[Batch, Graph]:
    """A small batch that the model takes, and its forward on it."""
    few = batch.few()
    try:
        return few, trace(model, few, functions=functions)
    except ForwardError:
        if few.size == batch.size:
            raise
    # A forward may hold the size of its batch as a number: it takes what the data holds, and nothing smaller.
    whole = replace(batch, only_size=True)
    return whole, trace(model, whole, functions=functions)


def _holds_negative_infinity(tensor: Tensor) -> bool:
    if tensor.numel() == 0:
        return False
    lowest = tensor.amin()
    return bool(tensor.isneginf().any() if lowest.isnan() else lowest == float("-inf"))


def _examined(site: FoundSite, layout: Layout, graph: Graph) -> Examined:
    with torch.inference_mode(False):  # a site may turn up while a forward runs, and its counts outlive that
        return Examined(site, layout, Tally(site.units, site.activation.function), graph, list(site.calls))

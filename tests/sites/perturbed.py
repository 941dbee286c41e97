"""What a model's output does when one unit of a site takes other values: the truth about which columns read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from sites.made import noise
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.leaves import tensors_of
from prelu_doctor.sites.consumers import Columns, Readers, readers_of
from prelu_doctor.sites.find import FoundSite, find_sites
from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.trace import trace

SILENT, RAISED = 0, (1, 2, 3, 4)
"""Kinds of values that a unit takes: 0 everywhere, and four draws of large random values of both signs."""

Place = tuple[Columns, int]
"""One input channel of a layer."""


class Swap:
    """Overwrites one unit in the outputs of a site's activation calls while the model runs; keeps what layers write."""

    def __init__(self, site: FoundSite, unit: int, kind: int, ops: Iterable[str]) -> None:
        self.calls = {call.index for call in site.calls}
        self.axis, self.unit, self.kind = site.unit_axis, unit, kind
        self.ops = frozenset(ops)
        self.written: list[Tensor] = []

    def before(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        """Lets the call be."""

    def after(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        if call.op in self.ops:
            self.written.append(tensor.clone())
        if call.index in self.calls:
            place = tensor.select(self.axis, self.unit)
            place.copy_(0 * place if self.kind == SILENT else 5 * noise(*place.shape, seed=self.kind))


class Trial:
    """Runs a model while one unit of a site takes other values.

    Args:
        model: The model.
        inputs: Its inputs.
        site: The site.
        unit: The unit.
        ops: Operations of which the outputs are looked at beside the model's own.
    """

    def __init__(
        self, model: nn.Module, inputs: tuple[Tensor, ...], site: FoundSite, unit: int, ops: Iterable[str] = ()
    ) -> None:
        self.model, self.inputs, self.site, self.unit, self.ops = model, inputs, site, unit, tuple(ops)

    def run(self, kind: int) -> list[Tensor]:
        """All tensors looked at."""
        returned: list[Tensor] = []
        handle = self.model.register_forward_hook(lambda _module, _args, given: returned.extend(tensors_of(given)))
        swap = Swap(self.site, self.unit, kind, self.ops)
        try:
            trace(self.model, Batch(args=self.inputs), swap)
        finally:
            handle.remove()
        return [tensor.clone() for tensor in (*returned, *swap.written)]

    def moves(self, kinds: Sequence[int] = RAISED) -> bool:
        """Whether the unit has a say in them."""
        silent = self.run(SILENT)
        return any(not same(silent, self.run(kind)) for kind in kinds)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def examined(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[FoundSite, Readers]]:
    """Every site of a model with what is said about its readers."""
    graph = trace(model, Batch(args=inputs))
    return [(site, readers_of(graph, site.calls, site.unit_axis)) for site in find_sites(model, graph).found]


def contradictions(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    site: FoundSite,
    readers: Readers,
    units: Iterable[int],
    *,
    at_layers: bool = False,
) -> list[str]:
    """What is said about these units and is not so.

    A unit with columns: with these at 0 it has no say in the output, also none that a silent unit had before; with one
    of them left as it was (at most four are tried) it has. A unit without columns has no say at all. A unit that is
    declined needs a reason.

    Args:
        model: The model; its weights are what they were afterwards.
        inputs: Its inputs.
        site: The site.
        readers: What is said.
        units: The units to look at.
        at_layers: A column that was left need only move what layers write: the model may not use all of it.
    """
    wrong = []
    for unit in units:
        if unit in readers.declined:
            wrong += [] if readers.declined[unit] else [f"{site.id}: unit {unit} is declined without a reason"]
            continue
        places = [(columns, channel) for columns in readers.columns.get(unit, []) for channel in columns.channels]
        trial = Trial(model, inputs, site, unit)
        silent = trial.run(SILENT)
        with cut_off(model, places):
            if not same(silent, trial.run(SILENT)):
                wrong.append(f"{site.id}: the columns of unit {unit} read something else as well")
            if trial.moves(RAISED[:2]):
                wrong.append(f"{site.id}: unit {unit} reaches the output past {_told(places)}")
        close = Trial(model, inputs, site, unit, {columns.layer.call.op for columns, _ in places} if at_layers else ())
        for left in sorted({0, len(places) // 3, 2 * len(places) // 3, len(places) - 1}) if places else []:
            with cut_off(model, places[:left] + places[left + 1 :]):
                if not close.moves():
                    wrong.append(f"{site.id}: unit {unit} is not read by {_told(places[left : left + 1])}")
    return wrong


def _told(places: list[Place]) -> str:
    return ", ".join(f"{columns.layer.weight}[{channel}]" for columns, channel in places) or "no columns"


@contextmanager
def cut_off(model: nn.Module, places: list[Place]) -> Iterator[None]:
    """The model without these input channels of its layers."""
    weights = {columns.layer.weight: model.get_parameter(columns.layer.weight) for columns, _ in places}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    for columns, channel in places:
        cut(model, columns, channel)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])


@torch.no_grad()
def cut(model: nn.Module, columns: Columns, channel: int) -> None:
    """Sets to 0 whatever a layer multiplies one of its input channels with."""
    layer = columns.layer
    weight = model.get_parameter(layer.weight)
    if layer.kind == "linear":
        weight[:, channel] = 0
    elif layer.kind in ("matmul", "conv_transpose"):
        weight[channel] = 0
    else:
        group, within = divmod(channel, weight.shape[1])
        rows = weight.shape[0] // layer.groups
        weight[group * rows : (group + 1) * rows, within] = 0

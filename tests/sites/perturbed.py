"""What a model's output does when one unit of a site takes other values: the truth about which columns read it."""

from __future__ import annotations

import copy
from collections.abc import Iterable

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


class Swap:
    """Overwrites one unit in the outputs of a site's activation calls while the model runs."""

    ops = frozenset[str]()

    def __init__(self, site: FoundSite, unit: int, kind: int) -> None:
        self.calls = {call.index for call in site.calls}
        self.axis, self.unit, self.kind = site.unit_axis, unit, kind

    def before(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        """Lets the call be."""

    def after(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        if call.index in self.calls:
            place = tensor.select(self.axis, self.unit)
            place.copy_(0 * place if self.kind == SILENT else 5 * noise(*place.shape, seed=self.kind))


def output(model: nn.Module, inputs: tuple[Tensor, ...], site: FoundSite, unit: int, kind: int) -> list[Tensor]:
    """All tensors that the model returns while a unit has other values."""
    returned: list[Tensor] = []
    handle = model.register_forward_hook(lambda _module, _args, given: returned.extend(tensors_of(given)))
    try:
        trace(model, Batch(args=inputs), Swap(site, unit, kind))
    finally:
        handle.remove()
    return [tensor.clone() for tensor in returned]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def examined(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[FoundSite, Readers]]:
    """Every site of a model with what is said about its readers."""
    graph = trace(model, Batch(args=inputs))
    return [(site, readers_of(graph, site.calls, site.unit_axis)) for site in find_sites(model, graph).found]


def contradictions(
    model: nn.Module, inputs: tuple[Tensor, ...], site: FoundSite, readers: Readers, units: Iterable[int]
) -> list[str]:
    """What is said about these units and is not so.

    A unit with columns: with these at 0 it has no say in the output, also none that a silent unit had before; with one
    of them left as it was (at most four are tried) it has. A unit without columns has no say at all. A unit that is
    declined needs a reason.
    """
    wrong = []
    for unit in units:
        if unit in readers.declined:
            wrong += [] if readers.declined[unit] else [f"{site.id}: unit {unit} is declined without a reason"]
            continue
        silent = output(model, inputs, site, unit, SILENT)
        places = [(columns, channel) for columns in readers.columns.get(unit, []) for channel in columns.channels]
        if not same(silent, output(without(model, places), inputs, site, unit, SILENT)):
            wrong.append(f"{site.id}: the columns of unit {unit} read something else as well")
        if _has_a_say(without(model, places), inputs, site, unit):
            wrong.append(f"{site.id}: unit {unit} reaches the output past {_told(places)}")
        for left in sorted({0, len(places) // 3, 2 * len(places) // 3, len(places) - 1}) if places else []:
            if not _has_a_say(without(model, places[:left] + places[left + 1 :]), inputs, site, unit):
                wrong.append(f"{site.id}: unit {unit} is not read by {_told(places[left : left + 1])}")
    return wrong


def _has_a_say(model: nn.Module, inputs: tuple[Tensor, ...], site: FoundSite, unit: int) -> bool:
    silent = output(model, inputs, site, unit, SILENT)
    return any(not same(silent, output(model, inputs, site, unit, kind)) for kind in RAISED)


def _told(places: list[tuple[Columns, int]]) -> str:
    return ", ".join(f"{columns.layer.weight}[{channel}]" for columns, channel in places) or "no columns"


def without(model: nn.Module, places: list[tuple[Columns, int]]) -> nn.Module:
    """A copy of the model in which input channels of layers are cut off."""
    model = copy.deepcopy(model)
    for columns, channel in places:
        cut(model, columns, channel)
    return model


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

"""Walks forward from a site to the layers that read its units, and to the very columns that read each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prelu_doctor.sites.carrier import Carrier
from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.labels import FOREIGN, NOTHING, by_channel, labels_along, one_label, thin
from prelu_doctor.sites.layers import Layer, layer_of


@dataclass(frozen=True)
class Columns:
    """Input channels of a consumer that read one unit and nothing else.

    Attributes:
        layer: The consumer.
        channels: Its input channels.
    """

    layer: Layer
    channels: tuple[int, ...]


@dataclass
class Readers:
    """Who reads the units of a site.

    Attributes:
        columns: For every unit the weight columns that read it. Setting them to 0 cuts the unit off.
        declined: Units that reach something other than such columns, and what.
    """

    columns: dict[int, list[Columns]] = field(default_factory=dict)
    declined: dict[int, str] = field(default_factory=dict)

    def spoil(self, labels: Tensor, reason: str) -> None:
        """Declines the units of these labels; the first reason stands."""
        for label in thin(labels).unique().tolist():
            if label > 0:
                self.declined.setdefault(int(label) - 1, reason)


def consuming_layers(graph: Graph, calls: Sequence[Call]) -> list[str]:
    """Names of the layers that read a site, in forward order: norms on the way and the first layer behind them."""
    reached = {value for call in calls for value in call.writes}
    names: dict[str, None] = {}
    for call in graph.calls[calls[0].index + 1 :]:
        if not reached.intersection(call.reads):
            continue
        layer = layer_of(graph, call)
        if layer:
            names[layer.name] = None
        if not (layer and not layer.is_norm) and not call.activation:
            reached.update(call.writes)
    return list(names)


def is_output(graph: Graph, calls: Sequence[Call]) -> bool:
    """True where nothing reads what some activation calls write, but for the model's caller: units that are outputs."""
    pending = [value for call in calls for value in call.writes]
    seen = set(pending)
    while pending:
        for call in graph.readers.get(pending.pop(), ()):
            if call.op not in _SAME_ELEMENTS:
                return False
            pending += [written for written in call.writes if written not in seen]
            seen.update(call.writes)
    return bool(seen & graph.outputs)


_SAME_ELEMENTS = set(
    """
    view _unsafe_view reshape flatten unflatten squeeze unsqueeze permute transpose t contiguous clone detach alias
    expand select slice split chunk unbind to _to_copy float double half
    """.split()
)
"""Operations that hand on what they read, in another form."""


def readers_of(graph: Graph, calls: Sequence[Call], unit_axis: int) -> Readers:
    """Which consumer columns read which unit, found by carrying unit labels through the calls behind the site.

    Args:
        graph: The traced forward.
        calls: The site's activation calls.
        unit_axis: Axis of the units in their outputs.

    Returns:
        The columns of every unit, and the units that reach anything else, with the reason.
    """
    readers = Readers()
    carrier = Carrier(graph, shifted=readers.spoil, mixed=readers.spoil)
    for call in calls:
        carrier.labels[call.writes[0]] = labels_along(graph.shapes[call.writes[0]], unit_axis)
    own = {call.index for call in calls}
    uses: dict[str, list[tuple[Layer, Tensor]]] = {}
    for call in graph.calls:
        carrier.start(call)
        carrier.give_up_lost(call.reads)
        if call.index in own or not any(value in carrier.labels for value in call.reads):
            continue
        layer = layer_of(graph, call)
        if layer is None or layer.is_norm:
            carrier.carry(call)
        else:
            _consume(layer, carrier, readers, uses)
    carrier.give_up_lost(graph.outputs)
    for value in graph.outputs & carrier.labels.keys():
        readers.spoil(carrier.labels[value], "reaches the model's output")
    _collect(graph, uses, readers)
    return readers


def _consume(layer: Layer, carrier: Carrier, readers: Readers, uses: dict[str, list[tuple[Layer, Tensor]]]) -> None:
    """Notes which input channels of a layer read which unit."""
    reads = list(layer.call.reads)
    if layer.data in reads:
        reads.remove(layer.data)
    for value in reads:
        if value in carrier.labels:
            readers.spoil(carrier.labels[value], f"is read by {layer.name} as something other than its input")
    if layer.data is None or layer.data not in carrier.labels:
        return
    labels = carrier.labels[layer.data]
    if layer.weight is None:
        readers.spoil(labels, f"is read by {layer.name}, whose weight is computed, not a parameter")
        return
    inputs = by_channel(labels, layer.input_axis)
    channels, mixed = one_label(inputs)
    readers.spoil(inputs[mixed], f"shares a column of {layer.name}")
    uses.setdefault(layer.weight, []).append((layer, channels))


def _collect(graph: Graph, uses: dict[str, list[tuple[Layer, Tensor]]], readers: Readers) -> None:
    """Turns the channels of every use into columns; a channel that reads other things elsewhere declines its units."""
    for weight, found in uses.items():
        layer = found[0][0]
        every = torch.stack([channels for _, channels in found], -1)
        alike = all(other.kind == layer.kind for other, _ in found) and len(found) == len(graph.calls_reading(weight))
        if alike:
            channels, mixed = one_label(every)
        else:
            channels, mixed = torch.full(every.shape[:1], float(FOREIGN)), torch.ones(every.shape[:1], dtype=torch.bool)
        readers.spoil(every[mixed], f"is read by {layer.name}, whose weight is used elsewhere too")
        columns: dict[int, list[int]] = {}
        for channel, label in enumerate(channels.tolist()):
            if label > NOTHING:
                columns.setdefault(int(label) - 1, []).append(channel)
        for unit, read in columns.items():
            readers.columns.setdefault(unit, []).append(Columns(layer, tuple(read)))

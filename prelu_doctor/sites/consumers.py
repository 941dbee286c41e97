"""Walks forward from a site to the layers that read its units, and to the very columns that read each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.labels import Carrier, by_channel, labels_along, one_label
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
        for label in labels.unique().tolist():
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
    carrier = Carrier(graph, readers.spoil)
    for call in calls:
        carrier.labels[call.writes[0]] = labels_along(graph.shapes[call.writes[0]], unit_axis)
    own = {call.index for call in calls}
    uses: dict[str, list[tuple[Layer, Tensor]]] = {}
    for call in graph.calls[calls[0].index + 1 :]:
        carrier.spoil_lost(call.reads)
        if call.index in own or not any(value in carrier.labels for value in call.reads):
            continue
        layer = layer_of(graph, call)
        if layer is None or layer.is_norm:
            carrier.carry(call)
        else:
            _consume(layer, carrier, readers, uses)
    carrier.spoil_lost(graph.outputs)
    for value in graph.outputs & carrier.labels.keys():
        readers.spoil(carrier.labels[value], "reaches the model's output")
    _collect(graph, uses, readers)
    return readers


def _consume(layer: Layer, carrier: Carrier, readers: Readers, uses: dict[str, list[tuple[Layer, Tensor]]]) -> None:
    """Notes which input channels of a layer read which unit."""
    for value in layer.call.reads:
        if value != layer.data and value in carrier.labels:
            readers.spoil(carrier.labels[value], f"is read by {layer.name} as something other than its input")
    if layer.data is None or layer.data not in carrier.labels:
        return
    labels = carrier.labels[layer.data]
    if layer.weight is None:
        readers.spoil(labels, f"is read by {layer.name}, whose weight is computed, not a parameter")
        return
    inputs = by_channel(labels, _input_axis(layer, labels))
    channels, mixed = one_label(inputs)
    readers.spoil(inputs[mixed], f"shares a column of {layer.name}")
    uses.setdefault(layer.weight, []).append((layer, channels))


def _input_axis(layer: Layer, data: Tensor) -> int:
    """Axis of a consumer's input channels: for a convolution that of its output, the last one otherwise."""
    return layer.axis if layer.kind in ("conv", "conv_transpose") else data.dim() - 1


def _collect(graph: Graph, uses: dict[str, list[tuple[Layer, Tensor]]], readers: Readers) -> None:
    """Turns the channels of every use into columns; a weight that is used otherwise as well declines its units."""
    for weight, found in uses.items():
        layer, channels = found[0]
        same = all(torch.equal(channels, others) for _, others in found[1:])
        if not same or len(found) < sum(1 for _ in _calls_reading(graph, weight)):
            for _, labels in found:
                readers.spoil(labels, f"is read by {layer.name}, whose weight is used elsewhere too")
            continue
        for unit in [int(label) - 1 for label in channels.unique().tolist() if label > 0]:
            columns = Columns(layer, tuple((channels == unit + 1).nonzero().flatten().tolist()))
            readers.columns.setdefault(unit, []).append(columns)


def _calls_reading(graph: Graph, weight: str) -> Iterator[Call]:
    values = {value for value, name in graph.tensors.items() if name == weight}
    return (call for call in graph.calls if values.intersection(call.reads))

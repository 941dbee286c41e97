"""Which weights must change for a dead unit to live again without moving the output; decided on the traced graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import torch
from torch import Tensor

from prelu_doctor.sites.consumers import Columns, readers_of
from prelu_doctor.sites.find import FoundSite
from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.labels import by_channel
from prelu_doctor.sites.layers import Layer
from prelu_doctor.sites.producers import Origin, channel_labels, origin_of

Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Edit:
    """A slice of one tensor, and what is to be written there.

    Attributes:
        tensor: Name of a parameter or buffer.
        index: The slice.
        write: He-normal values, a constant, or a statistic that is re-estimated on the data.
        fan_in: Inputs of the unit, for He-normal values.
    """

    tensor: str
    index: Index
    write: Literal["he", "one", "zero", "mean", "variance"]
    fan_in: int = 0


@dataclass(frozen=True)
class UnitPlan:
    """How to revive one unit.

    Attributes:
        site: Its site's id.
        unit: Its number.
        incoming: Edits that wake it: weight rows, bias, norm.
        outgoing: Edits that cut it off from its readers until a fine-tune connects it anew.
    """

    site: str
    unit: int
    incoming: tuple[Edit, ...]
    outgoing: tuple[Edit, ...]


class DeclinedError(Exception):
    """A unit cannot be revived; the message says why."""


def plan_revival(graph: Graph, site: FoundSite, units: Sequence[int]) -> tuple[list[UnitPlan], dict[int, str]]:
    """Plans the revival of dead units.

    Args:
        graph: The traced forward.
        site: Their site.
        units: Their numbers.

    Returns:
        A plan for every unit that only known weights write and read, and for the others the reason why not.
    """
    if not units:
        return [], {}
    readers = readers_of(graph, site.calls, site.unit_axis)
    sources = _sources(graph, site)
    plans, declined = [], {}
    for unit in units:
        try:
            if unit in readers.declined:
                raise DeclinedError(f"its signal {readers.declined[unit]}")
            incoming = _incoming(sources, unit)
            outgoing = tuple(edit for columns in readers.columns.get(unit, []) for edit in _cut(columns, graph))
            plans.append(UnitPlan(site.id, unit, incoming, outgoing))
        except DeclinedError as reason:
            declined[unit] = str(reason)
    return plans, declined


def plan_reinitialisation(graph: Graph, site: FoundSite) -> tuple[list[Edit], dict[int, str]]:
    """Plans He re-initialisation of every unit of a site, for recipes that train a network anew.

    Returns:
        The edits, and the units whose layers must not be changed, with the reason. Readers are left as they are.
    """
    sources = _sources(graph, site)
    edits: list[Edit] = []
    declined = {}
    for unit in range(site.units):
        try:
            edits += _incoming(sources, unit)
        except DeclinedError as reason:
            declined[unit] = str(reason)
    return edits, declined


@dataclass(frozen=True)
class _Source:
    """A layer before the site.

    Attributes:
        layer: The layer.
        channels: `[C]` its channel for every unit, -1 where there is not exactly one.
        obstacle: Why it must not be changed; empty where it may.
        weight_shape: Shape of its weight.
    """

    layer: Layer
    channels: Tensor
    obstacle: str
    weight_shape: tuple[int, ...]


def _sources(graph: Graph, site: FoundSite) -> list[_Source]:
    """The layers that write the site's units, with what stands against changing each."""
    call = site.calls[0]
    origins = [origin_of(graph, other) for other in site.calls]
    sources = []
    for layer in origins[0].layers:
        labels = channel_labels(graph, layer.call.writes[0], layer.axis, origins[0], call.reads[0])
        channels = _channel_of_unit(labels, site) if labels is not None else torch.full((site.units,), -1)
        sources.append(
            _Source(layer, channels, _obstacle(graph, site, layer, origins), graph.shape_named(layer.weight))
        )
    return sources


def _channel_of_unit(labels: Tensor, site: FoundSite) -> Tensor:
    by_unit = by_channel(labels, site.unit_axis)
    highest = by_unit.amax(1)
    single = (by_unit == highest[:, None]).all(1) & (highest > 0)
    alone = torch.tensor([int((highest == label).sum()) == 1 for label in highest.tolist()])
    return torch.where(single & alone, highest.long() - 1, -1)


def _obstacle(graph: Graph, site: FoundSite, layer: Layer, origins: Sequence[Origin]) -> str:
    """Why a layer's rows must not be changed, or an empty string."""
    if layer.kind == "other" or layer.computed:
        return f"the weight of {layer.name} is computed, not a parameter"
    buffers = [name for name in (layer.weight, layer.bias) if name and name not in graph.parameters]
    if buffers:
        return f"{buffers[0]} is a buffer, not a parameter"
    inside = {other.index for origin in origins for other in origin.interior}
    inside |= {other.call.index for origin in origins for other in origin.layers}
    inside |= {call.index for call in site.calls}
    names = {name for name in (layer.weight, layer.bias, *(layer.statistics or ())) if name}
    if any(call.index not in inside for name in names for call in graph.calls_reading(name)):
        return f"the parameters of {layer.name} are used elsewhere too"
    uses = [other.call for origin in origins for other in origin.layers if other.identity == layer.identity]
    if any(_leaks(graph, use, inside, {call.index for call in site.calls}) for use in uses):
        return f"the output of {layer.name} is read by others than this site"
    if any(_cross_norm_between(origin, layer) for origin in origins) and not layer.is_norm:
        return f"a norm behind {layer.name} mixes its channels"
    return ""


def _leaks(graph: Graph, start: Call, inside: set[int], ends: set[int]) -> bool:
    """True where what a call writes reaches, other than through the site, a call outside or the model's output."""
    pending = list(start.writes)
    seen = set(pending)
    while pending:
        value = pending.pop()
        if value in graph.outputs:
            return True
        for call in graph.readers.get(value, ()):
            if call.index in ends:
                continue
            if call.index not in inside:
                return True
            pending += [written for written in call.writes if written not in seen]
            seen.update(call.writes)
    return False


def _cross_norm_between(origin: Origin, layer: Layer) -> bool:
    return any(other.kind == "cross_norm" and other.call.index > layer.call.index for other in origin.layers)


def _incoming(sources: Sequence[_Source], unit: int) -> tuple[Edit, ...]:
    """The edits that wake a unit: every source that is its alone; at least one must be."""
    edits: list[Edit] = []
    obstacles: list[str] = []
    closed: list[str] = []
    for source in sources:
        channel = int(source.channels[unit])
        obstacle = source.obstacle or ("" if channel >= 0 else f"its channel of {source.layer.name} could not be told")
        if obstacle:
            obstacles.append(obstacle)
            closed += [source.layer.name] if source.layer.kind == "channel_norm" else []
            continue
        edits += _norm_edits(source, channel) if source.layer.is_norm else _row_edits(source, channel)
    if not edits or closed:
        raise DeclinedError("; ".join(dict.fromkeys(obstacles)) or "no layer writes it")
    # Layers that write one unit are summed: He's variance is that of all their inputs together.
    fan_in = sum(edit.fan_in for edit in edits if edit.write == "he")
    return tuple(replace(edit, fan_in=fan_in) if edit.write == "he" else edit for edit in edits)


def _norm_edits(source: _Source, channel: int) -> list[Edit]:
    layer = source.layer
    if len(source.weight_shape) > 1:
        raise DeclinedError(f"{layer.name} scales every position by itself")
    edits = [Edit(name, (channel,), write) for name, write in ((layer.weight, "one"), (layer.bias, "zero")) if name]  # type: ignore[arg-type]
    if layer.statistics:
        mean, variance = layer.statistics
        edits += [Edit(mean, (channel,), "mean"), Edit(variance, (channel,), "variance")]
    return edits


def _row_edits(source: _Source, channel: int) -> list[Edit]:
    layer, shape = source.layer, source.weight_shape
    every = slice(None)
    index: Index
    if layer.kind == "conv_transpose":
        outputs = shape[1]
        group, channel_in_group = divmod(channel, outputs)
        inputs = shape[0] // layer.groups
        index = (slice(group * inputs, (group + 1) * inputs), channel_in_group)
        fan_in = inputs * prod(shape[2:])
    elif layer.kind == "matmul":
        index, fan_in = (every, channel), shape[0]
    else:
        index, fan_in = (channel,), prod(shape[1:])
    edits = [Edit(str(layer.weight), index, "he", fan_in)]
    return edits + ([Edit(layer.bias, (channel,), "zero")] if layer.bias else [])


def _cut(columns: Columns, graph: Graph) -> Iterator[Edit]:
    """Zeroes the weights that read a unit."""
    layer, every = columns.layer, slice(None)
    weight = str(layer.weight)
    if weight not in graph.parameters:
        raise DeclinedError(f"{weight}, which reads it, is a buffer, not a parameter")
    if layer.kind in ("conv_transpose", "matmul"):
        yield from (Edit(weight, (channel,), "zero") for channel in columns.channels)
        return
    if layer.kind == "linear" or layer.groups == 1:
        yield from (Edit(weight, (every, channel), "zero") for channel in columns.channels)
        return
    rows, inputs = graph.shape_named(weight)[0] // layer.groups, graph.shape_named(weight)[1]
    for channel in columns.channels:
        group, inner = divmod(channel, inputs)
        yield Edit(weight, (slice(group * rows, (group + 1) * rows), inner), "zero")

"""Walks back from an activation to the layers that write its units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from prelu_doctor.sites.carrier import Carrier
from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.labels import FOREIGN, labels_along, thin
from prelu_doctor.sites.layers import Layer, layer_of


@dataclass(frozen=True)
class Origin:
    """What lies between an activation call and the parameters before it.

    Attributes:
        layers: The layers that write the units, in forward order; norms behind a layer included.
        interior: The other calls on the way, in forward order.
        upstream: Activation calls at which the walk stopped.
    """

    layers: tuple[Layer, ...]
    interior: tuple[Call, ...]
    upstream: tuple[Call, ...]

    def signature(self, graph: Graph, call: Call, function: str) -> tuple[object, ...] | None:
        """What calls of one site share: the parameters, the way from them, and which of their channels arrive.

        Args:
            graph: The traced forward.
            call: The activation call of which this is the origin.
            function: Its rectifier.

        Returns:
            A key that is the same in every forward; None where there are no layers.
        """
        if not self.layers:
            return None
        layers = sorted((layer.identity, *_tensors_read(graph, layer.call)) for layer in self.layers)
        ways = sorted(_way(graph, interior) for interior in self.interior)
        rank = len(graph.shapes[call.reads[0]])  # the units of another rank lie on another axis
        return (function, rank, tuple(layers), tuple(ways), bool(self.upstream), _arriving_channels(graph, call, self))


def _way(graph: Graph, call: Call) -> tuple[str, str, tuple[str, ...]]:
    """An interior call as two sites would share it: `relu(x - 1)` and `relu(x - 2)` differ, two time steps do not."""
    scalars = [argument for argument in (*call.args, *call.kwargs.values()) if isinstance(argument, int | float)]
    op = call.op.removesuffix("_")
    if op in _REORDERING:
        return (call.op, repr((call.args[1:], call.kwargs)), _tensors_read(graph, call))
    return (call.op, repr(scalars) if op in _ARITHMETIC else "", _tensors_read(graph, call))


def _tensors_read(graph: Graph, call: Call) -> tuple[str, ...]:
    return tuple(graph.tensors[value] for value in call.reads if value in graph.tensors)


def _arriving_channels(graph: Graph, call: Call, origin: Origin) -> tuple[object, ...]:
    """Which channels of each layer reach the activation, where a part was taken: two halves are two sites.

    Where that cannot be told, the call's own place stands for it, so that nothing is merged.
    """
    if not any(interior.op in _PARTS for interior in origin.interior):
        return ()
    arriving: list[object] = []
    only_norms = all(layer.is_norm for layer in origin.layers)
    for layer in origin.layers:
        if layer.is_norm and not only_norms:
            continue
        labels = channel_labels(graph, layer.call.writes[0], layer.axis, origin, call.reads[0])
        if labels is None:
            return call.position.path if call.position else ()
        found = thin(labels).unique()
        arriving.append(tuple(sorted(torch.where(found < FOREIGN, -found - 1, found).clamp(min=0).tolist())))
    return tuple(arriving)


_ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "pow"}
_REORDERING = {"roll", "flip", "transpose", "permute", "movedim", "swapaxes", "swapdims"}
_PARTS = set(
    """
    select slice narrow split split_with_sizes chunk unsafe_chunk unsafe_split tensor_split unbind index index_select
    gather take masked_select
    """.split()
)
"""Operations that take some of the elements."""


def origin_of(graph: Graph, call: Call) -> Origin:
    """The producers of an activation call, found by walking its input back.

    The walk passes norms, stops at layers that write units of their own, at other activations and at the input.
    """
    layers: dict[int, Layer] = {}
    interior: dict[int, Call] = {}
    upstream: dict[int, Call] = {}
    pending = list(call.reads[:1])
    seen = set(pending)
    while pending:
        maker = graph.maker(pending.pop())
        if maker is None:
            continue
        layer = None if maker.activation else layer_of(graph, maker)
        if maker.activation:
            upstream[maker.index] = maker
            continue
        if layer:
            layers[maker.index] = layer
        else:
            interior[maker.index] = maker
        behind = _data_before(graph, maker, layer)
        pending += [value for value in behind if value not in seen]
        seen.update(behind)
    return Origin(_in_order(layers), _in_order(interior), _in_order(upstream))


def _data_before(graph: Graph, maker: Call, layer: Layer | None) -> list[int]:
    if layer is None:
        return [value for value in maker.reads if value not in graph.tensors]
    return [layer.data] if layer.is_norm and layer.data is not None else []


T = TypeVar("T")


def _in_order(found: dict[int, T]) -> tuple[T, ...]:
    return tuple(found[index] for index in sorted(found))


def channel_labels(graph: Graph, written: int, axis: int, origin: Origin, value: int) -> Tensor | None:
    """Which channel of a written value each element of a later value comes from.

    Args:
        graph: The traced forward.
        written: A value that a layer of the origin, or an activation upstream of it, has written.
        axis: The axis of its channels.
        origin: The calls between the two values.
        value: The activation's input.

    Returns:
        Channel + 1 for each element, and -(channel + 2) where that channel has a say in elements of others as well;
        0 or -1 where another signal stands. None where the way could not be followed.
    """
    shape = graph.shapes[written]
    if not -len(shape) <= axis < len(shape):
        return None
    mixed: set[float] = set()
    carrier = Carrier(graph, mixed=lambda labels, _reason: mixed.update(thin(labels).unique().tolist()))
    carrier.labels[written] = labels_along(shape, axis)
    between = [*origin.interior, *(layer.call for layer in origin.layers if layer.is_norm)]
    for call in sorted(between, key=lambda call: call.index):
        carrier.give_up_lost(call.reads)
        if any(read in carrier.labels for read in call.reads):
            carrier.carry(call)
    labels = carrier.labels.get(value)
    return labels if labels is None else _with_mixed_apart(labels, [label for label in mixed if label > 0])


def _with_mixed_apart(labels: Tensor, mixed: list[float]) -> Tensor:
    """Labels in which channels that have a say in others can be told, and are no longer positive."""
    if not mixed:
        return labels
    thinned = thin(labels)
    apart = torch.where(torch.isin(thinned, torch.tensor(mixed)), -thinned - 1, thinned)
    return apart.expand(labels.shape)


def unit_axis_of(labels: Tensor) -> int | None:
    """The one axis along which labels differ; None where there is no such axis."""
    varying = [axis for axis in range(labels.dim()) if labels.shape[axis] > 1 and _varies(labels, axis)]
    return varying[0] if len(varying) == 1 else None


def _varies(labels: Tensor, axis: int) -> bool:
    return bool((labels.amax(axis) != labels.amin(axis)).any())

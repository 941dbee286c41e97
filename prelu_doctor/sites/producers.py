"""Walks back from an activation to the layers that write its units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.labels import Carrier, labels_along
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

    def signature(self, function: str) -> tuple[object, ...] | None:
        """What calls of one site share: the parameters and the way from them; None where there are none."""
        if not self.layers:
            return None
        ways = sorted(_way(call) for call in self.interior)
        return (function, tuple(sorted(layer.identity for layer in self.layers)), tuple(ways), bool(self.upstream))


def _way(call: Call) -> tuple[str, str]:
    """An interior call as two sites would share it: `relu(x - 1)` and `relu(x - 2)` differ, two time steps do not."""
    scalars = [argument for argument in call.args if isinstance(argument, int | float)]
    return (call.op, repr(scalars) if call.op in _ARITHMETIC else "")


_ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "pow"}


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
        Channel + 1 for each element; not positive where another signal stands. None where the way could not be
        followed.
    """
    shape = graph.shapes[written]
    if not -len(shape) <= axis < len(shape):
        return None
    carrier = Carrier(graph)
    carrier.labels[written] = labels_along(shape, axis)
    between = [*origin.interior, *(layer.call for layer in origin.layers if layer.is_norm)]
    for call in sorted(between, key=lambda call: call.index):
        if any(read in carrier.labels for read in call.reads):
            carrier.carry(call)
    return carrier.labels.get(value)


def unit_axis_of(labels: Tensor) -> int | None:
    """The one axis along which labels differ; None where there is no such axis."""
    varying = [axis for axis in range(labels.dim()) if labels.shape[axis] > 1 and _varies(labels, axis)]
    return varying[0] if len(varying) == 1 else None


def _varies(labels: Tensor, axis: int) -> bool:
    return bool((labels.amax(axis) != labels.amin(axis)).any())

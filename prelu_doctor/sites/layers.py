"""Calls that use parameters: which tensor is the data, which the weight, and where their channels lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from prelu_doctor.sites.equations import equation
from prelu_doctor.sites.graph import Call, Graph

Kind = Literal["conv", "conv_transpose", "linear", "matmul", "channel_norm", "cross_norm", "other"]


@dataclass(frozen=True)
class Layer:
    """One use of parameters.

    Attributes:
        call: The call that uses them.
        kind: What the layer computes. A `channel_norm` treats every channel by itself (batch and instance norm); a
            `cross_norm` mixes channels (layer and group norm); `other` is any further call that reads a parameter.
        name: Path of the module (or of the parameter) it belongs to.
        data: The value it transforms; None where that is not known.
        weight: Name of the weight tensor; None without one, and where it was computed from others.
        computed: True where a weight is used that is no parameter itself (weight norm, a view of another one).
        bias: Name of the bias tensor, or None.
        statistics: Names of running mean and variance, or None.
        axis: Axis of the output that holds the channels it writes.
        input_axis: Axis of its data that holds the channels it reads; counted from the right where negative.
        groups: Groups of a convolution.
    """

    call: Call
    kind: Kind
    name: str
    data: int | None
    weight: str | None
    computed: bool
    bias: str | None
    axis: int
    statistics: tuple[str, str] | None = None
    groups: int = 1
    input_axis: int = -1
    computed_from: tuple[str, ...] = ()

    @property
    def is_norm(self) -> bool:
        """True for normalisations, whose channels pass from input to output."""
        return self.kind in ("channel_norm", "cross_norm")

    @property
    def identity(self) -> str:
        """What two uses of the same parameters share."""
        named = self.weight or (self.statistics or (None,))[0] or self.bias
        return named or " ".join((self.name, *self.computed_from))


def layer_of(graph: Graph, call: Call) -> Layer | None:
    """The layer that a call is, or None where it reads no parameter."""
    op = call.op.removesuffix("_")
    if op in _ROLES:
        return _ROLES[op](graph, call)
    if op in _INDEXED and not graph.name_of(call.reads[0]):
        return None
    if op == "scaled_dot_product_attention" and not graph.name_of(call.value("value")):
        return None
    if op in _ELEMENTWISE or not any(value in graph.tensors for value in call.reads):
        return None
    return _other(graph, call)


_ELEMENTWISE = {"add", "sub", "rsub", "mul", "div", "cat", "stack", "prelu", "_prelu_kernel", "expand", "clone", "to"}
"""Operations that combine a signal with a parameter without writing units of their own."""

_INDEXED = set(
    """
    index index_select gather take_along_dim take embedding repeat_interleave masked_fill where grid_sampler lerp
    addcmul
    """.split()
)
"""Operations that are no layers where the parameter or buffer that they read is an index or a mask of a signal."""


def _convolution(graph: Graph, call: Call) -> Layer:
    weight = call.value("weight")
    assert weight is not None
    spatial = len(graph.shapes[weight]) - 2
    axis = _rank(graph, call) - spatial - 1
    transposed = call.op.startswith("conv_transpose") or bool(call.arguments.get("transposed"))
    return _layer(
        graph,
        call,
        "conv_transpose" if transposed else "conv",
        data=call.value("input"),
        axis=axis,
        input_axis=axis,
        groups=call.arguments["groups"],
    )


def _linear(graph: Graph, call: Call) -> Layer:
    return _layer(graph, call, "linear", data=call.value("input"), axis=_rank(graph, call) - 1)


def _matmul(graph: Graph, call: Call) -> Layer | None:
    """`x @ W`: a layer where W is a matrix that does not depend on the input."""
    data, weight = (call.value(name) for name in _FACTORS[call.op])
    if data is None or weight is None or not graph.is_weight(weight) or len(graph.shapes[weight]) != 2:
        return None
    if len(graph.shapes[data]) < 2:
        return None
    bias = call.value("self") if call.op == "addmm" else None
    return _layer(graph, call, "matmul", data=data, weight=weight, bias=bias, axis=_rank(graph, call) - 1)


_FACTORS = {"matmul": ("self", "other"), "mm": ("self", "mat2"), "addmm": ("mat1", "mat2")}


def _einsum(graph: Graph, call: Call) -> Layer | None:
    """A sum of products of one signal and one matrix of weights, over one axis of each."""
    values = list(call.reads)
    weights = [value for value in values if graph.is_weight(value)]
    if len(values) != 2 or len(weights) != 1 or values[0] == values[1]:
        return None
    names, output = equation(call, [len(graph.shapes[value]) for value in values])
    place = values.index(weights[0])
    return _product(graph, call, values[1 - place], weights[0], names[1 - place], names[place], output)


def _tensordot(graph: Graph, call: Call) -> Layer | None:
    data, weight = call.reads[:2]
    if not graph.is_weight(weight) or graph.is_weight(data):
        return None
    names = [
        [f"{side}{axis}" for axis in range(len(graph.shapes[value]))] for side, value in (("l", data), ("r", weight))
    ]
    for number, (one, other) in enumerate(zip(call.arguments["dims_self"], call.arguments["dims_other"], strict=True)):
        names[0][one] = names[1][other] = f"k{number}"
    output = [name for side in names for name in side if not name.startswith("k")]
    return _product(graph, call, data, weight, names[0], names[1], output)


def _product(
    graph: Graph, call: Call, data: int, weight: int, read: list[str], matrix: list[str], output: list[str]
) -> Layer | None:
    """The layer that a product is, by the names of its axes.

    A plain matrix on the last axis of data is a linear layer. On any other axis it may as well be the graph that says
    which positions are neighbours: what it is cannot be told. Where nothing is summed over, it scales and is no layer.
    """
    summed = [name for name in matrix if name not in output]
    written = [name for name in matrix if name in output]
    if not summed:
        return None
    plain = len(summed) == len(written) == 1 and len({*read}) == len(read) and not {*written} & {*read}
    if not plain or summed != read[-1:] or {*read} - {*summed, *output}:
        return _other(graph, call)
    return _layer(
        graph,
        call,
        "matmul" if matrix == [*summed, *written] else "linear",
        data=data,
        weight=weight,
        axis=output.index(written[0]),
    )


def _bilinear(graph: Graph, call: Call) -> Layer:
    """A linear layer of its first input; what it does to the second cannot be told by columns."""
    return _layer(graph, call, "linear", data=call.value("input1"), axis=_rank(graph, call) - 1)


def _channel_norm(graph: Graph, call: Call) -> Layer:
    mean = graph.name_of(call.value("running_mean"))
    variance = graph.name_of(call.value("running_var"))
    statistics = (mean, variance) if mean and variance else None
    return _layer(graph, call, "channel_norm", data=call.value("input"), axis=1, statistics=statistics)


def _layer_norm(graph: Graph, call: Call) -> Layer:
    return _layer(graph, call, "cross_norm", data=call.value("input"), axis=_rank(graph, call) - 1)


def _group_norm(graph: Graph, call: Call) -> Layer:
    return _layer(graph, call, "cross_norm", data=call.value("input"), axis=1)


def _other(graph: Graph, call: Call) -> Layer:
    return Layer(call, "other", call.owner or call.op, data=None, weight=None, computed=True, bias=None, axis=-1)


def _rank(graph: Graph, call: Call) -> int:
    return len(graph.shapes[call.writes[0]])


def _layer(graph: Graph, call: Call, kind: Kind, **roles: Any) -> Layer:
    """A layer; weight and bias stand under these names in the operation's schema, unless `roles` says otherwise."""
    weight = roles.pop("weight", call.value("weight"))
    weight_name = graph.name_of(weight)
    bias_name = graph.name_of(roles.pop("bias", call.value("bias")))
    first = weight_name or (roles.get("statistics") or (None,))[0] or bias_name
    return Layer(
        call=call,
        kind=kind,
        name=(first.rpartition(".")[0] or first) if first else call.owner or call.op,
        weight=weight_name,
        computed=weight is not None and weight_name is None,
        computed_from=_named_behind(graph, weight) if weight_name is None else (),
        bias=bias_name,
        **roles,
    )


def _named_behind(graph: Graph, value: int | None) -> tuple[str, ...]:
    """The parameters and buffers that a value was computed from, as a weight that was cast."""
    found: set[str] = set()
    pending = [] if value is None else [value]
    seen = set(pending)
    while pending:
        value = pending.pop()
        name, maker = graph.name_of(value), graph.maker(value)
        if name is not None:
            found.add(name)
        elif maker is not None:
            pending += [read for read in maker.reads if read not in seen]
            seen.update(maker.reads)
    return tuple(sorted(found))


_ROLES: dict[str, Callable[[Graph, Call], Layer | None]] = {
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _convolution for n in (1, 2, 3)},
    "convolution": _convolution,
    "deform_conv2d": _convolution,
    "_convolution": _convolution,
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "addmm": _matmul,
    "einsum": _einsum,
    "tensordot": _tensordot,
    "bilinear": _bilinear,
    "batch_norm": _channel_norm,
    "instance_norm": _channel_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
}

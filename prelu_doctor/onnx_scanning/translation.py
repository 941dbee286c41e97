"""Every ONNX operator as the ATen call that does the same.

So producers, unit axes and consumers are told by the rules of `sites`, once for all kinds of models.
What has no entry here becomes a call that those rules do not know: they then say that they do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from onnx import NodeProto

from prelu_doctor.checkpoints.onnx_files import Array
from prelu_doctor.onnx_scanning.bodies import STANDARD
from prelu_doctor.sites.graph import Ref

Shape = tuple[int, ...]
aten = torch.ops.aten


class Emitter(Protocol):
    """Records calls."""

    def call(self, func: Any, args: Sequence[Any], shape: Shape) -> int:
        """Records a call with one output of this shape; the value that it writes."""


@dataclass(frozen=True)
class Seen:
    """A node and what is known of it.

    Attributes:
        node: The node.
        attributes: Its attributes.
        values: The values that it reads; None where an input was left out.
        inputs: Their shapes.
        constants: Their numbers, where they are few and the same in every run.
        outputs: The shapes of what it writes.
        weights: Which of the values do not depend on the model's input.
        opset: Version of the operators.
    """

    node: NodeProto
    attributes: Mapping[str, Any]
    values: Sequence[int | None]
    inputs: Sequence[Shape]
    constants: Sequence[Array | None]
    outputs: Sequence[Shape]
    weights: Sequence[bool]
    opset: int

    def ref(self, place: int) -> Ref | None:
        """An input as an argument of a call."""
        value = self.values[place] if place < len(self.values) else None
        return None if value is None else Ref(value)

    def numbers(self, name: str, place: int) -> list[int] | None:
        """Whole numbers that are an attribute in old versions and an input in new ones; None where not known."""
        if name in self.attributes:
            given = self.attributes[name]
            return [int(given)] if isinstance(given, int) else [int(number) for number in given]
        constant = self.constants[place] if place < len(self.constants) else None
        return None if constant is None else [int(number) for number in constant.reshape(-1)]

    def has(self, place: int) -> bool:
        """Whether an input was given."""
        return place < len(self.values) and self.values[place] is not None


Translate = Callable[[Emitter, Seen], list[int] | None]
"""Records what a node does; the values it writes, or None where no call is the same."""


def translation_of(node: NodeProto) -> Translate | None:
    """How to record a node; None where no entry tells."""
    if node.domain == "com.microsoft":
        return _CONTRIBUTED.get(node.op_type)
    return _TABLE.get(node.op_type) if node.domain in STANDARD else None


# Layers


def _conv(emit: Emitter, seen: Seen) -> list[int] | None:
    spatial = len(seen.inputs[0]) - 2
    if spatial not in (1, 2, 3):
        return None
    func = getattr(aten, f"conv{spatial}d").default
    ones = [1] * spatial
    given = seen.attributes
    args = [*map(seen.ref, range(3)), given.get("strides", ones), [0] * spatial, given.get("dilations", ones)]
    return [emit.call(func, [*args, given.get("group", 1)], seen.outputs[0])]


def _conv_transpose(emit: Emitter, seen: Seen) -> list[int] | None:
    spatial = len(seen.inputs[0]) - 2
    if spatial not in (1, 2, 3):
        return None
    func = getattr(aten, f"conv_transpose{spatial}d")
    func = func.default if "default" in func.overloads() else func.input
    zeros, ones = [0] * spatial, [1] * spatial
    given = seen.attributes
    args = [*map(seen.ref, range(3)), given.get("strides", ones), zeros, zeros, given.get("group", 1), ones]
    return [emit.call(func, args, seen.outputs[0])]


def _gemm(emit: Emitter, seen: Seen) -> list[int] | None:
    x, matrix, bias = map(seen.ref, range(3))
    if seen.attributes.get("transA", 0):
        return None
    if seen.attributes.get("transB", 0):
        return [emit.call(aten.linear.default, [x, matrix, bias], seen.outputs[0])]
    if bias is None:
        return [emit.call(aten.mm.default, [x, matrix], seen.outputs[0])]
    return [emit.call(aten.addmm.default, [bias, x, matrix], seen.outputs[0])]


def _matmul(emit: Emitter, seen: Seen) -> list[int] | None:
    return [emit.call(aten.matmul.default, [seen.ref(0), seen.ref(1)], seen.outputs[0])]


def _batch_norm(emit: Emitter, seen: Seen) -> list[int] | None:
    args = [*map(seen.ref, range(5)), False, 0.1, 1e-5, False]
    return [emit.call(aten.batch_norm.default, args, seen.outputs[0])]


def _instance_norm(emit: Emitter, seen: Seen) -> list[int] | None:
    args = [*map(seen.ref, range(3)), None, None, True, 0.1, 1e-5, False]
    return [emit.call(aten.instance_norm.default, args, seen.outputs[0])]


def _group_norm(emit: Emitter, seen: Seen) -> list[int] | None:
    x, weight, bias = map(seen.ref, range(3))
    groups = seen.attributes.get("num_groups", seen.attributes.get("groups", 1))
    return [emit.call(aten.group_norm.default, [x, groups, weight, bias], seen.outputs[0])]


def _layer_norm(emit: Emitter, seen: Seen) -> list[int] | None:
    rank = len(seen.inputs[0])
    axis = seen.attributes.get("axis", -1) % max(rank, 1)
    x, weight, bias = map(seen.ref, range(3))
    return [emit.call(aten.layer_norm.default, [x, list(seen.inputs[0][axis:]), weight, bias], seen.outputs[0])]


def _rms_norm(emit: Emitter, seen: Seen) -> list[int] | None:
    axis = seen.attributes.get("axis", -1) % max(len(seen.inputs[0]), 1)
    args = [seen.ref(0), list(seen.inputs[0][axis:]), seen.ref(1)]
    return [emit.call(aten.rms_norm.default, args, seen.outputs[0])]


def _einsum(emit: Emitter, seen: Seen) -> list[int] | None:
    factors = [Ref(value) for value in seen.values if value is not None]
    equation = seen.attributes.get("equation", b"").decode(errors="replace")
    return [emit.call(aten.einsum.default, [equation, factors], seen.outputs[0])]


# Moving elements


def _reshape(emit: Emitter, seen: Seen) -> list[int] | None:
    return [emit.call(aten.reshape.default, [seen.ref(0), list(seen.outputs[0])], seen.outputs[0])]


def _transpose(emit: Emitter, seen: Seen) -> list[int] | None:
    order = seen.attributes.get("perm", list(range(len(seen.inputs[0])))[::-1])
    return [emit.call(aten.permute.default, [seen.ref(0), list(order)], seen.outputs[0])]


def _expand(emit: Emitter, seen: Seen) -> list[int] | None:
    return [emit.call(aten.expand.default, [seen.ref(0), list(seen.outputs[0])], seen.outputs[0])]


def _tile(emit: Emitter, seen: Seen) -> list[int] | None:
    before, after = seen.inputs[0], seen.outputs[0]
    if len(before) != len(after) or 0 in before:
        return None
    repeats = [new // old for old, new in zip(before, after, strict=True)]
    return [emit.call(aten.repeat.default, [seen.ref(0), repeats], after)]


def _concat(emit: Emitter, seen: Seen) -> list[int] | None:
    parts = [Ref(value) for value in seen.values if value is not None]
    return [emit.call(aten.cat.default, [parts, seen.attributes.get("axis", 1)], seen.outputs[0])]


def _split(emit: Emitter, seen: Seen) -> list[int] | None:
    axis = seen.attributes.get("axis", 0)
    starts = [0]
    for shape in seen.outputs:
        starts.append(starts[-1] + shape[axis])
    return [
        emit.call(aten.slice.Tensor, [seen.ref(0), axis, start, start + shape[axis]], shape)
        for start, shape in zip(starts, seen.outputs, strict=False)
    ]


def _slice(emit: Emitter, seen: Seen) -> list[int] | None:
    """One call an axis; a whole axis taken backwards is a flip. Ends that are computed cannot be told."""
    starts, ends = seen.numbers("starts", 1), seen.numbers("ends", 2)
    if starts is None or ends is None:
        return None
    axes = seen.numbers("axes", 3) if seen.has(3) or "axes" in seen.attributes else list(range(len(starts)))
    steps = seen.numbers("steps", 4) if seen.has(4) else [1] * len(starts)
    if axes is None or steps is None:
        return None
    value, shape = seen.values[0], list(seen.inputs[0])
    assert value is not None
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = axis % len(shape)
        taken = range(*slice(start, end, step).indices(shape[place]))
        if step == -1 and len(taken) == shape[place]:
            value = emit.call(aten.flip.default, [Ref(value), [place]], tuple(shape))
            continue
        if step < 1:
            return None
        shape[place] = len(taken)
        largest = 2**62
        bounds = [max(min(bound, largest), -largest) for bound in (start, end)]
        value = emit.call(aten.slice.Tensor, [Ref(value), place, *bounds, step], tuple(shape))
    return [value]


def _gather(emit: Emitter, seen: Seen) -> list[int] | None:
    axis = seen.attributes.get("axis", 0)
    indices = seen.constants[1]
    if seen.weights[0] and not seen.weights[1] and len(seen.inputs[0]) == 2 and not axis:
        return [emit.call(aten.embedding.default, [seen.ref(0), seen.ref(1)], seen.outputs[0])]
    if indices is not None and indices.ndim == 0:
        return [emit.call(aten.select.int, [seen.ref(0), axis, int(indices)], seen.outputs[0])]
    if len(seen.inputs[1]) == 1:
        return [emit.call(aten.index_select.default, [seen.ref(0), axis, seen.ref(1)], seen.outputs[0])]
    return None


def _pad(emit: Emitter, seen: Seen) -> list[int] | None:
    pads = seen.numbers("pads", 1)
    mode = seen.attributes.get("mode", b"constant")
    rank = len(seen.inputs[0])
    if pads is None or mode != b"constant" or seen.has(3) or len(pads) != 2 * rank:
        return None
    backwards = [pads[place + side] for place in reversed(range(rank)) for side in (0, rank)]
    filler = seen.constants[2] if seen.has(2) else None
    value = float(filler.reshape(-1)[0]) if filler is not None and filler.size else seen.attributes.get("value", 0.0)
    return [emit.call(aten.constant_pad_nd.default, [seen.ref(0), backwards, value], seen.outputs[0])]


def _depth_to_space(emit: Emitter, seen: Seen) -> list[int] | None:
    if seen.attributes.get("mode", b"DCR") != b"CRD":
        return None
    return [emit.call(aten.pixel_shuffle.default, [seen.ref(0), seen.attributes["blocksize"]], seen.outputs[0])]


# Functions of one operand, and of several


def _unary(func: Any) -> Translate:
    return lambda emit, seen: [emit.call(func, [seen.ref(0)], seen.outputs[0])]


def _softmax(emit: Emitter, seen: Seen) -> list[int] | None:
    axis = seen.attributes.get("axis", 1 if seen.opset < 13 else -1)
    return [emit.call(aten._softmax.default, [seen.ref(0), axis, False], seen.outputs[0])]


def _cumsum(emit: Emitter, seen: Seen) -> list[int] | None:
    axis = seen.numbers("axis", 1)
    return None if axis is None else [emit.call(aten.cumsum.default, [seen.ref(0), axis[0]], seen.outputs[0])]


def _binary(func: Any) -> Translate:
    """A function of two operands; of more, one after the other; of one, nothing."""

    def translate(emit: Emitter, seen: Seen) -> list[int] | None:
        given = [value for value in seen.values if value is not None]
        value, shape = given[0], seen.inputs[0]
        for other, other_shape in zip(given[1:], seen.inputs[1:], strict=True):
            shape = tuple(torch.broadcast_shapes(shape, other_shape))
            value = emit.call(func, [Ref(value), Ref(other)], shape)
        return [value]

    return translate


def _power(emit: Emitter, seen: Seen) -> list[int] | None:
    exponent = seen.constants[1]
    if exponent is None or exponent.size != 1:
        return [emit.call(aten.pow.Tensor_Tensor, [seen.ref(0), seen.ref(1)], seen.outputs[0])]
    return [emit.call(aten.pow.Tensor_Scalar, [seen.ref(0), float(exponent.reshape(-1)[0])], seen.outputs[0])]


def _where(emit: Emitter, seen: Seen) -> list[int] | None:
    return [emit.call(aten.where.self, [*map(seen.ref, range(3))], seen.outputs[0])]


# Functions of many elements


def _pool(kind: str) -> Translate:
    def translate(emit: Emitter, seen: Seen) -> list[int] | None:
        spatial = len(seen.inputs[0]) - 2
        if spatial not in (1, 2, 3):
            return None
        kernel = seen.attributes["kernel_shape"]
        strides = seen.attributes.get("strides", [1] * spatial)
        pads = [
            min(pad, size // 2) for pad, size in zip(seen.attributes.get("pads", [0] * spatial), kernel, strict=False)
        ]
        func = getattr(aten, f"{kind}_pool{spatial}d").default
        return [emit.call(func, [seen.ref(0), list(kernel), list(strides), pads], seen.outputs[0])]

    return translate


def _global_pool(emit: Emitter, seen: Seen) -> list[int] | None:
    rank = len(seen.inputs[0])
    return [emit.call(aten.mean.dim, [seen.ref(0), list(range(2, rank)), True], seen.outputs[0])]


def _resize(emit: Emitter, seen: Seen) -> list[int] | None:
    before, after = seen.inputs[0], seen.outputs[0]
    spatial = len(before) - 2
    if spatial not in (1, 2, 3) or before[:2] != after[:2]:
        return None
    func = getattr(aten, f"upsample_nearest{spatial}d").default
    return [emit.call(func, [seen.ref(0), list(after[2:])], after)]


def _reduce(func: Any) -> Translate:
    def translate(emit: Emitter, seen: Seen) -> list[int] | None:
        axes = seen.numbers("axes", 1)
        if axes is None and seen.has(1):
            return None
        if not axes and seen.attributes.get("noop_with_empty_axes", 0):
            return [seen.values[0]] if seen.values[0] is not None else None
        keep = bool(seen.attributes.get("keepdims", 1))
        return [emit.call(func, [seen.ref(0), axes or list(range(len(seen.inputs[0]))), keep], seen.outputs[0])]

    return translate


def _norm_of(order: float) -> Translate:
    inner = _reduce(aten.linalg_vector_norm.default)

    def translate(emit: Emitter, seen: Seen) -> list[int] | None:
        class _WithOrder:
            def call(self, func: Any, args: Sequence[Any], shape: Shape) -> int:
                return emit.call(func, [args[0], order, *args[1:]], shape)

        return inner(_WithOrder(), seen)

    return translate


# Activations


def _relu(emit: Emitter, seen: Seen) -> list[int] | None:
    return [emit.call(aten.relu.default, [seen.ref(0)], seen.outputs[0])]


def _prelu(emit: Emitter, seen: Seen) -> list[int] | None:
    return [emit.call(aten.prelu.default, [seen.ref(0), seen.ref(1)], seen.outputs[0])]


def _leaky_relu(emit: Emitter, seen: Seen) -> list[int] | None:
    args = [seen.ref(0), seen.attributes.get("alpha", 0.01)]
    return [emit.call(aten.leaky_relu.default, args, seen.outputs[0])]


def _clip(emit: Emitter, seen: Seen) -> list[int] | None:
    bounds: list[float] = []
    for name, place, otherwise in (("min", 1, -math.inf), ("max", 2, math.inf)):
        constant = seen.constants[place] if seen.has(place) else None
        if seen.has(place) and (constant is None or constant.size != 1):
            return None
        told = seen.attributes.get(name, otherwise) if constant is None else constant.reshape(-1)[0]
        bounds.append(float(told))
    return [emit.call(aten.hardtanh.default, [seen.ref(0), *bounds], seen.outputs[0])]


_UNARY = {
    "Abs": "abs", "Ceil": "ceil", "Erf": "erf", "Exp": "exp", "Floor": "floor", "Gelu": "gelu", "HardSigmoid":
    "hardsigmoid", "HardSwish": "hardswish", "Log": "log", "Mish": "mish", "Neg": "neg", "Reciprocal": "reciprocal",
    "Round": "round", "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin", "Cos": "cos", "Softplus": "softplus",
    "Sqrt": "sqrt", "Tanh": "tanh", "Elu": "elu", "Celu": "celu", "Selu": "selu", "Not": "logical_not", "Tan": "tan",
    "Atan": "atan", "Asin": "asin", "Acos": "acos", "Sinh": "sinh", "Cosh": "cosh", "Asinh": "asinh", "Cast": "alias",
    "CastLike": "alias", "DequantizeLinear": "alias", "QuantizeLinear": "alias",
}  # fmt: skip

_BINARY = {
    "Add": aten.add.Tensor,
    "Sum": aten.add.Tensor,
    "Sub": aten.sub.Tensor,
    "Mul": aten.mul.Tensor,
    "Div": aten.div.Tensor,
    "Max": aten.maximum.default,
    "Min": aten.minimum.default,
    "Mod": aten.remainder.Tensor,
    "And": aten.logical_and.default,
    "Or": aten.logical_or.default,
    "Xor": aten.logical_xor.default,
    "Equal": aten.eq.Tensor,
    "Less": aten.lt.Tensor,
    "LessOrEqual": aten.le.Tensor,
    "Greater": aten.gt.Tensor,
    "GreaterOrEqual": aten.ge.Tensor,
}

_TABLE: Mapping[str, Translate] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "Einsum": _einsum,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    **{name: _unary(getattr(aten, op).default) for name, op in _UNARY.items()},
    **{name: _binary(func) for name, func in _BINARY.items()},
    "Pow": _power,
    "Where": _where,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "CumSum": _cumsum,
    "MaxPool": _pool("max"),
    "AveragePool": _pool("avg"),
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Resize": _resize,
    "Upsample": _resize,
    "ReduceMean": _reduce(aten.mean.dim),
    "ReduceSum": _reduce(aten.sum.dim_IntList),
    "ReduceMax": _reduce(aten.amax.default),
    "ReduceMin": _reduce(aten.amin.default),
    "ReduceL1": _norm_of(1),
    "ReduceL2": _norm_of(2),
    "Relu": _relu,
    "ThresholdedRelu": _relu,
    "PRelu": _prelu,
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
}

_CONTRIBUTED: Mapping[str, Translate] = {
    "Gelu": _unary(aten.gelu.default),
    "FusedGemm": _gemm,
    "FusedConv": _conv,
    "FusedMatMul": _matmul,
}

"""Sizes that an ONNX file asks for by a number: a few bytes can stand for more memory than a machine has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from prelu_doctor.checkpoints.onnx_protobuf import all_nodes, all_tensors
from prelu_doctor.escaping import escaped

LARGEST = 2**28
"""Elements of one tensor that a file may ask for by a number: 1 GiB of float32."""

_FEW = 64
"""Numbers that a shape has at most."""

Array = npt.NDArray[np.float64]


def size_problem(model: ModelProto) -> str:
    """What a file asks for that is beyond reason; empty where nothing is.

    Told by what stands in the file. Sizes that are computed as the model runs cannot be told before.
    """
    known = _constants(model)
    for node in all_nodes(model):
        elements = _asked(node, known)
        if not elements <= LARGEST:  # not a number is beyond reason too
            name = f" '{escaped(node.name)}'" if node.name else ""
            return f"a node {escaped(node.op_type)}{name} that asks for a tensor of {elements:,.0f} elements"
    return ""


def _constants(model: ModelProto) -> dict[str, Array]:
    """Short vectors of numbers, by the names of the values that hold them.

    Of a name that stands in several graphs, functions or bodies, the largest: which of them a node means is its own
    affair, and none may be beyond reason.
    """
    known: dict[str, Array] = {}
    for name, numbers in _named_numbers(model):
        if name not in known or np.prod(np.abs(numbers)) > np.prod(np.abs(known[name])):
            known[name] = numbers
    return known


def _named_numbers(model: ModelProto) -> Iterator[tuple[str, Array]]:
    for tensor in all_tensors(model):
        if tensor.name and _is_short(tensor):
            yield tensor.name, _numbers(tensor)
    for node in all_nodes(model):
        if node.op_type == "Constant" and len(node.output) == 1:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR and _is_short(attribute.t):
                    yield node.output[0], _numbers(attribute.t)
                elif attribute.type in (AttributeProto.INT, AttributeProto.INTS):
                    yield node.output[0], np.ravel(helper.get_attribute_value(attribute)).astype(np.float64)


def _is_short(tensor: TensorProto) -> bool:
    return math.prod(tensor.dims) <= _FEW and tensor.data_type in _NUMBERS


def _numbers(tensor: TensorProto) -> Array:
    return numpy_helper.to_array(tensor).astype(np.float64).reshape(-1)


_NUMBERS = frozenset({TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT, TensorProto.DOUBLE})


def _asked(node: NodeProto, known: Mapping[str, Array]) -> float:
    """How many elements at least a node makes, as far as constants tell; 0 where they do not."""
    asked = 0.0
    for place, count in _BY_INPUT.get(node.op_type, ()):
        if place < len(node.input) and node.input[place] in known:
            asked = max(asked, count(known[node.input[place]]))
    if node.op_type == "Range" and all(name in known and known[name].size == 1 for name in node.input):
        start, end, step = (float(known[name][0]) for name in node.input)
        asked = max(asked, abs(end - start) / abs(step)) if step else math.inf
    for attribute in node.attribute:
        if attribute.type == AttributeProto.INTS and attribute.name in _BY_ATTRIBUTE:
            asked = max(asked, _BY_ATTRIBUTE[attribute.name](np.array(attribute.ints, np.float64)))
    return asked


def _product(sizes: Array) -> float:
    return float(np.prod(np.maximum(np.abs(sizes), 1)))


def _padded(pads: Array) -> float:
    """An axis gets at least as long as what is put before and behind it."""
    half = len(pads) // 2
    return _product(1 + np.maximum(pads[:half], 0) + np.maximum(pads[half:], 0)) if half else 0.0


_BY_INPUT: Mapping[str, Sequence[tuple[int, Callable[[Array], float]]]] = {
    "ConstantOfShape": ((0, _product),),
    "Expand": ((1, _product),),
    "Tile": ((1, _product),),
    "OneHot": ((1, _product),),
    "Pad": ((1, _padded),),
    "Resize": ((2, _product), (3, _product)),
    "Upsample": ((1, _product),),
}
_BY_ATTRIBUTE: Mapping[str, Callable[[Array], float]] = {
    "pads": _padded,
    "output_shape": _product,
    "output_padding": _product,
    "shape": _product,
}

"""Which nodes are activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import NodeProto

from prelu_doctor.checkpoints.onnx_files import Array
from prelu_doctor.onnx_scanning.bodies import STANDARD
from prelu_doctor.sites.activations import CEILING, Activation

Constant = Callable[[str], Array | None]
"""The numbers of a value that is the same in every run, where there are few of them."""

Comparison = Callable[[str], tuple[str, Callable[[str], bool]] | None]
"""For a value that is the outcome of comparing another with 0: the operator, and whether a name is that other."""

_LARGEST = 3e38
"""A bound beyond this is none: old exporters write the largest float32 there."""


def rectifier_of(
    node: NodeProto, attributes: Mapping[str, Any], constant: Constant, comparison: Comparison
) -> tuple[Activation, str] | None:
    """The activation that a node is, and the name of its pre-activation; None for others.

    Args:
        node: A node.
        attributes: Its attributes.
        constant: Tells bounds that are values of the graph.
        comparison: Tells comparisons with 0.
    """
    if node.domain not in STANDARD:
        return None
    data = maximum_with_zero(node, constant) or chosen_if_positive(node, constant, comparison)
    if data is not None:
        return Activation("relu", in_place=False), data
    recognise = _TABLE.get(node.op_type)
    activation = recognise(node, attributes, constant) if recognise else None
    return None if activation is None else (activation, node.input[0])


def hidden_rectifier(node: NodeProto, attributes: Mapping[str, Any]) -> str:
    """How an operator hides a rectifier inside itself; empty where it does not."""
    told = attributes.get("activation", b"")
    if node.domain not in STANDARD and isinstance(told, bytes) and told in _HIDDEN:
        return f"{told.decode()} is computed inside {node.op_type}, which an optimiser made: scan the file before that"
    inside = [name.decode() for name in attributes.get("activations", []) if name in _HIDDEN]
    if inside and node.op_type in ("RNN", "GRU", "LSTM"):
        return f"{inside[0]} is computed inside {node.op_type}, where it cannot be seen"
    return ""


_HIDDEN = frozenset({b"Relu", b"LeakyRelu", b"ThresholdedRelu", b"Clip", b"PRelu"})


def _relu(node: NodeProto, attributes: Mapping[str, Any], constant: Constant) -> Activation:
    return Activation("relu", in_place=False)


def _prelu(node: NodeProto, attributes: Mapping[str, Any], constant: Constant) -> Activation:
    return Activation("prelu", in_place=False)


def _leaky_relu(node: NodeProto, attributes: Mapping[str, Any], constant: Constant) -> Activation:
    return Activation("leaky_relu", in_place=False, slope=float(np.float32(attributes.get("alpha", 0.01))))


def _thresholded(node: NodeProto, attributes: Mapping[str, Any], constant: Constant) -> Activation | None:
    return Activation("relu", in_place=False) if attributes.get("alpha", 1.0) == 0 else None


def _clip(node: NodeProto, attributes: Mapping[str, Any], constant: Constant) -> Activation | None:
    """Old versions have the bounds as attributes, new ones as inputs that may be left out."""
    low = _bound(node, 1, attributes.get("min", -math.inf), constant)
    high = _bound(node, 2, attributes.get("max", math.inf), constant)
    if low != 0 or high is None or not high > 0:
        return None
    if high >= _LARGEST:
        return Activation("relu", in_place=False)
    return Activation("relu6" if high == CEILING else "clamp", in_place=False, ceiling=high)


def _bound(node: NodeProto, place: int, otherwise: float, constant: Constant) -> float | None:
    if len(node.input) <= place or not node.input[place]:
        return float(otherwise)
    value = constant(node.input[place])
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _is_zero(value: Array | None) -> bool:
    return value is not None and value.size > 0 and not value.any()


def maximum_with_zero(node: NodeProto, constant: Constant) -> str | None:
    """The operand that `Max(x, 0)` compares with 0; None where a node is no such thing."""
    if node.op_type != "Max" or len(node.input) != 2:
        return None
    zeros = [_is_zero(constant(name)) for name in node.input]
    return str(node.input[zeros.index(False)]) if sum(zeros) == 1 else None


def chosen_if_positive(node: NodeProto, constant: Constant, comparison: Comparison) -> str | None:
    """The operand x of `Where(x > 0, x, 0)` or `Where(x <= 0, 0, x)`; None where a node is no such thing."""
    if node.op_type != "Where":
        return None
    told = comparison(node.input[0])
    if told is None:
        return None
    op, compared = told
    for signs, data, zero in ((_ABOVE, node.input[1], node.input[2]), (_BELOW, node.input[2], node.input[1])):
        if op in signs and compared(data) and _is_zero(constant(zero)):
            return str(data)
    return None


_ABOVE = frozenset({"Greater", "GreaterOrEqual"})
_BELOW = frozenset({"Less", "LessOrEqual"})
COMPARISONS = _ABOVE | _BELOW

_TABLE: Mapping[str, Callable[[NodeProto, Mapping[str, Any], Constant], Activation | None]] = {
    "Relu": _relu,
    "PRelu": _prelu,
    "LeakyRelu": _leaky_relu,
    "ThresholdedRelu": _thresholded,
    "Clip": _clip,
}

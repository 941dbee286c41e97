"""The statistics of every activation, computed inside the graph: a few numbers a sample and unit leave it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto

from prelu_doctor.checkpoints.onnx_files import Array
from prelu_doctor.onnx_scanning.additions import Additions, CannotLeaveError
from prelu_doctor.onnx_scanning.bodies import Body
from prelu_doctor.onnx_scanning.dataflow import Rectifying
from prelu_doctor.onnx_scanning.translation import Shape
from prelu_doctor.scanning.layout import Layout
from prelu_doctor.sites.activations import RECTIFIERS

_MANY = 2**22
"""Positions from which on a float32 sum of ones might not be exact: it is from 2^24 on, and batches differ."""


@dataclass(frozen=True)
class Watched:
    """An activation to count.

    Attributes:
        node: The activation.
        unit_axis: Axis of its units.
        units: Their number C.
        shape: Of its tensor in one run.
        layout: Where its samples lie.
    """

    node: Rectifying
    unit_axis: int
    units: int
    shape: Shape
    layout: Layout

    @property
    def one_row(self) -> bool:
        """True where all of it is one sample, or one row because axis 0 holds the units."""
        return self.layout.lone or (not self.layout.known and self.unit_axis == 0)


@dataclass(frozen=True)
class Counts:
    """What one run showed of an activation.

    Attributes:
        positive: `[N, C]` positions at which the derivative is that of the positive side.
        magnitude: `[N, C]` sums of |h|.
        negative_infinities: How many pre-activations were -inf.
        elements: How many there were.
    """

    positive: Array
    magnitude: Array
    negative_infinities: float
    elements: int


class Counting:
    """A model that counts.

    Args:
        model: As it is stored.
        watched: The activations.
        bodies: Bodies that no run has reached so far.

    Attributes:
        lost: Activations that cannot be counted where they stand, and why.
    """

    def __init__(self, model: ModelProto, watched: Sequence[Watched], bodies: Sequence[Body]) -> None:
        additions = Additions(model)
        self.watched: list[Watched] = []
        self.lost: list[tuple[Watched, str]] = []
        for one in watched:
            if not one.layout.known and one.node.body.parent is not None:
                self.lost.append((one, "its samples cannot be told apart inside a body"))
                continue
            try:
                _count(additions, one)
            except CannotLeaveError as problem:
                self.lost.append((one, f"stands inside {problem}, out of which nothing can be carried"))
                continue
            self.watched.append(one)
        for body in bodies:
            _flag(additions, body)
        self.model = additions.finished()
        self.outputs = additions.outputs
        self.samples = additions.samples

    def read(self, results: Sequence[Array]) -> list[tuple[Watched, Counts]]:
        """The counts, from what the added outputs gave."""
        return [(one, _counts(result, one.units)) for one, result in zip(self.watched, results, strict=False)]

    def reached(self, results: Sequence[Array]) -> bool:
        """Whether one of the bodies was reached."""
        return any(result.any() for result in results[len(self.watched) :])


def _flag(additions: Additions, body: Body) -> None:
    """An output that is 0 unless a body was reached."""
    one = additions.constant([1], np.float64)
    with contextlib.suppress(CannotLeaveError):
        copy = additions.body(body)
        additions.carry_out(copy, one, lambda additions, _body: additions.constant([0], np.float64), combine="Max")


def _counts(result: Array, units: int) -> Counts:
    positive, magnitude = result[:-2].reshape(2, -1, units)
    return Counts(positive, magnitude, float(result[-2]), int(result[-1]))


def _count(additions: Additions, one: Watched) -> None:
    body = additions.body(one.node.body)
    data, result, axes, swapped = _arranged(additions, body, one)
    wide = one.node.element == TensorProto.DOUBLE
    positions = math.prod(one.shape) // max(one.units, 1)
    exact = TensorProto.DOUBLE if positions >= _MANY else TensorProto.FLOAT
    vector = [
        _reduced(
            additions,
            body,
            additions.cast(body, _active(additions, body, one, data, result, wide), exact),
            axes,
            swapped,
        ),
        _reduced(additions, body, _size(additions, body, one, result), axes, swapped),
        _number(additions, body, additions.sum(body, _infinite(additions, body, data, wide), None)),
        _number(additions, body, additions.add(body, "Size", [result])),
    ]

    def nothing(additions: Additions, body: Body) -> str:
        """Zeros for 2 N C + 2 numbers."""
        counts = additions.add(
            body, "Mul", [additions.samples, additions.constant([2 * one.units], np.int64)], front=True
        )
        if one.one_row:
            counts = additions.constant([2 * one.units], np.int64)
        length = additions.add(body, "Add", [counts, additions.constant([2], np.int64)], front=True)
        return additions.add(body, "Expand", [additions.constant([0], np.float64), length], front=True)

    additions.carry_out(body, additions.joined(body, vector), nothing)


def _arranged(additions: Additions, body: Body, one: Watched) -> tuple[str, str, list[int], bool]:
    """Pre-activation and output in at least float32, samples unfolded; the axes to sum over; if `[C, N]` is left."""
    data, result = one.node.data, one.node.result
    if one.node.element not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        data, result = (additions.cast(body, value, TensorProto.FLOAT) for value in (data, result))
    rank, unit_axis = len(one.shape), one.unit_axis
    if one.one_row:
        return data, result, [axis for axis in range(rank) if axis != unit_axis], False
    sample_axis = one.layout.axis
    if one.layout.folded != "no":
        data, result = (_unfolded(additions, body, value, rank, one.layout) for value in (data, result))
        rank, unit_axis = rank + 1, unit_axis + 1
    axes = [axis for axis in range(rank) if axis not in (unit_axis, sample_axis)]
    return data, result, axes, unit_axis < sample_axis


def _unfolded(additions: Additions, body: Body, value: str, rank: int, layout: Layout) -> str:
    rest = additions.constant([-1], np.int64)
    rows = [additions.samples, rest] if layout.folded == "sample-major" else [rest, additions.samples]
    if rank > 1:
        behind = additions.constant(list(range(1, rank)), np.int64)
        rows.append(additions.add(body, "Gather", [additions.add(body, "Shape", [value]), behind], axis=0))
    return additions.add(body, "Reshape", [value, additions.joined(body, rows)])


def _active(additions: Additions, body: Body, one: Watched, data: str, result: str, wide: bool) -> str:
    """True exactly where the derivative is that of the positive side. A comparison with NaN is False."""
    number = np.float64 if wide else np.float32
    zero = additions.constant(0, number)
    activation = one.node.activation
    if activation.function not in RECTIFIERS:
        return additions.add(body, "Greater", [data, zero])
    positive = additions.add(body, "Greater", [result, zero])
    if activation.ceiling is None:
        return positive
    below = additions.add(body, "Less", [result, additions.constant(activation.ceiling, number)])
    return additions.add(body, "And", [positive, below])


def _size(additions: Additions, body: Body, one: Watched, result: str) -> str:
    return result if one.node.activation.function in RECTIFIERS else additions.add(body, "Abs", [result])


def _infinite(additions: Additions, body: Body, data: str, wide: bool) -> str:
    """1 where a pre-activation is -inf: below the lowest finite number."""
    number = np.float64 if wide else np.float32
    lowest = additions.constant(np.finfo(number).min, number)
    return additions.cast(body, additions.add(body, "Less", [data, lowest]), TensorProto.FLOAT)


def _reduced(additions: Additions, body: Body, value: str, axes: list[int], swapped: bool) -> str:
    """`[N, C]` as a flat float64 vector."""
    total = additions.sum(body, value, axes)
    if swapped:
        total = additions.add(body, "Transpose", [total], perm=[1, 0])
    flat = additions.add(body, "Reshape", [total, additions.constant([-1], np.int64)])
    return additions.cast(body, flat, TensorProto.DOUBLE)


def _number(additions: Additions, body: Body, scalar: str) -> str:
    """One number as a float64 vector of one."""
    flat = additions.add(body, "Reshape", [scalar, additions.constant([1], np.int64)])
    return additions.cast(body, flat, TensorProto.DOUBLE)

"""Where the samples of a batch lie in each pre-activation, told by changing one sample and looking at what moves."""

from __future__ import annotations

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


class Prints:
    """A model that tells of every pre-activation its sums, and those of its squares, along each axis.

    Args:
        model: As it is stored.
        rectifying: The activations to look at, with the shapes that their pre-activations will have.
    """

    def __init__(self, model: ModelProto, rectifying: Sequence[tuple[Rectifying, Shape]]) -> None:
        additions = Additions(model)
        self._watched: list[tuple[Rectifying, Shape]] = []
        for one, shape in rectifying:
            try:
                self._watch(additions, one, shape)
            except CannotLeaveError:
                continue
            self._watched.append((one, shape))
        self.model = additions.finished()
        self.outputs = additions.outputs
        self.samples = additions.samples

    def _watch(self, additions: Additions, one: Rectifying, shape: Shape) -> None:
        body = additions.body(one.body)
        value = additions.cast(body, one.data, TensorProto.DOUBLE)
        square = additions.add(body, "Mul", [value, value])
        parts = []
        for axis in range(len(shape)):
            others = [other for other in range(len(shape)) if other != axis]
            parts += [additions.sum(body, part, others) for part in (value, square)]
        size = 2 * sum(shape)

        def nothing(additions: Additions, body: Body) -> str:
            return additions.constant(np.zeros(size), np.float64)

        additions.carry_out(body, additions.joined(body, parts), nothing)

    def read(self, results: Sequence[Array]) -> dict[tuple[object, ...], list[Array]]:
        """By the key of an activation its prints: for each axis `[2, length]`."""
        prints = {}
        for (one, shape), result in zip(self._watched, results, strict=True):
            ends = np.cumsum([2 * length for length in shape])[:-1]
            prints[one.key] = [part.reshape(2, -1) for part in np.split(result, ends)]
        return prints


@dataclass(frozen=True)
class Moves:
    """What moved in a pre-activation when samples were changed.

    Attributes:
        first: For each axis, which entries moved when sample 0 was changed.
        others: Likewise for all the other samples.
    """

    first: list[Array]
    others: list[Array]


def moves_of(before: list[Array], first: list[Array], others: list[Array]) -> Moves:
    """What moved, by prints of the batch as it is and with other samples."""
    return Moves(
        [_moved(old, new) for old, new in zip(before, first, strict=True)],
        [_moved(old, new) for old, new in zip(before, others, strict=True)],
    )


def _moved(old: Array, new: Array) -> Array:
    with np.errstate(invalid="ignore"):
        near = np.isclose(old, new, rtol=1e-6, atol=1e-12, equal_nan=True)
    moved: Array = ~near.all(axis=0)
    return moved


def fitting_layouts(moves: Moves, unit_axis: int, samples: int) -> list[Layout]:
    """Every layout in which changing a sample moved nothing outside its own place.

    Args:
        moves: What moved.
        unit_axis: Axis of the units.
        samples: Samples N of the batch that was run, 2 or more.
    """
    lengths = [len(axis) for axis in moves.first]
    plain = [Layout(axis=axis) for axis, size in enumerate(lengths) if size == samples and axis != unit_axis]
    if unit_axis != 0 and lengths[0] % samples == 0 and lengths[0] != samples:
        plain += [Layout(folded="sample-major"), Layout(axis=1, folded="sample-minor")]
    return [layout for layout in plain if _fits(layout, moves, samples)]


def _fits(layout: Layout, moves: Moves, samples: int) -> bool:
    axis = layout.axis if layout.folded == "no" else 0
    first, others = moves.first[axis], moves.others[axis]
    places = np.arange(len(first))
    own = places % samples == 0 if layout.folded == "sample-minor" else places < len(first) // samples
    return not first[~own].any() and not others[own].any()


def grows(layout: Layout, two: Shape, three: Shape) -> bool:
    """True where of all axes the layout's alone has half as much again with three samples as with two."""
    axis = 0 if layout.folded != "no" else layout.axis
    return three == tuple(size * 3 // 2 if place == axis else size for place, size in enumerate(two))

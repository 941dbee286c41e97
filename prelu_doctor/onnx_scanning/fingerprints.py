"""Fingerprints of pre-activations, computed inside the graph: they move where a sample is changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from onnx import ModelProto, TensorProto

from prelu_doctor.checkpoints.onnx_files import Array
from prelu_doctor.onnx_scanning.additions import Additions, CannotLeaveError
from prelu_doctor.onnx_scanning.bodies import Body
from prelu_doctor.onnx_scanning.dataflow import Rectifying
from prelu_doctor.onnx_scanning.translation import Shape

_SQUARES = 0.618
"""How much the squares weigh: two samples of equal sums differ in these."""


class Fingerprints:
    """A model that tells, along each axis of every pre-activation, sums of its values and of their squares.

    Args:
        model: As it is stored.
        asked: The activations to look at, and the shapes that their pre-activations have in a run of this size.
    """

    def __init__(self, model: ModelProto, asked: Sequence[tuple[Rectifying, Shape]]) -> None:
        additions = Additions(model)
        self._watched: list[Rectifying] = []
        for one, shape in asked:
            try:
                _watch(additions, one, shape)
            except CannotLeaveError:
                continue
            self._watched.append(one)
        self.model = additions.finished()
        self.outputs = additions.outputs
        self.samples = additions.samples

    def read(self, results: Sequence[Array], shapes: Sequence[Shape]) -> dict[tuple[object, ...], list[torch.Tensor]]:
        """By the key of an activation, for each axis its numbers.

        Args:
            results: Of the added outputs.
            shapes: Of the pre-activations in this run, in the order in which they were asked for.
        """
        prints = {}
        for one, result, shape in zip(self._watched, results, shapes, strict=False):
            if result.size == sum(shape):
                ends = np.cumsum(shape)[:-1]
                prints[one.key] = [torch.from_numpy(part.copy()) for part in np.split(result, ends)]
        return prints


def _watch(additions: Additions, one: Rectifying, shape: Shape) -> None:
    body = additions.body(one.body)
    value = additions.cast(body, one.data, TensorProto.DOUBLE)
    weight = additions.constant(_SQUARES, np.float64)
    squares = additions.add(body, "Mul", [additions.add(body, "Mul", [value, value]), weight])
    both = additions.add(body, "Add", [value, squares])
    sums = [
        additions.sum(body, both, [other for other in range(len(shape)) if other != axis]) for axis in range(len(shape))
    ]
    size = sum(shape)

    def nothing(additions: Additions, body: Body) -> str:
        return additions.constant(np.zeros(size), np.float64)

    additions.carry_out(body, additions.joined(body, sums), nothing)

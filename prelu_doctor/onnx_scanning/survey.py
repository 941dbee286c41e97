"""Shapes and types of every value of a model, the shapes taken from a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from prelu_doctor.checkpoints.onnx_files import Array
from prelu_doctor.onnx_scanning.additions import Additions, CannotLeaveError
from prelu_doctor.onnx_scanning.bodies import Body, bodies_of

MOST_AXES = 8
_WIDTH = MOST_AXES + 2
"""Numbers told of a value: 1 where it was computed and -1 elsewhere, its sizes, and -1 behind them."""

_SEQUENCES = frozenset(
    """
    SequenceConstruct SequenceEmpty SequenceInsert SequenceErase SequenceMap SplitToSequence Optional ZipMap
    DictVectorizer
    """.split()
)
"""Operators that give something other than a tensor."""

Name = tuple[tuple[tuple[int, str], ...], str]
"""A value of a model: the key of its body, and its name there."""


@dataclass
class Types:
    """Number types of values, as far as onnx infers them.

    Attributes:
        elements: `TensorProto` types of tensors.
        others: Values that are no tensors.
    """

    elements: dict[Name, int] = field(default_factory=dict)
    others: set[Name] = field(default_factory=set)


def infer_types(model: ModelProto) -> Types:
    """The number types of a model's values."""
    light = ModelProto()
    light.CopyFrom(model)
    large = [tensor for tensor in light.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    light.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in large
    )
    for tensor in large:
        light.graph.initializer.remove(tensor)
    try:
        inferred = onnx.shape_inference.infer_shapes(light)
    except Exception:  # it stops at operators that it does not know, and at sizes that contradict each other
        inferred = light
    types = Types()
    for body in bodies_of(inferred).inside():
        for value in (*body.graph.input, *body.graph.output, *body.graph.value_info):
            _note_type(types, (body.key, value.name), value)
        for tensor in body.graph.initializer:
            types.elements[body.key, tensor.name] = tensor.data_type
        for node in body.graph.node:
            if node.op_type in _SEQUENCES:
                types.others.update((body.key, name) for name in node.output)
    return types


def _note_type(types: Types, name: Name, value: ValueInfoProto) -> None:
    kind = value.type.WhichOneof("value")
    if kind == "tensor_type" and value.type.tensor_type.elem_type:
        types.elements[name] = value.type.tensor_type.elem_type
    elif kind not in (None, "tensor_type"):
        types.others.add(name)


class Survey:
    """A model that tells the shapes of its values.

    Args:
        model: As it is stored.
        types: Of its values.
    """

    def __init__(self, model: ModelProto, types: Types) -> None:
        self._additions = Additions(model)
        self._names: list[Name] = []
        self.blind: dict[Name, str] = {}
        for body in bodies_of(model).inside():
            names = [(body.key, name) for name in _values(body) if (body.key, name) not in types.others]
            if names:
                self._tell(body, names)
        self.model = self._additions.finished()
        self.outputs = self._additions.outputs
        self.samples = self._additions.samples

    def _tell(self, body: Body, names: list[Name]) -> None:
        additions, copy = self._additions, self._additions.body(body)
        constant = additions.constant
        told = [
            additions.first(
                copy,
                additions.joined(
                    copy,
                    [
                        constant([1], np.float64),
                        additions.cast(copy, additions.add(copy, "Shape", [name]), TensorProto.DOUBLE),
                        constant([-1] * MOST_AXES + [-1], np.float64),
                    ],
                ),
                _WIDTH,
            )
            for _, name in names
        ]
        width = _WIDTH * len(names)

        def nothing(additions: Additions, body: Body) -> str:
            return additions.constant(np.full(width, -1), np.float64)

        try:
            additions.carry_out(copy, additions.joined(copy, told), nothing, combine="Max")
        except CannotLeaveError as problem:
            self.blind.update(dict.fromkeys(names, str(problem)))
            return
        self._names += names

    def shapes(self, results: list[Array]) -> dict[Name, tuple[int, ...]]:
        """The shapes of all values that were computed.

        Args:
            results: Of the outputs that were added.
        """
        told = np.concatenate([result.reshape(-1, _WIDTH) for result in results]) if results else np.zeros((0, _WIDTH))
        shapes = {}
        for name, row in zip(self._names, told.astype(int).tolist(), strict=True):
            if row[0] > 0 and row[-1] < 0:
                shapes[name] = tuple(size for size in row[1:] if size >= 0)
        return shapes


def _values(body: Body) -> Iterator[str]:
    """What a body's inputs and nodes are called; what it holds from the start has its shape in the file."""
    held = {tensor.name for tensor in body.graph.initializer}
    yield from (value.name for value in body.graph.input if value.name not in held)
    for node in body.graph.node:
        yield from (name for name in node.output if name)

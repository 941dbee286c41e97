"""Nodes added to a copy of a model, whose results are carried out of bodies to outputs of the main graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from prelu_doctor.checkpoints.onnx_protobuf import messages, opset_of
from prelu_doctor.onnx_scanning.bodies import Body, bodies_of

SAMPLES = "samples"
"""The added input: the number of samples N of the batch, int64 `[1]`."""

Neutral = Callable[["Additions", Body], str]
"""Adds nodes that compute what a result is where its body did not run, and gives the value's name."""


class CannotLeaveError(Exception):
    """A value stands in a body that nothing can be carried out of; the text says which."""


class Additions:
    """A copy of a model that grows.

    Args:
        model: The model; not changed. What is large in it should lie elsewhere, because it is copied.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.opset = opset_of(model)
        self.outputs: list[str] = []
        self._prefix = _unused_prefix(model)
        self._count = 0
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self._front: dict[Body, list[NodeProto]] = defaultdict(list)
        main = bodies_of(self.model)
        self._bodies = {body.key: body for body in main.inside()}
        self.samples = self._name(SAMPLES)
        self.model.graph.input.append(helper.make_tensor_value_info(self.samples, TensorProto.INT64, [1]))

    def body(self, like: Body) -> Body:
        """The copy of a body of the model."""
        return self._bodies[like.key]

    def constant(self, value: npt.ArrayLike, dtype: Any) -> str:
        """An initialiser of the main graph, which every body sees."""
        array = np.asarray(value, dtype)
        key = (str(array.dtype), array.tobytes(), array.shape)
        if key not in self._constants:
            self._constants[key] = self._name("constant")
            self.model.graph.initializer.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def add(self, body: Body, op: str, inputs: Sequence[str], *, front: bool = False, **attributes: Any) -> str:
        """A node at the end of a body, or at its front where it reads nothing of it; its output's name."""
        name = self._name(op)
        node = helper.make_node(op, list(inputs), [name], name, **attributes)
        if front:
            self._front[body].append(node)
        else:
            body.graph.node.append(node)
        return name

    def sum(self, body: Body, value: str, axes: Sequence[int] | None, *, keep: bool = False) -> str:
        """The sum over some axes (None for all); over no axis it is the value itself."""
        if axes is not None and not axes:
            return value
        if axes is None:
            return self.add(body, "ReduceSum", [value], keepdims=int(keep))
        if self.opset < 13:
            return self.add(body, "ReduceSum", [value], axes=list(axes), keepdims=int(keep))
        return self.add(body, "ReduceSum", [value, self.constant(list(axes), np.int64)], keepdims=int(keep))

    def first(self, body: Body, value: str, count: int) -> str:
        """The first elements of a vector."""
        if self.opset < 10:
            return self.add(body, "Slice", [value], starts=[0], ends=[count], axes=[0])
        return self.add(body, "Slice", [value, *(self.constant([n], np.int64) for n in (0, count, 0))])

    def cast(self, body: Body, value: str, to: int, *, front: bool = False) -> str:
        """The value as another number type."""
        return self.add(body, "Cast", [value], front=front, to=to)

    def joined(self, body: Body, vectors: Sequence[str], *, front: bool = False) -> str:
        """Vectors, one behind the other."""
        return self.add(body, "Concat", vectors, front=front, axis=0)

    def carry_out(self, body: Body, value: str, neutral: Neutral, combine: str = "Add") -> None:
        """Makes a float64 vector an output of the model; what the turns of a loop give is combined.

        Args:
            body: Where it is computed.
            value: Its name there.
            neutral: What it is where the body does not run.
            combine: `Add` or `Max`.

        Raises:
            CannotLeaveError: A body on the way is not that of an If, Loop or Scan.
        """
        for outer in _ways_out(body):
            if outer.kind not in ("If", "Loop", "Scan") or (outer.kind == "Scan" and self.opset < 9):
                raise CannotLeaveError(outer.node.op_type if outer.node is not None else "")
        while body.parent is not None:
            value = (
                self._through_branch(body, value, neutral)
                if body.kind == "If"
                else self._through_loop(body, value, neutral, combine)
            )
            body = body.parent
        self.model.graph.output.append(helper.make_tensor_value_info(value, TensorProto.DOUBLE, None))
        self.outputs.append(value)

    def finished(self) -> ModelProto:
        """The copy, its added nodes in place."""
        for body, nodes in self._front.items():
            for place, node in enumerate(nodes):
                body.graph.node.insert(place, node)
        self._front.clear()
        return self.model

    def _through_branch(self, body: Body, value: str, neutral: Neutral) -> str:
        assert body.parent is not None
        assert body.node is not None
        for other in body.parent.of_node(body.key[-1][0]).values():
            result = value if other is body else neutral(self, other)
            # A value of the graph around it may not be an output of a branch as it is.
            result = self.add(other, "Identity", [result])
            other.graph.output.append(helper.make_tensor_value_info(result, TensorProto.DOUBLE, None))
        name = self._name("taken")
        body.node.output.append(name)
        return name

    def _through_loop(self, body: Body, value: str, neutral: Neutral, combine: str) -> str:
        """A state that starts as nothing, and to which every turn adds."""
        assert body.parent is not None
        assert body.node is not None
        lead, states = body.lead_and_states
        before, name = self._name("before"), self._name("total")
        start = neutral(self, body.parent)
        after = self.add(body, combine, [before, value])
        body.graph.input.insert(lead + states, helper.make_tensor_value_info(before, TensorProto.DOUBLE, None))
        body.graph.output.insert(lead // 2 + states, helper.make_tensor_value_info(after, TensorProto.DOUBLE, None))
        body.node.input.extend([""] * (lead - len(body.node.input)))  # either may have been left out
        body.node.input.insert(lead + states, start)
        body.node.output.insert(states, name)
        return name

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{self._prefix}{what}_{self._count}"


def _ways_out(body: Body) -> list[Body]:
    found = []
    while body.parent is not None:
        found.append(body)
        body = body.parent
    return found


def _unused_prefix(model: ModelProto) -> str:
    """A start that no name in the model has."""
    prefix = "prelu_doctor."
    names: set[str] = set()
    for message in messages(model):
        if isinstance(message, NodeProto):
            names.update(message.input, message.output)
        elif isinstance(message, ValueInfoProto | TensorProto):
            names.add(message.name)
    while any(name.startswith(prefix) for name in names):
        prefix = f"_{prefix}"
    return prefix

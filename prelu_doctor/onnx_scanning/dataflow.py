"""An ONNX model as the `Graph` that tracing its PyTorch original would have recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto, numpy_helper

from prelu_doctor.checkpoints.onnx_files import Array, StoredOnnx
from prelu_doctor.escaping import escaped
from prelu_doctor.onnx_scanning.bodies import STANDARD, Body, attributes_of, bodies_of
from prelu_doctor.onnx_scanning.names import Origins, Positions, is_torch_name
from prelu_doctor.onnx_scanning.rectifiers import COMPARISONS, hidden_rectifier, rectifier_of
from prelu_doctor.onnx_scanning.survey import Name, Types
from prelu_doctor.onnx_scanning.translation import Seen, Shape, translation_of
from prelu_doctor.records import Unresolved
from prelu_doctor.sites.activations import Activation
from prelu_doctor.sites.graph import Call, Graph, Ref

_FEW = 4096
"""Numbers up to which a constant is looked at: bounds, axes, sizes, indices."""

_SAME = frozenset({"Identity", "Dropout"})
_SHAPES = frozenset({"Shape", "Size"})
_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True)
class Rectifying:
    """A node that is an activation.

    Attributes:
        body: Where it stands.
        index: Its place there.
        data: Name of its pre-activation.
        result: Name of its output.
        activation: What it is.
        element: `TensorProto` type of its data.
    """

    body: Body
    index: int
    data: str
    result: str
    activation: Activation
    element: int

    @property
    def key(self) -> tuple[object, ...]:
        """Its place in the model."""
        return (*self.body.key, self.index)


@dataclass
class Dataflow:
    """What a run of the model computes from what.

    Attributes:
        graph: Its calls.
        rectifying: By the index of an activation call, the node.
        slopes: Names of the initialisers that are the slopes of PRelu calls, by the index of the call.
        unreached: Activations in branches that were not taken, or in loops without a turn, each with its body.
        hidden: Activations that cannot be looked at, and why.
    """

    graph: Graph
    rectifying: dict[int, Rectifying] = field(default_factory=dict)
    slopes: dict[int, str] = field(default_factory=dict)
    unreached: list[tuple[Body, Unresolved]] = field(default_factory=list)
    hidden: list[Unresolved] = field(default_factory=list)


def dataflow_of(stored: StoredOnnx, types: Types, shapes: Mapping[Name, Shape], samples: int) -> Dataflow:
    """The dataflow of a run.

    Args:
        stored: The model.
        types: Of its values.
        shapes: Of the values that the run computed.
        samples: Number of samples N of its batch.
    """
    return _Walk(stored, types, shapes, samples).run()


class _Scope(dict[str, int]):
    """The values that a body sees, by name."""


class _Walk:
    def __init__(self, stored: StoredOnnx, types: Types, shapes: Mapping[Name, Shape], samples: int) -> None:
        self._stored = stored
        self._types = types
        self._shapes = shapes
        self._main = bodies_of(stored.model)
        nodes = [node for body in self._main.inside() for node in body.graph.node]
        self._origins = Origins(nodes)
        self._positions = Positions(self._origins)
        self._graph = Graph(samples=samples)
        self._flow = Dataflow(self._graph)
        self._constants: dict[int, Array] = {}
        self._unnamed: set[int] = set()
        self._initialisers: dict[int, str] = {}
        self._compared: dict[int, tuple[str, int]] = {}
        self._first_reader: dict[int, str] = {}
        self._copies: dict[tuple[int, str], int] = {}
        self._owner = ""
        self._numbers: dict[str, int] = {}

    def run(self) -> Dataflow:
        scope = _Scope()
        self._hold(self._main, scope)
        for value in self._main.graph.input:
            if value.name not in scope:
                scope[value.name] = self._new(self._main, value.name)
                self._graph.from_input.add(scope[value.name])
        self._nodes(self._main, scope)
        self._graph.outputs = {scope[value.name] for value in self._main.graph.output if value.name in scope}
        self._graph.parameters = {*self._graph.tensors.values()}
        return self._flow

    # Values

    def _new(self, body: Body, name: str, shape: Shape | None = None) -> int:
        element = self._types.elements.get((body.key, name), TensorProto.FLOAT)
        return self._value(self._shapes.get((body.key, name), ()) if shape is None else shape, element)

    def _value(self, shape: Shape, element: int) -> int:
        self._graph.shapes.append(shape)
        self._graph.dtypes.append(_DTYPES.get(element, torch.float32))
        return len(self._graph.shapes) - 1

    def _hold(self, body: Body, scope: _Scope) -> None:
        """Enters what a body holds from the start."""
        for tensor in body.graph.initializer:
            scope[tensor.name] = value = self._tensor(tensor, tensor.name)
            self._initialisers[value] = tensor.name

    def _tensor(self, tensor: TensorProto, name: str) -> int:
        value = self._value(tuple(tensor.dims), tensor.data_type)
        shape = self._graph.shapes[value]
        elements = torch.Size(shape).numel()
        if elements <= _FEW and tensor.data_type != TensorProto.STRING:
            self._constants[value] = self._stored.tensor(tensor)
        if tensor.data_type in _INDICES and elements <= _FEW:
            self._graph.constants[value] = torch.from_numpy(self._constants[value].astype("int64"))
        if is_torch_name(name) and tensor.data_type in _FLOATS:
            self._graph.tensors[value] = escaped(name, 200)
        elif tensor.data_type not in _INDICES and elements > 1:
            self._unnamed.add(value)
        return value

    def _constant(self, scope: _Scope, name: str) -> Array | None:
        value = scope.get(name)
        return None if value is None else self._constants.get(value)

    # Nodes

    def _nodes(self, body: Body, scope: _Scope) -> None:
        for index, node in enumerate(body.graph.node):
            self._node(body, index, node, scope)

    def _node(self, body: Body, index: int, node: NodeProto, scope: _Scope) -> None:
        attributes = attributes_of(node)
        self._owner = self._owner_of(node)
        inner = body.of_node(index)
        if inner:
            self._with_bodies(body, index, node, scope)
        elif node.domain in STANDARD and node.op_type == "Constant":
            self._constant_node(body, node, attributes, scope)
        elif node.domain in STANDARD and node.op_type in _SAME and node.input[0] in scope:
            scope[node.output[0]] = scope[node.input[0]]
            self._others(body, node.output[1:], scope)
        else:
            found = rectifier_of(node, attributes, partial(self._constant, scope), partial(self._comparison, scope))
            hidden = hidden_rectifier(node, attributes)
            if hidden:
                self._flow.hidden.append(Unresolved(id=self._called(node), reason=hidden))
            if found and self._rectifier(body, index, node, *found, scope):
                return
            self._plain(body, node, attributes, scope)

    def _others(self, body: Body, names: Sequence[str], scope: _Scope) -> None:
        """Outputs that nothing is told of."""
        for name in names:
            if name:
                scope[name] = self._new(body, name)

    def _constant_node(self, body: Body, node: NodeProto, attributes: Mapping[str, Any], scope: _Scope) -> None:
        tensor = attributes.get("value")
        if not isinstance(tensor, TensorProto):
            given = next((given for name, given in attributes.items() if name in _NUMBERS), None)
            if given is None:
                self._others(body, node.output, scope)
                return
            whole = isinstance(given, int) or (isinstance(given, Sequence) and all(isinstance(n, int) for n in given))
            tensor = numpy_helper.from_array(np.array(given, np.int64 if whole else np.float32))
        scope[node.output[0]] = self._tensor(tensor, node.output[0])

    def _comparison(self, scope: _Scope, name: str) -> tuple[str, Callable[[str], bool]] | None:
        """Which value was compared with 0, if this is the outcome."""
        told = self._compared.get(scope.get(name, -1))
        return None if told is None else (told[0], lambda other: scope.get(other) == told[1])

    def _rectifier(
        self, body: Body, index: int, node: NodeProto, activation: Activation, data: str, scope: _Scope
    ) -> bool:
        """Records an activation; False where it cannot be one."""
        result = node.output[0]
        value = scope.get(data)
        if value is None:
            return False
        element = self._types.elements.get((body.key, result), self._types.elements.get((body.key, data)))
        element = TensorProto.FLOAT if element is None else element
        if element not in _FLOATS:
            if node.op_type == "Relu":  # the others are ways to compute with numbers
                name = TensorProto.DataType.Name(element).lower()
                reason = f"acts on {name} values, which have no gradient"
                self._flow.hidden.append(Unresolved(id=self._called(node), reason=reason))
            return False
        shape = self._shapes.get((body.key, result))
        if shape is None:
            reason = "no sample went this way: its branch was never taken, or its loop made no turn"
            self._flow.unreached.append((body, Unresolved(id=self._called(node), reason=reason)))
            return False
        args: list[Any] = [Ref(value)]
        function = activation.function
        if function == "prelu":
            slope = scope[node.input[1]]
            self._name_parameter(slope, "weight")
            args.append(Ref(slope))
            if slope in self._initialisers:
                self._flow.slopes[len(self._graph.calls)] = self._initialisers[slope]
        elif function == "leaky_relu":
            args.append(activation.slope)
        elif activation.ceiling is not None:
            args += [0.0, activation.ceiling]
        call_index = len(self._graph.calls)
        scope[result] = self._emit(_FUNCTIONS[function], args, shape, element)
        position = self._positions.next(node, function, self._called(node))
        self._graph.calls[call_index] = replace(self._graph.calls[call_index], activation=activation, position=position)
        self._flow.rectifying[call_index] = Rectifying(body, index, data, result, activation, element)
        return True

    def _called(self, node: NodeProto) -> str:
        """What the report calls a node: its name, or its operator with a number."""
        if node.name:
            return escaped(node.name, 200)
        self._numbers[node.op_type] = self._numbers.get(node.op_type, 0) + 1
        return f"{escaped(node.op_type)}#{self._numbers[node.op_type]}"

    def _owner_of(self, node: NodeProto) -> str:
        origin = self._origins.of(node)
        if origin is not None and origin.path:
            return escaped(origin.path, 200)
        return escaped(node.name or (node.output[0] if node.output else node.op_type), 200)

    def _plain(self, body: Body, node: NodeProto, attributes: Mapping[str, Any], scope: _Scope) -> None:
        """Records a node that is no activation."""
        path = self._module_of(node)
        values = [self._read(scope.get(name), path) if name else None for name in node.input]
        translate = translation_of(node)
        shapes = [self._shapes.get((body.key, name)) for name in node.output]
        element = self._types.elements.get((body.key, node.output[0]), TensorProto.FLOAT) if node.output else 0
        self._name_parameters(node, values)
        if translate and all(shape is not None for shape in shapes):
            seen = Seen(
                node=node,
                attributes=attributes,
                values=values,
                inputs=[() if value is None else self._graph.shapes[value] for value in values],
                constants=[None if value is None else self._constants.get(value) for value in values],
                outputs=[shape for shape in shapes if shape is not None],
                weights=[value is not None and self._graph.is_weight(value) for value in values],
                opset=self._stored.opset,
            )
            try:
                written = translate(_Emitter(self, element), seen)
            except (IndexError, KeyError, TypeError, ValueError, RuntimeError):
                written = None  # the file says what cannot be
            if written is not None:
                scope.update({name: value for name, value in zip(node.output, written, strict=False) if name})
                self._carry_constant(node, values, written)
                self._note_comparison(node, values, written)
                self._others(body, node.output[len(written) :], scope)
                return
        self._unknown(body, node, [value for value in values if value is not None], scope)

    def _carry_constant(self, node: NodeProto, values: Sequence[int | None], written: Sequence[int]) -> None:
        """A cast or reshaped constant is one."""
        known = self._constants.get(values[0]) if values and values[0] is not None else None
        if known is not None and node.op_type in _FORM_ONLY:
            self._constants[written[0]] = known.reshape(self._graph.shapes[written[0]])

    def _note_comparison(self, node: NodeProto, values: Sequence[int | None], written: Sequence[int]) -> None:
        if node.op_type in COMPARISONS and values[0] is not None and values[1] is not None:
            zero = self._constants.get(values[1])
            if zero is not None and zero.size and not zero.any():
                self._compared[written[0]] = (node.op_type, values[0])

    def _unknown(self, body: Body, node: NodeProto, reads: Sequence[int], scope: _Scope) -> None:
        """A call that no rule knows."""
        told = node.domain in STANDARD and node.op_type in _SHAPES
        names = [name for name in node.output if name]
        writes = [self._new(body, name) for name in names]
        scope.update(zip(names, writes, strict=True))
        drawn = node.op_type in _RANDOM
        depends = not told and (drawn or any(value in self._graph.from_input for value in reads))
        self._append(
            f"onnx::{node.op_type}", torch.ops.aten.alias.default, tuple(map(Ref, reads)), reads, writes, depends
        )

    # Parameters

    def _module_of(self, node: NodeProto) -> str:
        """The module that a node comes from; empty where the file does not tell it for sure."""
        origin = self._origins.of(node)
        return origin.path if origin is not None and origin.tells_apart else ""

    def _read(self, value: int | None, path: str) -> int | None:
        """A value as a module reads it.

        The exporter makes one of all initialisers that hold the same numbers, so that two layers that start alike look
        like one that is used twice: what another module reads is taken for a parameter of its own.
        """
        if value is None or not path or (value not in self._graph.tensors and value not in self._unnamed):
            return value
        if self._first_reader.setdefault(value, path) == path:
            return value
        if (value, path) not in self._copies:
            copy = self._value(self._graph.shapes[value], 0)
            self._graph.dtypes[copy] = self._graph.dtypes[value]
            self._unnamed.add(copy)
            if value in self._constants:
                self._constants[copy] = self._constants[value]
            self._copies[value, path] = copy
        return self._copies[value, path]

    def _name_parameters(self, node: NodeProto, values: Sequence[int | None]) -> None:
        for place, value in enumerate(values):
            if value is not None:
                roles = _ROLES.get(node.op_type, ())
                self._name_parameter(value, roles[place] if place < len(roles) else str(place))

    def _name_parameter(self, value: int, role: str) -> None:
        """Names a weight after the node that reads it first, where the file's own name says nothing."""
        if value in self._unnamed:
            self._unnamed.discard(value)
            self._graph.tensors[value] = f"{self._owner}.{role}"

    # Calls

    def emit(self, func: Any, args: Sequence[Any], shape: Shape, element: int) -> int:
        return self._emit(func, args, shape, element)

    def _emit(self, func: Any, args: Sequence[Any], shape: Shape, element: int) -> int:
        reads = list(_refs(args))
        depends = any(value in self._graph.from_input for value in reads)
        value = self._value(shape, element)
        self._append(func.overloadpacket.__name__, func, tuple(args), reads, [value], depends)
        return value

    def _append(
        self, op: str, func: Any, args: tuple[Any, ...], reads: Sequence[int], writes: Sequence[int], depends: bool
    ) -> None:
        index = len(self._graph.calls)
        self._graph.calls.append(Call(index, op, func, args, {}, tuple(reads), tuple(writes), self._owner))
        for value in writes:
            self._graph.makers[value] = index
            if depends:
                self._graph.from_input.add(value)

    # Bodies

    def _with_bodies(self, body: Body, index: int, node: NodeProto, scope: _Scope) -> None:
        inner = body.of_node(index)
        outer = [scope[name] for name in node.input if name in scope]
        results: list[list[int | None]] = []
        for part in inner.values():
            own = _Scope(scope)
            self._hold(part, own)
            self._enter(part, node, scope, own)
            self._nodes(part, own)
            reached = any((part.key, name) in self._shapes for inside in part.graph.node for name in inside.output)
            self._close_turn(part, own)
            if reached or not part.graph.node:
                results.append([own.get(value.name) for value in part.graph.output])
        self._owner = self._owner_of(node)
        self._leave(body, node, results, outer, scope)

    def _enter(self, part: Body, node: NodeProto, scope: _Scope, own: _Scope) -> None:
        """Gives a body its inputs: the number of the turn, states, and one slice of each sequence."""
        depends = any(scope[name] in self._graph.from_input for name in node.input if name in scope)
        lead, states = part.lead_and_states
        for place, value in enumerate(part.graph.input):
            given = node.input[place] if place < len(node.input) else ""
            arrives = scope.get(given)
            shape = self._shapes.get((part.key, value.name), ())
            is_state = lead <= place < lead + states
            if arrives is not None and is_state and self._graph.shapes[arrives] == shape:
                own[value.name] = self._emit(
                    torch.ops.aten.alias.default, [Ref(arrives)], shape, self._element(part, value.name)
                )
                if depends:  # a later turn's state may depend on what the first one does not
                    self._graph.from_input.add(own[value.name])
            elif arrives is not None and part.kind == "Scan" and not is_state:
                axes = attributes_of(node).get("scan_input_axes", [])
                axis = axes[place - states] if place - states < len(axes) else 0
                own[value.name] = self._emit(
                    torch.ops.aten.select.int, [Ref(arrives), axis, 0], shape, self._element(part, value.name)
                )
            else:
                own[value.name] = self._new(part, value.name)
                if depends and place != 0:
                    self._graph.from_input.add(own[value.name])

    def _close_turn(self, part: Body, own: _Scope) -> None:
        """Notes that the next turn reads what this one leaves in its states."""
        if part.kind not in ("Loop", "Scan"):
            return
        read = {name for inside in part.graph.node for name in inside.input}
        lead, states = part.lead_and_states
        for given in range(lead, lead + states):
            value = own.get(part.graph.output[given - lead // 2].name)
            if value is not None and part.graph.input[given].name in read:
                depends = value in self._graph.from_input
                writes = [self._value((), 0)]
                self._append("onnx::next_turn", torch.ops.aten.alias.default, (Ref(value),), [value], writes, depends)

    def _element(self, body: Body, name: str) -> int:
        return self._types.elements.get((body.key, name), TensorProto.FLOAT)

    def _leave(
        self, body: Body, node: NodeProto, results: list[list[int | None]], outer: list[int], scope: _Scope
    ) -> None:
        """Gives the node around a body its outputs."""
        skipped = 1 if node.op_type == "Loop" else 0
        for place, name in enumerate(node.output):
            if not name:
                continue
            found = [result[place + skipped] for result in results if place + skipped < len(result)]
            values = [value for value in found if value is not None]
            shape = self._shapes.get((body.key, name), ())
            element = self._element(body, name)
            if len(values) == 1 and self._graph.shapes[values[0]] == shape:
                scope[name] = values[0]
            elif len(values) == 1 and shape[1:] == self._graph.shapes[values[0]]:
                turn = self._emit(torch.ops.aten.unsqueeze.default, [Ref(values[0]), 0], (1, *shape[1:]), element)
                scope[name] = self._emit(torch.ops.aten.expand.default, [Ref(turn), list(shape)], shape, element)
            else:
                scope[name] = self._value(shape, element)
                reads = [*values, *outer]
                depends = any(value in self._graph.from_input for value in reads)
                args = tuple(map(Ref, reads))
                self._append(f"onnx::{node.op_type}", torch.ops.aten.alias.default, args, reads, [scope[name]], depends)


@dataclass(frozen=True)
class _Emitter:
    walk: _Walk
    element: int

    def call(self, func: Any, args: Sequence[Any], shape: Shape) -> int:
        return self.walk.emit(func, args, shape, self.element)


def _refs(args: Any) -> Iterator[int]:
    for argument in args:
        if isinstance(argument, Ref):
            yield argument.value
        elif isinstance(argument, list | tuple):
            yield from _refs(argument)


_FUNCTIONS = {
    "relu": torch.ops.aten.relu.default,
    "relu6": torch.ops.aten.hardtanh.default,
    "clamp": torch.ops.aten.hardtanh.default,
    "prelu": torch.ops.aten.prelu.default,
    "leaky_relu": torch.ops.aten.leaky_relu.default,
}
_ROLES = {
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv"), ("data", "weight", "bias")),
    **dict.fromkeys(("Gemm", "FusedGemm"), ("data", "weight", "bias")),
    **dict.fromkeys(("MatMul", "FusedMatMul"), ("weight", "weight")),
    "BatchNormalization": ("data", "weight", "bias", "running_mean", "running_var"),
    **dict.fromkeys(("InstanceNormalization", "LayerNormalization", "GroupNormalization"), ("data", "weight", "bias")),
    "Gather": ("weight", "indices"),
}
_FORM_ONLY = frozenset({"Cast", "CastLike", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_NUMBERS = frozenset({"value_float", "value_floats", "value_int", "value_ints"})
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_INDICES = frozenset({TensorProto.INT64, TensorProto.INT32})
_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}

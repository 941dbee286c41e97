"""The dispatch mode and the module hooks that turn a running forward into a `Graph`."""

from __future__ import annotations

import contextlib
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from prelu_doctor.data.batches import Batch
from prelu_doctor.leaves import opaque_leaf, tensors_of
from prelu_doctor.records import Function
from prelu_doctor.sites.activations import Activation, activation_of, is_activation_module
from prelu_doctor.sites.flattened import FlattenedProgram
from prelu_doctor.sites.graph import Call, Graph, Position, Ref
from prelu_doctor.sites.locations import located, user_line
from prelu_doctor.sites.scripted import ScriptedProgram
from prelu_doctor.sites.whereabouts import Naming, Whereabouts
from prelu_doctor.sites.written_out import written_out_rectifier


class Watcher(Protocol):
    """Looks at calls while their tensors are at hand.

    Attributes:
        ops: Operations to watch beside the activations.
    """

    ops: frozenset[str]

    def before(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        """Called with the first argument, which an in-place call is about to overwrite."""

    def after(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        """Called with the output."""


@dataclass
class _Frame:
    """One running forward."""

    module: nn.Module | None
    path: str
    call_path: tuple[str, ...]
    calls: Counter[str] = field(default_factory=Counter)
    rank: int = 0
    program: FlattenedProgram | ScriptedProgram | None = None
    naming: Naming | None = None


class Recorder(TorchDispatchMode):
    """Builds a `Graph` while it is active as a mode, its hooks in place.

    Args:
        model: The module that will run.
        batch: Its input.
        watcher: Looks at the activations.
        entry: The function that runs the model: what calls it is none of the model's source.
        functions: What counts as an activation.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        watcher: Watcher | None,
        *,
        entry: CodeType,
        functions: frozenset[Function],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        parameters = {name for name, _ in model.named_parameters()}
        self.graph = Graph(samples=batch.size, functions=functions, parameters=parameters)
        self._watcher = watcher
        self._entry = entry
        self._paths = _paths_of(model)
        self._frames = [_Frame(None, "", ())]
        self._values: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._written: dict[int, int] = {}
        self._fused = ""
        self._where: Whereabouts | None = None
        self._programs: dict[int, FlattenedProgram | None] = {}
        for name, tensor in _named_tensors(model):
            self.graph.tensors[self._enter(tensor)] = name
        self._kept = [tensor for _, tensor in _named_tensors(model)]
        self._constants = {
            id(tensor) for module in model.modules() for tensor in _tensors_in(list(vars(module).values()))
        }
        for tensor in batch.tensors():
            self.graph.from_input.add(self._enter(tensor))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; wrapping the mode for the compiler would import it, which takes two seconds."""
        return False

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Keeps the stack of running forwards."""
        handles = (
            register_module_forward_pre_hook(self._push),
            register_module_forward_hook(self._pop, always_call=True),
        )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=_HOOKS_AND_COMPILER, category=UserWarning)
                yield
        finally:
            for handle in handles:
                handle.remove()

    def finish(self, output: Any) -> None:
        """Notes what the model returned."""
        self.graph.outputs = {self._value_of(tensor) for tensor in tensors_of(output)}
        self.graph.opaque_output = opaque_leaf(output)
        self._values.clear()
        self._kept.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        op = func.overloadpacket.__name__
        self._locate(op)
        if op in FUSED:
            return self._decomposed(func, args, kwargs)
        activation = self._floating(activation_of(op, args, kwargs, self.graph.functions), args)
        reads: list[int] = []
        recorded_args = _replace_tensors(args, self._value_of, reads)
        recorded_kwargs = {name: _replace_tensors(value, self._value_of, reads) for name, value in kwargs.items()}
        call = Call(
            index=len(self.graph.calls),
            op=op,
            func=func,
            args=recorded_args,
            kwargs=recorded_kwargs,
            reads=tuple(reads),
            writes=(),
            owner=self._owner(),
            activation=activation,
            position=self._position(activation.function) if activation else None,
        )
        self._note_written_out(call, args)
        if op in HIDING:
            position = self._function_position(op, rank=-1)
            self.graph.declined.append((position, "a fused kernel computes its activation, which cannot be seen"))
        self.graph.calls.append(call)
        if op in _PICKING:
            self._keep_indices(reads, _tensors_in([*args, *kwargs.values()]))
        watcher = self._watcher if self._watcher and (activation or op in self._watcher.ops) else None
        if watcher:
            watcher.before(self.graph, call, args[0])
        output = func(*args, **kwargs)
        self.graph.calls[call.index] = call = replace(call, writes=self._write(call, args, output))
        if watcher:
            watcher.after(self.graph, call, output)
        return output

    def _decomposed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._fused = f">{func.overloadpacket.__name__}"
        try:
            with self:
                return func.decompose(*args, **kwargs)
        finally:
            self._fused = ""

    def _keep_indices(self, reads: list[int], tensors: Iterator[Tensor]) -> None:
        """Copies constant indices into the graph: which units a call picks hangs on them."""
        for value, tensor in zip(reads, tensors, strict=True):
            if value not in self.graph.from_input and not tensor.is_floating_point():
                self.graph.constants[value] = tensor.detach().cpu().clone()

    def _floating(self, activation: Activation | None, args: tuple[Any, ...]) -> Activation | None:
        """The activation, unless it acts on integers, which have no gradient: these are noted as declined."""
        if activation is None or args[0].is_floating_point():
            return activation
        dtype = str(args[0].dtype).removeprefix("torch.")
        self.graph.declined.append(
            (self._position(activation.function), f"acts on {dtype} values, which have no gradient")
        )
        return None

    def _note_written_out(self, call: Call, args: tuple[Any, ...]) -> None:
        """Lists a rectifier that is put together from other operations."""
        spelling = written_out_rectifier(self.graph, call, args)
        if spelling:
            reason = f"a rectifier written as {spelling} is neither counted nor converted; write it as F.relu(x)"
            position = self._function_position(call.op, rank=-1)
            lines = {(other.owner, other.source, told) for other, told in self.graph.declined}
            if (position.owner, position.source, reason) not in lines:  # a loop tells its line once
                self.graph.declined.append((position, reason))

    def _write(self, call: Call, args: tuple[Any, ...], output: Any) -> tuple[int, ...]:
        """Gives every output tensor a new value; a tensor written in place leaves a mark on its storage."""
        # What is drawn anew at every run is no constant: nothing behind it is certain.
        random = torch.Tag.nondeterministic_seeded in call.func.tags
        depends = random or any(value in self.graph.from_input for value in call.reads)
        writes = []
        for tensor in _tensors_in(output):
            value = self._enter(tensor)
            writes.append(value)
            self.graph.makers[value] = call.index
            if depends:
                self.graph.from_input.add(value)
        if call.func._schema.is_mutable and writes:
            for tensor in _tensors_in(args[:1]):
                self._written[tensor.untyped_storage()._cdata] = writes[0]
        return tuple(writes)

    def _enter(self, tensor: Tensor) -> int:
        value = self.graph.new_value(tensor)
        self._values[id(tensor)] = (weakref.ref(tensor), value)
        return value

    def _value_of(self, tensor: Tensor) -> int:
        reference, value = self._values.get(id(tensor), (None, -1))
        if reference is None or reference() is not tensor:
            return self._unknown(tensor)
        latest = self._written.get(tensor.untyped_storage()._cdata) if self._written else None
        if latest is None or latest <= value:
            return value
        return self._overwritten(tensor, value, latest)

    def _unknown(self, tensor: Tensor) -> int:
        """A tensor that came past the dispatcher, as from NumPy: constant only where a module held it before."""
        value = self._enter(tensor)
        if id(tensor) not in self._constants:
            self.graph.from_input.add(value)
        return value

    def _overwritten(self, tensor: Tensor, value: int, latest: int) -> int:
        """A tensor whose storage was written in place through another view: what it holds mixes both."""
        mixed = self._enter(tensor)
        call = Call(
            index=len(self.graph.calls),
            op="overwritten",
            func=torch.ops.aten.copy_.default,
            args=(Ref(value), Ref(latest)),
            kwargs={},
            reads=(value, latest),
            writes=(mixed,),
            owner=self._frames[-1].path,
        )
        self.graph.calls.append(call)
        self.graph.makers[mixed] = call.index
        if {value, latest} & self.graph.from_input:
            self.graph.from_input.add(mixed)
        return mixed

    def _push(self, module: nn.Module, _args: Any) -> None:
        frame = self._frames[-1]
        path = self._path_from(frame.path, module)
        frame.calls[path] += 1
        self.graph.ran.add(path)
        call_path = (*frame.call_path, f"{path}#{frame.calls[path]}")
        program = self._program(module)
        naming = frame.naming or (Naming(path, call_path) if program else None)
        self._frames.append(_Frame(module, path, call_path, program=program, naming=naming))

    def _program(self, module: nn.Module) -> FlattenedProgram | ScriptedProgram | None:
        """The program that a module is, if it is one that took in other modules' calls."""
        if isinstance(module, torch.jit.ScriptModule):
            return ScriptedProgram.of(module)
        if id(module) not in self._programs:
            self._programs[id(module)] = FlattenedProgram.of(module)
        return self._programs[id(module)]

    def _locate(self, op: str) -> None:
        """Notes where a program's call stood; the parts of a fused one stand where it does."""
        program = self._frames[-1].program
        if isinstance(program, FlattenedProgram):
            self._where = program.running(sys._getframe(1))
        elif not self._fused:
            self._where = program.next(op) if program and program.counts(op) else None

    def _owner(self) -> str:
        """Path of the module whose forward makes the running call, or made it before a program took it in."""
        frame = self._frames[-1]
        if self._where is None or frame.naming is None:
            return frame.path
        return frame.naming.owner(self._where)

    def _pop(self, module: nn.Module, _args: Any, _output: Any) -> None:
        if self._frames[-1].module is module:
            self._frames.pop()

    def _path_from(self, caller: str, module: nn.Module) -> str:
        """The module's path, as its caller names it where it has several."""
        paths = self._paths.get(id(module))
        if not paths:
            return f"<unregistered {type(module).__name__}>"
        inside = f"{caller}." if caller else ""
        return next((path for path in paths if path.startswith(inside)), paths[0])

    def _position(self, function: str) -> Position:
        frame = self._frames[-1]
        if self._where is not None and frame.naming is not None:
            return self._renamed(frame, frame.naming, self._where, function)
        if not is_activation_module(frame.module, self.graph.functions) or len(self._frames) == 2:
            frame.rank += 1  # a function; or the model itself is the activation, and has no caller
            return self._function_position(function, frame.rank - 1)
        caller = self._frames[-2]
        caller.rank += 1
        return self._placed(caller, frame.call_path, frame.path, caller.calls[frame.path], caller.rank - 1)

    def _function_position(self, function: str, rank: int) -> Position:
        owner, name = self._frames[-1], f":{function}"
        owner.calls[name] += 1
        path = (*owner.call_path, f"{name}#{owner.calls[name]}")
        return self._placed(owner, path, None, owner.calls[name], rank)

    def _renamed(self, frame: _Frame, naming: Naming, where: Whereabouts, function: str) -> Position:
        """The position of a program's call, named as in the modules that the program was made of."""
        name = naming.name(where, function)
        frame.rank += 1
        return Position(
            path=name.path,
            owner=name.owner,
            module=name.module,
            ordinal=name.ordinal,
            rank=frame.rank - 1,
            source=where.source,
            home=self._paths.get(id(frame.module), [frame.path])[0],
            location=self._location(frame.module) if frame.module is not None else "",
            program=frame.call_path,
        )

    def _placed(self, owner: _Frame, path: tuple[str, ...], module: str | None, ordinal: int, rank: int) -> Position:
        return Position(
            path=path,
            owner=owner.path,
            module=module,
            ordinal=ordinal,
            rank=rank,
            source=user_line(sys._getframe(1), self._entry),
            home=self._paths.get(id(owner.module), [owner.path])[0],
            location=self._location(owner.module),
        )

    def _location(self, owner: nn.Module | None) -> str:
        """Where in its owner's code the running call stands."""
        module, location = located(sys._getframe(1))
        return location + self._fused if module is owner and location else ""


_PICKING = {"index", "index_select", "gather", "take_along_dim", "take", "embedding", "repeat_interleave"}
"""Operations that pick elements by index."""

FUSED = {"rnn_relu", "rnn_relu_cell"}
"""Composite operations that hide their ReLUs: their parts are recorded instead."""


HIDING = {"_transformer_encoder_layer_fwd"}
"""Kernels that hide an activation; in a program that was made with one, no switch reaches it."""

_HOOKS_AND_COMPILER = "Using .torch.compile.module.. when there are global hooks"
"""A compiled module says that hooks see it twice: once under its own path and once under that of the module inside."""


def _paths_of(model: nn.Module) -> dict[int, list[str]]:
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    return paths


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors_in(item)


def _replace_tensors(value: Any, value_of: Callable[[Tensor], int], reads: list[int]) -> Any:
    if isinstance(value, Tensor):
        reads.append(value_of(value))
        return Ref(reads[-1])
    if isinstance(value, tuple | list):
        return type(value)(_replace_tensors(item, value_of, reads) for item in value)
    return value

"""The dataflow graph of one forward: which call read and wrote which value.

A value is a tensor between two writes: an in-place operation gives its tensor a new value. Values are numbers, so that
the graph keeps no tensor alive; constant indices are copied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from prelu_doctor.records import Function
from prelu_doctor.sites.activations import RECOGNISED, Activation


@dataclass(frozen=True)
class Ref:
    """Stands for a tensor in a call's recorded arguments."""

    value: int


@dataclass(frozen=True)
class Position:
    """Where in the model's forward an activation call stands.

    Attributes:
        path: Names of the module calls from the root to this call, each with its ordinal: unique in one forward.
        owner: Path of the module whose forward makes the call (of the activation's caller, for a module call).
        home: The first path under which the owner is registered: the same by whatever name it was called.
        module: Path of the activation module that is called; None for a functional or method call.
        ordinal: 1 for the first such call in this run of the owner's forward.
        rank: 0 for the first activation call of any form in this run of the owner's forward.
        source: File name and line, `resnet.py:102`.
        location: Where in the owner's code it stands, as `locations.located` tells it; empty where a hook or
            TorchScript makes the call.
        program: The run of the forward that makes the call, where that is a program that took in the calls of many
            modules: the fields but for `home`, `rank` and `location` then tell where the call stood before.
    """

    path: tuple[str, ...]
    owner: str
    module: str | None
    ordinal: int
    rank: int
    source: str
    home: str
    location: str = ""
    program: tuple[str, ...] | None = None

    @property
    def run(self) -> tuple[str, ...]:
        """The run of the forward that makes the call: names of the module calls from the root to it."""
        return self.path[:-1] if self.program is None else self.program


@dataclass(frozen=True)
class Call:
    """One dispatched ATen call.

    Attributes:
        index: Its place in the forward.
        op: Operation name without namespace and overload.
        func: The operation itself, to replay it.
        args: Positional arguments, every tensor replaced by a `Ref`.
        kwargs: Keyword arguments likewise.
        reads: Values read.
        writes: Values written.
        owner: Path of the module whose forward made the call.
        activation: What rectifier it is, if one.
        position: Where it stands, for an activation.
    """

    index: int
    op: str
    func: OpOverload[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    owner: str
    activation: Activation | None = None
    position: Position | None = None

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Every argument under its name in the operation's schema, defaults included."""
        schema = self.func._schema.arguments
        given = {argument.name: value for argument, value in zip(schema, self.args, strict=False)}
        defaults = {argument.name: argument.default_value for argument in schema[len(self.args) :]}
        return {**defaults, **given, **self.kwargs}

    def value(self, name: str) -> int | None:
        """The value of a tensor argument; None where it was not given."""
        argument = self.arguments.get(name)
        return argument.value if isinstance(argument, Ref) else None


@dataclass
class Graph:
    """All calls of one forward.

    Attributes:
        calls: In the order they were dispatched.
        shapes: Shape of every value.
        dtypes: Data type of every value.
        makers: Index of the call that wrote a value; absent for inputs, parameters and constants.
        tensors: Parameter or buffer name of the values that are one.
        parameters: Names of the parameters among them.
        from_input: Values that depend on the model's input.
        constants: What the indices of a picking operation hold, where the model's input has no say in them.
        outputs: Values that the model returned.
        samples: Number of samples of the batch.
        opaque_output: Type of a returned object that cannot be looked into; empty where there is none.
        declined: Rectifying calls that are no activations after all, and why.
        ran: Paths of the modules whose forward ran.
        functions: What counted as an activation.
    """

    samples: int
    calls: list[Call] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    makers: dict[int, int] = field(default_factory=dict)
    tensors: dict[int, str] = field(default_factory=dict)
    parameters: set[str] = field(default_factory=set)
    from_input: set[int] = field(default_factory=set)
    constants: dict[int, Tensor] = field(default_factory=dict)
    outputs: set[int] = field(default_factory=set)
    declined: list[tuple[Position, str]] = field(default_factory=list)
    opaque_output: str = ""
    ran: set[str] = field(default_factory=set)
    functions: frozenset[Function] = RECOGNISED

    def new_value(self, tensor: Tensor) -> int:
        """A value that nothing has written yet, with the shape and data type of a tensor."""
        self.shapes.append(tuple(tensor.shape))
        self.dtypes.append(tensor.dtype)
        return len(self.shapes) - 1

    def maker(self, value: int) -> Call | None:
        """The call that wrote a value."""
        index = self.makers.get(value)
        return None if index is None else self.calls[index]

    @cached_property
    def readers(self) -> dict[int, list[Call]]:
        """For every value the calls that read it, in order. To be asked once the forward is over."""
        readers: dict[int, list[Call]] = defaultdict(list)
        for call in self.calls:
            for value in dict.fromkeys(call.reads):
                readers[value].append(call)
        return readers

    @cached_property
    def values_named(self) -> dict[str, list[int]]:
        """By name of a parameter or buffer the values that are it. To be asked once the forward is over."""
        values: dict[str, list[int]] = defaultdict(list)
        for value, name in self.tensors.items():
            values[name].append(value)
        return values

    def calls_reading(self, name: str) -> list[Call]:
        """The calls that read a parameter or buffer. To be asked once the forward is over."""
        return [call for value in self.values_named.get(name, ()) for call in self.readers.get(value, ())]

    def shape_named(self, name: str | None) -> tuple[int, ...]:
        """Shape of a parameter or buffer; empty for None."""
        return self.shapes[self.values_named[name][0]] if name is not None else ()

    def activations(self) -> Iterator[Call]:
        """The activation calls, in order."""
        return (call for call in self.calls if call.activation)

    def name_of(self, value: int | None) -> str | None:
        """The parameter or buffer that a value is, or None."""
        return None if value is None else self.tensors.get(value)

    def is_weight(self, value: int | None) -> bool:
        """True where a value was computed from parameters or constants alone, or is one."""
        return value is not None and value not in self.from_input

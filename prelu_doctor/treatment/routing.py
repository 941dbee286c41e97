"""Replaces activation calls while a module's forward runs, where no graph of it can be had.

Loops over time, branches on data, helper functions: the code runs as it was written, and a torch function mode sends
each rectifier call of its own to a PReLU, told by where the call stands in the code and by its turn there.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from prelu_doctor.records import Function
from prelu_doctor.sites.activations import RECOGNISED
from prelu_doctor.sites.locations import functions_of, located, names_of
from prelu_doctor.treatment.function_calls import rectifier_of
from prelu_doctor.treatment.rewriting import CannotRewriteError, check_python
from prelu_doctor.treatment.unrolled_rnn import rnn, rnn_cell


@dataclass(frozen=True)
class Route:
    """Which calls a PReLU serves.

    Attributes:
        location: Where in the owner's code the call stands, as `locations.located` tells it.
        turn: Which call there in one run of the forward, from 0; for a fused RNN, which layer and direction.
        of: After how many calls the turns start over; 0 where they never do.
        prelu: Name of the PReLU, a child of the owner.
    """

    location: str
    turn: int
    of: int
    prelu: str


def check_routable(owner: nn.Module) -> None:
    """Raises where calls of a module's forward cannot be routed.

    Raises:
        CannotRewriteError: The message says why.
    """
    check_python(owner)
    if isinstance(owner, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        raise CannotRewriteError("it is a container, which would run a PReLU that it holds")
    if isinstance(owner, fx.GraphModule):
        raise CannotRewriteError("it is a graph module, which is copied without its class")


def route_forward(owner: nn.Module, routes: Sequence[Route], functions: Collection[Function] = RECOGNISED) -> None:
    """Sends activation calls that a module's own forward makes to its children.

    Args:
        owner: The module; its class becomes a subclass of its own, in place.
        routes: Which calls go where. A call at any other place stays what it is.
        functions: What counts as an activation.

    Raises:
        CannotRewriteError: The module's forward is not Python code of its class.
    """
    check_routable(owner)
    plain = type(owner)
    table = _Table.of(routes)

    def routed(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _Router(self, table, functions):
            return plain.forward(self, *args, **kwargs)

    @functools.wraps(plain.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():  # it cannot see where a call stands
            return torch.compiler.disable(routed)(self, *args, **kwargs)
        return routed(self, *args, **kwargs)

    owner.__class__ = type(plain.__name__, (plain,), {"forward": forward, "__module__": plain.__module__})


@dataclass(frozen=True)
class _Table:
    """The routes of a forward, by location; and the functions, by their names, that the locations lead through."""

    routes: Mapping[str, Sequence[Route]]
    functions: Mapping[tuple[str, ...], tuple[str, ...]]

    @classmethod
    def of(cls, routes: Sequence[Route]) -> _Table:
        by_location: dict[str, list[Route]] = defaultdict(list)
        for route in sorted(routes, key=lambda route: route.turn):
            by_location[route.location].append(route)
        return cls(by_location, {tuple(names_of(place)): tuple(functions_of(place)) for place in by_location})

    def at(self, location: str) -> Sequence[Route]:
        """The routes at a location.

        Raises:
            RuntimeError: The code on the way is another version of the code that was converted.
        """
        known = self.functions.get(tuple(names_of(location)))
        if known is not None and known != tuple(functions_of(location)):
            changed = next(now for now, then in zip(functions_of(location), known, strict=True) if now != then)
            raise RuntimeError(
                f"the source of {changed.partition('@')[0]} is not what it was when the model was converted: "
                "convert the original checkpoint again"
            )
        return self.routes.get(location, ())


class _Router(TorchFunctionMode):
    """Active while one run of the owner's forward lasts."""

    def __init__(self, owner: nn.Module, table: _Table, functions: Collection[Function]) -> None:
        super().__init__()
        self._functions = functions
        self._owner = owner
        self._table = table
        self._turns: Counter[str] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        fused = _FUSED.get(getattr(func, "__name__", ""))
        activation = None if fused else rectifier_of(func, args, kwargs, self._functions)
        if not fused and (activation is None or not _is_floating(args, kwargs)):
            return func(*args, **kwargs)
        owner, location = located(sys._getframe(1))
        if owner is not self._owner:
            return func(*args, **kwargs)
        if fused:
            return fused(func, [self._prelu(route) for route in self._table.at(f"{location}>{func.__name__}")], args)
        prelu = self._take_turn(location)
        if prelu is None:
            return func(*args, **kwargs)
        assert activation is not None
        x = args[0] if args else kwargs["input"]
        # In place stays in place: a view of the input, or the caller who owns it, may look at it later.
        return x.copy_(prelu(x.clone())) if activation.in_place else prelu(x)

    def _take_turn(self, location: str) -> nn.Module | None:
        """The PReLU of this call, or None where the call stays what it is."""
        turn = self._turns[location]
        self._turns[location] += 1
        for route in self._table.at(location):
            if route.turn == (turn % route.of if route.of else turn):
                return self._prelu(route)
        return None

    def _prelu(self, route: Route) -> nn.Module:
        return self._owner.get_submodule(route.prelu)


def _is_floating(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    x = args[0] if args else kwargs.get("input")
    return isinstance(x, Tensor) and x.is_floating_point()


def _fused_rnn(func: Callable[..., Any], prelus: Sequence[nn.Module], args: tuple[Any, ...]) -> Any:
    return rnn(prelus, *args) if prelus else func(*args)


def _fused_cell(func: Callable[..., Any], prelus: Sequence[nn.Module], args: tuple[Any, ...]) -> Any:
    return rnn_cell(prelus[0], *args) if prelus else func(*args)


_FUSED: dict[str, Callable[[Callable[..., Any], Sequence[nn.Module], tuple[Any, ...]], Any]] = {
    "rnn_relu": _fused_rnn,
    "rnn_relu_cell": _fused_cell,
}
"""Functions that hide their ReLUs."""

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
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from prelu_doctor.records import Function
from prelu_doctor.sites.activations import RECOGNISED
from prelu_doctor.sites.locations import ENTRIES, OPAQUE, functions_of, located, names_of
from prelu_doctor.treatment.function_calls import rectifier_of
from prelu_doctor.treatment.prelu import written_over
from prelu_doctor.treatment.rewriting import CannotRewriteError, check_python, specialise
from prelu_doctor.treatment.unrolled_rnn import layers_of, rnn, rnn_cell


@dataclass(frozen=True)
class Route:
    """Which calls a PReLU serves.

    Attributes:
        location: Where in the owner's code the call stands, as `locations.located` tells it.
        turn: Which call there in one run of the forward, from 0; for a fused RNN, which layer and direction.
        every: After how many calls it comes again; 0 where it never does.
        prelu: Name of the PReLU, a child of the owner.
    """

    location: str
    turn: int
    every: int
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
    plain = type(owner).forward
    table = _Table(routes)

    @functools.wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        run = functools.partial(_route, self, plain, table, functions)
        if torch.compiler.is_dynamo_compiling():  # it cannot see where a call stands
            run = torch.compiler.disable(run)
        return run(args, kwargs)

    specialise(owner, forward=forward)


def _route(
    self: nn.Module,
    plain: Callable[..., Any],
    table: _Table,
    functions: Collection[Function],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    if _runs_already(self):
        return plain(self, *args, **kwargs)
    return _run(self, plain, table, functions, args, kwargs)


def _run(
    self: nn.Module,
    plain: Callable[..., Any],
    table: _Table,
    functions: Collection[Function],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Runs a forward, its calls sent to their PReLUs."""
    with _Router(self, table, functions):
        return plain(self, *args, **kwargs)


def _runs_already(module: nn.Module) -> bool:
    """True where a forward calls itself by name, not through its module: that is still the same run."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code not in ENTRIES:
        frame = frame.f_back
    return frame is not None and frame.f_code is _run.__code__ and frame.f_locals["self"] is module


def _rectified(prelu: nn.Module, x: Tensor, *, in_place: bool) -> Tensor:
    # In place stays in place: a view of the input, or the caller who owns it, may look at it later.
    result: Tensor = written_over(x, prelu) if in_place else prelu(x)
    return result


ENTRIES.add(_run.__code__)
OPAQUE.add(_rectified.__code__)


class _Table:
    """The routes of a forward, by location.

    Args:
        routes: All of them.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes: dict[str, list[Route]] = defaultdict(list)
        for route in sorted(routes, key=lambda route: route.turn):
            self._routes[route.location].append(route)
        self._functions = {tuple(names_of(place)): functions_of(place) for place in self._routes}

    def at(self, location: str) -> Sequence[Route]:
        """The routes at a location.

        Raises:
            RuntimeError: The code on the way is another version of the code that was converted.
        """
        found = self._routes.get(location)
        if found is None:
            self._check_source(location)
            found = self._routes[location] = []
        return found

    def _check_source(self, location: str) -> None:
        known = self._functions.get(tuple(names_of(location)))
        if known is None:
            return
        for now, then in zip(functions_of(location), known, strict=True):
            if now != then:
                raise RuntimeError(
                    f"the source of {now.partition('@')[0]} is not what it was when the model was converted: convert "
                    "the original checkpoint again"
                )


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
            layers, run = fused
            routes = self._table.at(f"{location}>{func.__name__}")
            # A line that calls it for several cells has sites that are none of this call's layers: it stays what it is.
            prelus = {route.turn: self._prelu(route) for route in routes if route.every == layers(args)}
            return run(prelus, args, kwargs) if prelus else func(*args, **kwargs)
        prelu = self._take_turn(location)
        if prelu is None:
            return func(*args, **kwargs)
        assert activation is not None
        return _rectified(prelu, args[0] if args else kwargs["input"], in_place=activation.in_place)

    def _take_turn(self, location: str) -> nn.Module | None:
        """The PReLU of this call, or None where the call stays what it is."""
        turn = self._turns[location]
        self._turns[location] += 1
        for route in self._table.at(location):
            again = turn > route.turn and route.every > 0 and (turn - route.turn) % route.every == 0
            if turn == route.turn or again:
                return self._prelu(route)
        return None

    def _prelu(self, route: Route) -> nn.Module:
        return self._owner.get_submodule(route.prelu)


def _is_floating(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """False for a tensor of integers; what stands for a tensor in a trace may be anything."""
    x = args[0] if args else kwargs.get("input")
    return not isinstance(x, Tensor) or x.is_floating_point()


def _run_rnn(prelus: Mapping[int, nn.Module], args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
    return rnn([prelus.get(number, torch.relu) for number in range(layers_of(args))], *args)


def _run_cell(prelus: Mapping[int, nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return rnn_cell(prelus.get(0, torch.relu), *args, **kwargs)


_FUSED: dict[str, tuple[Callable[[Sequence[Any]], int], Callable[..., Any]]] = {
    "rnn_relu": (layers_of, _run_rnn),
    "rnn_relu_cell": (lambda _args: 1, _run_cell),
}
"""Functions that hide their ReLUs: how many sites a call has, and how it is run; a turn is then a site of the call."""

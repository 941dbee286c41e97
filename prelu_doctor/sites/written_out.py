"""Rectifiers that a forward puts together from other operations, as `x * (x > 0)`: they are told, not counted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prelu_doctor.sites.graph import Call, Graph, Ref


def written_out_rectifier(graph: Graph, call: Call, args: Sequence[Any]) -> str:
    """How a call writes a rectifier, as `maximum(x, 0)`; empty where it does not.

    Told from the call and the comparison that it reads, so that nothing else is mistaken for one.

    Args:
        graph: The forward up to the call.
        call: The call.
        args: Its positional arguments with their tensors.
    """
    look = _LOOKS.get(call.op.removesuffix("_"))
    return look(_Seen(graph, call, args)) if look else ""


@dataclass(frozen=True)
class _Seen:
    graph: Graph
    call: Call
    args: Sequence[Any]

    def value(self, position: int) -> int | None:
        """The value of a floating-point tensor argument; integers have no gradient to lose."""
        given = self.args[position] if position < len(self.args) else None
        if not isinstance(given, Tensor) or not given.is_floating_point():
            return None
        argument = self.call.args[position]
        return argument.value if isinstance(argument, Ref) else None

    def is_zero(self, position: int) -> bool:
        """True for the number 0 and for a tensor that holds nothing else, as far as that can be told cheaply."""
        given = self.args[position] if position < len(self.args) else None
        if not isinstance(given, Tensor):
            return isinstance(given, int | float) and given == 0
        argument = self.call.args[position]
        if isinstance(given, nn.Parameter) or not isinstance(argument, Ref):
            return False
        maker = self._maker_behind(argument, _CASTS | _COPIES)
        if maker is not None:
            return maker.op in _ZEROS
        return given.numel() == 1 and float(given) == 0.0

    def condition(self, argument: Any, value: int | None, signs: frozenset[str]) -> bool:
        """True where an argument is the outcome of comparing a value with 0, in one of these ways."""
        maker = self._maker_behind(argument, _CASTS)
        if value is None or maker is None or maker.op not in signs or maker.reads[:1] != (value,):
            return False
        return len(maker.args) > 1 and not isinstance(maker.args[1], Ref) and bool(maker.args[1] == 0)

    def _maker_behind(self, argument: Any, passed: Collection[str]) -> Call | None:
        """The call that made a tensor argument, looked for behind operations that keep what it holds."""
        maker = self.graph.maker(argument.value) if isinstance(argument, Ref) else None
        while maker is not None and maker.op in passed:
            maker = self.graph.maker(maker.reads[0])
        return maker


_ABOVE = frozenset({"gt", "ge"})
_BELOW = frozenset({"lt", "le"})
_ZEROS = {"zeros", "zeros_like", "new_zeros"}
_CASTS = frozenset({"to", "_to_copy", "type_as"})
_COPIES = frozenset({"lift_fresh", "detach", "detach_", "expand", "clone"})


def _maximum(seen: _Seen) -> str:
    pairs = ((0, 1), (1, 0))
    found = any(seen.value(x) is not None and seen.is_zero(zero) for x, zero in pairs)
    return f"{seen.call.op}(x, 0)" if found and len(seen.args) == 2 else ""


def _where(seen: _Seen) -> str:
    if len(seen.args) != 3:
        return ""
    condition = seen.call.args[0]
    if seen.condition(condition, seen.value(1), _ABOVE) and seen.is_zero(2):
        return "where(x > 0, x, 0)"
    return "where(x < 0, 0, x)" if seen.condition(condition, seen.value(2), _BELOW) and seen.is_zero(1) else ""


def _mul(seen: _Seen) -> str:
    pairs = ((0, 1), (1, 0))
    found = any(seen.condition(seen.call.args[gate], seen.value(x), _ABOVE) for x, gate in pairs)
    return "x * (x > 0)" if found else ""


def _masked_fill(seen: _Seen) -> str:
    found = len(seen.args) == 3 and seen.condition(seen.call.args[1], seen.value(0), _BELOW) and seen.is_zero(2)
    return "masked_fill(x, x < 0, 0)" if found else ""


def _index_put(seen: _Seen) -> str:
    masks = list(seen.call.args[1]) if len(seen.args) > 2 else []
    found = len(masks) == 1 and seen.condition(masks[0], seen.value(0), _BELOW) and seen.is_zero(2)
    return "x[x < 0] = 0" if found else ""


_LOOKS: Mapping[str, Callable[[_Seen], str]] = {
    "maximum": _maximum,
    "max": _maximum,
    "fmax": _maximum,
    "where": _where,
    "mul": _mul,
    "masked_fill": _masked_fill,
    "index_put": _index_put,
}

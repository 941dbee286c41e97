"""Which dispatched operations are rectifying activations, and with what parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prelu_doctor.records import Function

CEILING = 6.0
"""Where ReLU6 ends."""

ACTIVATION_MODULES = (nn.ReLU, nn.ReLU6, nn.Threshold, nn.Hardtanh, nn.LeakyReLU, nn.PReLU)
"""Modules whose call is a rectifier's, or may be one: it depends on their arguments for `Threshold` and `Hardtanh`."""


def is_activation_module(module: nn.Module | None) -> bool:
    """True for such a module, unless a class of the user's gave it a forward of its own."""
    if not isinstance(module, ACTIVATION_MODULES):
        return False
    return type(module).forward.__module__.partition(".")[0] in ("torch", "prelu_doctor")


@dataclass(frozen=True)
class Activation:
    """One rectifying function as it was called.

    Attributes:
        function: Its canonical name.
        in_place: True where the call overwrites its input.
        slope: Constant negative slope of a LeakyReLU; None elsewhere (a PReLU's slopes are a tensor argument).
    """

    function: Function
    in_place: bool
    slope: float | None = None

    @property
    def ceiling(self) -> float | None:
        """The largest output, or None where there is no limit."""
        return CEILING if self.function == "relu6" else None


def activation_of(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation | None:
    """The activation that an ATen call is, or None.

    Args:
        op: Name of the operation without namespace and overload, as `clamp_min_`.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """
    recognise = _TABLE.get(op.removesuffix("_"))
    if recognise is None:
        return None
    function, slope = recognise(args, kwargs)
    return function and Activation(function, in_place=op.endswith("_"), slope=slope)


Recognised = tuple[Function | None, float | None]


def _always(function: Function) -> Callable[[Sequence[Any], Mapping[str, Any]], Recognised]:
    return lambda _args, _kwargs: (function, None)


def _clamp(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Recognised:
    low = _argument(args, kwargs, 1, "min")
    high = _argument(args, kwargs, 2, "max")
    return _between(low, high), None


def _hardtanh(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Recognised:
    low = _argument(args, kwargs, 1, "min_val", -1)
    high = _argument(args, kwargs, 2, "max_val", 1)
    return _between(low, high), None


def _threshold(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Recognised:
    limit = _argument(args, kwargs, 1, "threshold")
    value = _argument(args, kwargs, 2, "value")
    return ("relu" if _is_zero(limit) and _is_zero(value) else None), None


def _leaky_relu(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Recognised:
    return "leaky_relu", float(_argument(args, kwargs, 1, "negative_slope", 0.01))


def _between(low: Any, high: Any) -> Function | None:
    if not _is_zero(low):
        return None
    if high is None:
        return "relu"
    return "relu6" if _number(high) == CEILING else None


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str, default: Any = None) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _is_zero(value: Any) -> bool:
    return _number(value) == 0.0


def _number(value: Any) -> float | None:
    """The value of a Python number or of a tensor that holds a single one."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, int | float) else None


_TABLE: dict[str, Callable[[Sequence[Any], Mapping[str, Any]], Recognised]] = {
    "relu": _always("relu"),
    "relu6": _always("relu6"),
    "prelu": _always("prelu"),
    "_prelu_kernel": _always("prelu"),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda args, kwargs: _clamp((args[0], _argument(args, kwargs, 1, "min"), None), {}),
    "hardtanh": _hardtanh,
    "threshold": _threshold,
    "leaky_relu": _leaky_relu,
}

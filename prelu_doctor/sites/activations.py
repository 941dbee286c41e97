"""Which dispatched operations are activations that a PReLU can replace, and with what parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelu_doctor.errors import UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.records import Function

CEILING = 6.0
"""Where ReLU6 ends."""

RECTIFIERS: Final[frozenset[Function]] = frozenset({"relu", "relu6", "clamp"})
"""Functions that are 0 on the negative side: a PReLU with slopes of 0 equals them."""
LEAKY: Final[frozenset[Function]] = frozenset({"leaky_relu", "rrelu"})
"""Functions that a PReLU with the right slope equals."""
RECOGNISED: Final[frozenset[Function]] = RECTIFIERS | LEAKY | {"prelu"}
"""What is a site wherever it is called; smooth functions are sites only where they were asked for."""

CHOICES: Final[Mapping[str, frozenset[Function]]] = {
    "relu": frozenset({"relu"}),
    "relu6": frozenset({"relu6", "clamp"}),
    "leaky_relu": LEAKY,
    "gelu": frozenset({"gelu"}),
    "silu": frozenset({"silu"}),
    "hardswish": frozenset({"hardswish"}),
}
"""What `--activations` takes, and the functions that each name stands for."""
CONVERTED: Final[frozenset[Function]] = CHOICES["relu"] | CHOICES["relu6"]
"""What becomes a PReLU unless other functions are asked for."""

_MODULES: tuple[tuple[type[nn.Module], Function], ...] = (
    (nn.ReLU, "relu"),
    (nn.LeakyReLU, "leaky_relu"),
    (nn.RReLU, "rrelu"),
    (nn.PReLU, "prelu"),
    (nn.GELU, "gelu"),
    (nn.SiLU, "silu"),
    (nn.Hardswish, "hardswish"),
)
_HELD: Mapping[Function, tuple[Callable[..., Tensor], ...]] = {
    "relu": (F.relu, F.relu_, torch.relu, torch.relu_),
    "relu6": (F.relu6,),
    "leaky_relu": (F.leaky_relu, F.leaky_relu_),
    "rrelu": (F.rrelu, torch.rrelu),
    "gelu": (F.gelu,),
    "silu": (F.silu,),
    "hardswish": (F.hardswish,),
}


def chosen_functions(names: Sequence[str]) -> frozenset[Function]:
    """The functions that names of `CHOICES` stand for.

    Raises:
        UsageError: A name is none of them, or there is none.
    """
    unknown = [name for name in names if name not in CHOICES]
    if unknown or not names:
        found = f"{escaped(unknown[0])!r}, which is not known" if unknown else "nothing"
        raise UsageError(f"--activations names {found}", f"some of {', '.join(CHOICES)}", "--activations relu,gelu")
    return frozenset[Function]().union(*(CHOICES[name] for name in names))


@dataclass(frozen=True)
class Activation:
    """One activation function as it was called.

    Attributes:
        function: Its canonical name.
        in_place: True where the call overwrites its input.
        slope: Constant negative slope of a LeakyReLU; None elsewhere (a PReLU's slopes are a tensor argument).
        ceiling: The largest output, or None where there is no limit.
        approximate: How a GELU is computed, as torch names it; `none` elsewhere.
    """

    function: Function
    in_place: bool
    slope: float | None = None
    ceiling: float | None = None
    approximate: str = "none"

    @property
    def kind(self) -> str:
        """The function with its parameters: calls of one site have it in common."""
        parameters = [part for part in (self.slope, self.ceiling) if part is not None]
        odd = [] if self.approximate == "none" else [self.approximate]
        return " ".join(map(str, (self.function, *parameters, *odd)))


def activation_of(
    op: str, args: Sequence[Any], kwargs: Mapping[str, Any], functions: Collection[Function] = RECOGNISED
) -> Activation | None:
    """The activation that an ATen call, or the node of a traced forward that stands for one, is.

    Args:
        op: Name of the operation without namespace and overload, as `clamp_min_`.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        functions: What counts as one.
    """
    recognise = _TABLE.get(op.removesuffix("_"))
    activation = recognise(_Arguments(args, kwargs, in_place=op.endswith("_"))) if recognise else None
    return activation if activation and activation.function in functions else None


def is_activation_module(module: nn.Module | None, functions: Collection[Function] = RECOGNISED) -> bool:
    """True where calling a module is an activation call, unless a class of the user's gave it a forward of its own.

    Args:
        module: Any module.
        functions: What counts as an activation.
    """
    if module is None or not isinstance(module, (nn.Hardtanh, nn.Threshold, *(kind for kind, _ in _MODULES))):
        return False
    if str(type(module).forward.__module__).partition(".")[0] not in ("torch", "prelu_doctor"):
        return False
    if isinstance(module, nn.Hardtanh):
        return activation_of("hardtanh", (None, module.min_val, module.max_val), {}, functions) is not None
    if isinstance(module, nn.Threshold):
        return activation_of("threshold", (None, module.threshold, module.value), {}, functions) is not None
    return any(isinstance(module, kind) and function in functions for kind, function in _MODULES)


def is_activation_function(value: object, functions: Collection[Function] = RECOGNISED) -> bool:
    """True for what a module may hold in an attribute where another one holds an activation module, as `F.relu`."""
    return any(value is held for function in functions for held in _HELD.get(function, ()))


@dataclass(frozen=True)
class _Arguments:
    """What an operation was called with."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    in_place: bool

    def get(self, position: int, name: str, default: Any = None) -> Any:
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def activation(self, function: Function, **parameters: Any) -> Activation:
        return Activation(function, self.in_place, **parameters)


_Recognise = Callable[[_Arguments], Activation | None]


def _always(function: Function) -> _Recognise:
    return lambda call: call.activation(function)


def _relu6(call: _Arguments) -> Activation:
    return call.activation("relu6", ceiling=CEILING)


def _clamp(call: _Arguments) -> Activation | None:
    """A ceiling that is a whole number may be the size of an image, one that is a tensor may be learned."""
    high = call.get(2, "max")
    doubtful = isinstance(high, int | Tensor) and _number(high) != CEILING
    return None if doubtful else _between(call, call.get(1, "min"), high)


def _clamp_min(call: _Arguments) -> Activation | None:
    return call.activation("relu") if _is_zero(call.get(1, "min")) else None


def _hardtanh(call: _Arguments) -> Activation | None:
    return _between(call, call.get(1, "min_val", -1), call.get(2, "max_val", 1))


def _threshold(call: _Arguments) -> Activation | None:
    plain = _is_zero(call.get(1, "threshold")) and _is_zero(call.get(2, "value"))
    return call.activation("relu") if plain else None


def _leaky_relu(call: _Arguments) -> Activation | None:
    slope = _number(call.get(1, "negative_slope", 0.01))
    return None if slope is None else call.activation("leaky_relu", slope=slope)


def _rrelu(call: _Arguments) -> Activation | None:
    """In training mode it draws its slopes, and is none."""
    lower, upper = _number(call.get(1, "lower", 1 / 8)), _number(call.get(2, "upper", 1 / 3))
    if lower is None or upper is None or call.get(3, "training", False):
        return None
    return call.activation("rrelu", slope=(lower + upper) / 2)


def _gelu(call: _Arguments) -> Activation:
    return call.activation("gelu", approximate=str(call.get(1, "approximate", "none")))


def _between(call: _Arguments, low: Any, high: Any) -> Activation | None:
    if not _is_zero(low):
        return None
    ceiling = math.inf if high is None else _number(high)
    if ceiling is None or not ceiling > 0:
        return None
    if ceiling == math.inf:
        return call.activation("relu")
    return call.activation("relu6" if ceiling == CEILING else "clamp", ceiling=ceiling)


def _is_zero(value: Any) -> bool:
    return _number(value) == 0.0


def _number(value: Any) -> float | None:
    """The value of a Python number or of a tensor that holds a single one."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, int | float) else None


_TABLE: dict[str, _Recognise] = {
    "relu": _always("relu"),
    "relu6": _relu6,
    "prelu": _always("prelu"),
    "_prelu_kernel": _always("prelu"),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp_min,
    "hardtanh": _hardtanh,
    "threshold": _threshold,
    "leaky_relu": _leaky_relu,
    "rrelu": _rrelu,
    "gelu": _gelu,
    "silu": _always("silu"),
    "hardswish": _always("hardswish"),
}

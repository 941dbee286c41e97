"""Rectifiers as Python code calls them: `F.relu(x, True)`, `x.clamp_(min=0)`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prelu_doctor.records import Function
from prelu_doctor.sites.activations import RECOGNISED, Activation, activation_of


def rectifier_of(
    function: Callable[..., Any] | str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    functions: Collection[Function] = RECOGNISED,
) -> Activation | None:
    """The activation that a call of a function or of a tensor's method is, or None.

    Args:
        function: The function, or the method's name.
        args: Its positional arguments; the input may also stand in `kwargs`.
        kwargs: Its keyword arguments.
        functions: What counts as an activation.
    """
    name = function if isinstance(function, str) else getattr(function, "__name__", "").partition(".")[0]
    name = name if name == "_prelu_kernel" else name.removeprefix("_")
    if "input" in kwargs:
        args = (kwargs["input"], *args)
    if not args:
        return None
    plain_args, plain_kwargs = args, kwargs
    if name == "rrelu":  # a PReLU takes its place in training mode too
        plain_args, plain_kwargs = args[:3], {key: value for key, value in kwargs.items() if key != "training"}
    activation = activation_of(name, plain_args, plain_kwargs, functions)
    if activation is None or activation.in_place:
        return activation
    position = _INPLACE.get(name, len(args))
    return replace(activation, in_place=bool(args[position] if len(args) > position else kwargs.get("inplace")))


_INPLACE = {
    "relu": 1,
    "relu6": 1,
    "leaky_relu": 2,
    "hardtanh": 3,
    "threshold": 3,
    "rrelu": 4,
    "silu": 1,
    "hardswish": 1,
}
"""Where `inplace` stands among the arguments of torch.nn.functional."""

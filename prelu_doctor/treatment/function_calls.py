"""Rectifiers as Python code calls them: `F.relu(x, True)`, `x.clamp_(min=0)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prelu_doctor.sites.activations import Activation, activation_of


def rectifier_of(
    function: Callable[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Activation | None:
    """The activation that a call of a function or of a tensor's method is, or None.

    Args:
        function: The function, or the method's name.
        args: Its positional arguments; the input may also stand in `kwargs`.
        kwargs: Its keyword arguments.
    """
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    name = name if name == "_prelu_kernel" else name.removeprefix("_")
    if "input" in kwargs:
        args = (kwargs["input"], *args)
    if not args:
        return None
    activation = activation_of(name, args, kwargs)
    if activation is None or activation.in_place:
        return activation
    position = _INPLACE.get(name, len(args))
    return replace(activation, in_place=bool(args[position] if len(args) > position else kwargs.get("inplace")))


_INPLACE = {"relu": 1, "relu6": 1, "leaky_relu": 2, "hardtanh": 3, "threshold": 3}
"""Where `inplace` stands among the arguments of torch.nn.functional."""

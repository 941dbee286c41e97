"""What the model's forward takes: the names by which data finds its way to it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prelu_doctor.expected_inputs import ExpectedInputs

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class ForwardSignature:
    """Arguments of a forward.

    Attributes:
        names: Those that can be given by name, in order.
        required: Those without a default, in order.
        positional: How many can be given by position; `*args` not counted.
        any_positional: True where it has `*args`.
        any_name: True where it has `**kwargs`.
    """

    names: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    positional: int = 0
    any_positional: bool = True
    any_name: bool = True


def signature_of(model: nn.Module | None, expected: ExpectedInputs | None = None) -> ForwardSignature:
    """The arguments of a forward: those that the file tells, else the model's own; anything goes where neither does."""
    if expected is not None:
        return _all_required(tuple(each.name for each in expected.inputs))
    if isinstance(model, torch.jit.ScriptModule):
        return _scripted(model)
    try:
        parameters = [] if model is None else list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if not parameters:
        return ForwardSignature()
    kinds = [parameter.kind for parameter in parameters]
    return ForwardSignature(
        names=tuple(p.name for p in parameters if p.kind in _NAMED),
        required=tuple(p.name for p in parameters if p.kind in (*_POSITIONAL, *_NAMED) and p.default is p.empty),
        positional=sum(kind in _POSITIONAL for kind in kinds),
        any_positional=inspect.Parameter.VAR_POSITIONAL in kinds,
        any_name=inspect.Parameter.VAR_KEYWORD in kinds,
    )


def _all_required(names: tuple[str, ...]) -> ForwardSignature:
    return ForwardSignature(names, names, len(names), any_positional=False, any_name=False)


def _scripted(model: torch.jit.ScriptModule) -> ForwardSignature:
    """A TorchScript module has a schema in the place of a Python signature; its first argument is the module."""
    try:
        forward: Any = model.forward
        arguments = forward.schema.arguments[1:]
    except (AttributeError, RuntimeError):  # an archive may hold a module without a forward
        return ForwardSignature()
    names = tuple(argument.name for argument in arguments)
    required = tuple(argument.name for argument in arguments if not argument.has_default_value())
    return ForwardSignature(names, required, len(names), any_positional=False, any_name=False)

"""What the model's forward takes: the names by which data finds its way to it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from torch import nn

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


def signature_of(model: nn.Module | None) -> ForwardSignature:
    """The arguments of the model's forward; anything goes where there is no model or it does not tell."""
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

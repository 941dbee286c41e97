"""The first layer of a model, which tells what its input looks like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

TOKENS = ("Embedding", "EmbeddingBag")
TIME_FIRST = {"RNN": "input_size", "LSTM": "input_size", "GRU": "input_size", "MultiheadAttention": "embed_dim"}
"""Layers that take time on axis 0 unless they are told otherwise, and what they call the number of features."""


@dataclass(frozen=True)
class FirstLayer:
    """A layer with parameters of its own.

    Attributes:
        name: Its path.
        kind: The class of torch.nn that it is or comes from; empty for a class of somebody's own.
        module: The layer.
    """

    name: str
    kind: str
    module: nn.Module

    def size(self, attribute: str, axis: int) -> int:
        """A size that the layer names; a traced one has nothing but its weight to tell it."""
        named = getattr(self.module, attribute, None)
        return named if isinstance(named, int) else self.weight_shape[axis]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of its first parameter."""
        return tuple(next(self.module.parameters(recurse=False)).shape)

    @property
    def features(self) -> int:
        """Features of one step, of a layer that takes time first."""
        return self.size(TIME_FIRST[self.kind], axis=1)

    @property
    def batch_first(self) -> bool:
        """True where the layer says that its axis 0 is the batch."""
        return getattr(self.module, "batch_first", False) is True

    @property
    def words(self) -> int | None:
        """How many whole numbers it can look up."""
        return self.weight_shape[0] if self.kind in TOKENS else None


def first_layer(model: nn.Module) -> FirstLayer:
    """The first layer of torch.nn, in the order they were made, that has parameters of its own.

    Modules of somebody's own that hold parameters (a class token, say) tell nothing, and are passed over; where there
    is nothing else, it is the first of these, or the model itself.
    """
    holders = [
        FirstLayer(name or _class_name(module), _kind_of(module), module)
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    fallback = [*holders, FirstLayer(_class_name(model), _kind_of(model), model)][0]
    return next((layer for layer in holders if layer.kind), fallback)


def _class_name(module: nn.Module) -> str:
    return str(module.original_name) if isinstance(module, torch.jit.ScriptModule) else type(module).__name__


def _kind_of(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):  # which keeps the name of its class alone
        name = _class_name(module)
        return name if isinstance(getattr(nn, name, None), type) else ""
    bases = (base for base in type(module).__mro__ if base.__module__.startswith("torch.nn.modules"))
    return next((base.__name__ for base in bases if base is not nn.Module), "")

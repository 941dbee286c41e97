"""The paths under which a module is registered: several, where it is shared."""

from __future__ import annotations

from torch import nn


def aliases_of(model: nn.Module, module: nn.Module) -> list[str]:
    """Every path under which a module is registered in a model."""
    return [path for path, other in model.named_modules(remove_duplicate=False) if other is module]

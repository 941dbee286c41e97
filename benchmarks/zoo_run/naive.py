"""What the usual recipe does: hooks on `nn.ReLU` modules to find calls, `setattr` of one PReLU to replace a module."""

from __future__ import annotations

import copy

from torch import nn

from benchmarks.zoo_run.comparing import difference
from benchmarks.zoo_run.dispatched import dispatched_rectifiers, rectifiers
from prelu_doctor.data.batches import Batch
from prelu_doctor.sites.find import find_sites
from prelu_doctor.sites.trace import trace


def hooked_calls(model: nn.Module, batch: Batch) -> tuple[int, int]:
    """Modules that are an `nn.ReLU`, and calls of them in one forward as their hooks count these."""
    modules = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handles = [module.register_forward_hook(count) for module in modules]
    dispatched_rectifiers(model, batch)  # without the fused kernels, which would call no hook
    for handle in handles:
        handle.remove()
    return len(modules), calls


def naive_conversion(model: nn.Module, batch: Batch) -> dict[str, object]:
    """Replaces every `nn.ReLU` by an `nn.PReLU()` of its own, and looks at what became of the model.

    Returns:
        `replaced` modules, `calls_left` and `sites_left` that still rectify, `change` of the output.
    """
    converted = copy.deepcopy(model)
    replaced = _replace(converted)
    left = find_sites(converted, trace(converted, batch.take(slice(0, 2)))).found
    return {
        "replaced": replaced,
        "calls_left": rectifiers(dispatched_rectifiers(converted, batch)),
        "sites_left": sum(site.activation.function in ("relu", "relu6") for site in left),
        "change": difference(model, converted, [batch]).change,
    }


def _replace(module: nn.Module) -> int:
    replaced = 0
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.PReLU())
            replaced += 1
        else:
            replaced += _replace(child)
    return replaced

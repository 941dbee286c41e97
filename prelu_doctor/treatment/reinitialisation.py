"""He re-initialisation of every unit, for recipes that train a network anew. It does not keep the function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prelu_doctor.data.batches import Batch
from prelu_doctor.devices import device_of
from prelu_doctor.treatment.revival import write_edits
from prelu_doctor.treatment.revival_plan import Edit


def reinitialise(
    model: nn.Module,
    edits: Iterable[Edit],
    batches: Callable[[], Iterator[Batch]],
    *,
    slope: float,
    generator: torch.Generator,
) -> None:
    """Draws the rows of all these edits anew, in place, and recalibrates the batch norms behind them on the data.

    Args:
        model: The operated model.
        edits: What to write.
        batches: The scanned data.
        slope: The rectifiers' negative slope, for He's variance.
        generator: Draws the weights.
    """
    edits = list(edits)
    if not edits:
        return
    write_edits(dict((*model.named_parameters(), *model.named_buffers())), edits, slope, generator)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if norms:
        _recalibrate(model, norms, batches)


def _recalibrate(model: nn.Module, norms: list[_BatchNorm], batches: Callable[[], Iterator[Batch]]) -> None:
    """Plain averages of the batch statistics; in training mode each norm feeds the next what it will feed it later."""
    momenta = [norm.momentum for norm in norms]
    device = device_of(model)
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad(), torch.random.fork_rng():
            for batch in (batch for batch in batches() if batch.size > 1):
                batch.to(device).clone().run(model)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, flag in flags:
            module.training = flag

"""Does the treated model compute the same function? Its outputs against the original's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prelu_doctor import records
from prelu_doctor.data.batches import Batch
from prelu_doctor.devices import device_of
from prelu_doctor.undisturbed import undisturbed

ROUNDING = 1e-6
"""Largest max |change| / max |output| that counts as float rounding."""


def compare_outputs(
    original: nn.Module, treated: nn.Module, batches: Iterator[Batch], *, promised: bool
) -> records.Preservation:
    """Runs both models on the same data in eval mode.

    Args:
        original: The model before.
        treated: The model after.
        batches: The data.
        promised: Whether the treatment was to keep the function.

    Returns:
        How far the output moved. Non-finite elements must stand at the same places, else the change is infinite.
    """
    device = device_of(original)
    samples, equal, change, scale = 0, True, 0.0, 0.0
    with torch.inference_mode(), undisturbed(original), undisturbed(treated):
        for batch in (batch.to(device) for batch in batches):
            outputs = [tree_leaves(_seeded_run(model, batch)) for model in (original, treated)]
            for before, after in zip(*outputs, strict=True):
                if not isinstance(before, Tensor):
                    continue
                equal &= _equal(before, after)
                change = max(change, _change(before, after))
                scale = max(scale, _scale(before))
            samples += batch.size
    return records.Preservation(promised=promised, samples=samples, equal=equal, max_change=change, scale=scale)


def _seeded_run(model: nn.Module, batch: Batch) -> Any:
    torch.manual_seed(0)  # a forward may draw random numbers in eval mode too
    return batch.clone().run(model)


def is_preserved(preservation: records.Preservation) -> bool:
    """True where the output moved by no more than float rounding."""
    return preservation.equal or preservation.max_change <= ROUNDING * preservation.scale


def _equal(before: Tensor, after: Tensor) -> bool:
    """All elements `==`, so that -0.0 is 0.0, with NaN at the same places."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    return bool(((before == after) | (before.isnan() & after.isnan())).all())


def _change(before: Tensor, after: Tensor) -> float:
    if before.shape != after.shape or not torch.equal(before.isfinite(), after.isfinite()):
        return float("inf")
    finite = before.isfinite()
    return float((after.double() - before.double())[finite].abs().max()) if bool(finite.any()) else 0.0


def _scale(tensor: Tensor) -> float:
    finite = tensor.double()[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0

"""Does the treated model compute the same function? Its outputs against the original's."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from prelu_doctor import records
from prelu_doctor.data.batches import Batch
from prelu_doctor.devices import device_of
from prelu_doctor.errors import ForwardError
from prelu_doctor.leaves import leaves_of, opaque_leaf
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
    samples, equal, worst = 0, True, (0.0, 0.0)
    energies: list[list[tuple[float, float]]] = []
    with torch.inference_mode(), undisturbed(original), undisturbed(treated):
        for batch in (batch.to(device) for batch in batches):
            outputs = [_outputs(model, batch) for model in (original, treated)]
            for before, after in zip(*outputs, strict=True):
                equal &= _equal(before, after)
                worst = max(worst, (_change(before, after), _scale(before)), key=_moved_far)
            energies.append([_energies(before, after) for before, after in zip(*outputs, strict=True)])
            samples += batch.counted
    change, scale = worst
    return records.Preservation(
        promised=promised,
        samples=samples,
        equal=equal,
        max_change=change,
        scale=scale,
        rms_change=_rms_change(energies),
    )


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Everything a model returns, plain values as tensors.

    Raises:
        ForwardError: It returns an object that cannot be looked into, so that nothing could be promised of it.
    """
    torch.manual_seed(0)  # a forward may draw random numbers in eval mode too
    output = batch.clone().run(model)
    opaque = opaque_leaf(output)
    if opaque:
        raise ForwardError(
            f"the model returns a {opaque}, which cannot be looked into",
            "tensors in tuples, lists, mappings or dataclasses",
            "wrap the model in one that returns these",
        )
    leaves = [leaf for _, leaf in leaves_of(output)]
    numbers = [leaf for leaf in leaves if isinstance(leaf, Tensor | bool | int | float | complex)]
    return [leaf if isinstance(leaf, Tensor) else torch.tensor(leaf) for leaf in numbers]


def _moved_far(change_and_scale: tuple[float, float]) -> tuple[float, float]:
    """Orders outputs by how far each moved on its own scale, equal ones by their scale."""
    change, scale = change_and_scale
    return (change / scale if scale else float("inf") if change else 0.0, scale)


def is_preserved(preservation: records.Preservation) -> bool:
    """True where the output moved by no more than float rounding."""
    return preservation.equal or preservation.max_change <= ROUNDING * preservation.scale


def _equal(before: Tensor, after: Tensor) -> bool:
    """All elements `==`, so that -0.0 is 0.0, with NaN at the same places."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    return bool(((before == after) | (before.isnan() & after.isnan())).all())


def _change(before: Tensor, after: Tensor) -> float:
    if before.shape != after.shape:
        return float("inf")
    finite = before.isfinite() & after.isfinite()
    if not _equal(before[~finite], after[~finite]):
        return float("inf")
    return float((after.double() - before.double())[finite].abs().max()) if bool(finite.any()) else 0.0


def _energies(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Sum of the squared change and of the squared output, over what is finite in both."""
    if before.shape != after.shape:
        return 0.0, 0.0
    finite = before.isfinite() & after.isfinite()
    old, new = before.double()[finite], after.double()[finite]
    return float(((new - old) ** 2).sum()), float((old**2).sum())


def _rms_change(energies: list[list[tuple[float, float]]]) -> float:
    """The change in root mean square over all batches, of the output that moved most by this measure."""
    totals = [[math.fsum(part) for part in zip(*batches, strict=True)] for batches in zip(*energies, strict=False)]
    return max((math.sqrt(change / size) if size else 0.0 for change, size in totals), default=0.0)


def _scale(tensor: Tensor) -> float:
    finite = tensor.double()[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0

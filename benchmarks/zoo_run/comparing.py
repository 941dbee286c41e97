"""Two models on the same inputs: are their outputs equal, and how far apart are they?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo_run.dispatched import fused_kernels_off
from prelu_doctor.data.batches import Batch


@dataclass(frozen=True)
class Difference:
    """How far the outputs of two models lie apart.

    Attributes:
        equal: Every element equal (`==`), NaN at the same places.
        change: Largest |difference| of an output over its largest |element|; infinite where shapes differ.
    """

    equal: bool
    change: float


def difference(left: nn.Module, right: nn.Module, batches: Iterable[Batch], *, widen: bool = False) -> Difference:
    """Runs both models, with the same random numbers, and compares every tensor that they return.

    Args:
        left: The one whose outputs are the scale.
        right: The other one.
        batches: What to run through them.
        widen: Whether the left one gets its floating inputs in double precision.
    """
    equal, change = True, 0.0
    for batch in batches:
        wide = _doubled(batch) if widen else batch
        pairs = zip(outputs_of(left, wide), outputs_of(right, batch), strict=True)
        for one, other in pairs:
            equal &= _equal(one, other)
            change = max(change, _change(one, other))
    return Difference(equal, change)


def outputs_of(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Every tensor that a model returns, in order."""
    with torch.no_grad(), fused_kernels_off(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return list(_tensors(batch.clone().run(model)))


def _doubled(batch: Batch) -> Batch:
    def wide(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    return Batch(tuple(map(wide, batch.args)), {name: wide(tensor) for name, tensor in batch.kwargs.items()})


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from (tensor for part in value.values() for tensor in _tensors(part))
    elif isinstance(value, list | tuple):
        yield from (tensor for part in value for tensor in _tensors(part))
    elif is_dataclass(value):
        yield from (tensor for field in fields(value) for tensor in _tensors(getattr(value, field.name)))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _change(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    if not one.numel() or _equal(one, other):
        return 0.0
    apart = (one.double() - other.double()).abs().nan_to_num(nan=float("inf")).max()
    scale = one.double().abs().nan_to_num(nan=0.0).max()
    return float(apart / scale) if scale > 0 else float("inf")

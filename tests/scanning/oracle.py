"""Firing counts by plain loops over what a slow recorder saw, one sample at a time: layouts cannot be got wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from zoo.odd import Odd
from zoo.slow_oracle import Call, CallRecorder, calls_by_site

from prelu_doctor.data.batches import Batch
from prelu_doctor.scanning.scan import Scan, scan_model


@dataclass
class Truth:
    """What one site did on the samples seen: on how many each unit fired, and at how many positions."""

    samples: int = 0
    positions: int = 0
    fired: list[int] = field(default_factory=list)
    positive: list[int] = field(default_factory=list)


def truths_of(kind: type[Odd], model: Odd, batch: Batch) -> dict[str, Truth]:
    """The truth about every site of a zoo model."""
    truths = {site: Truth(fired=[0] * units, positive=[0] * units) for site, units in kind.expected_sites}
    plain = model.in_plain_python().eval()
    for sample in range(batch.size):
        one = batch.take(slice(sample, sample + 1)).clone()
        calls = CallRecorder(plain).record(*one.args, **one.kwargs)
        for site, own in calls_by_site(kind, calls).items():
            count(truths[site], own, kind.unit_axes.get(site, 1))
    return truths


def count(truth: Truth, calls: list[Call], axis: int) -> None:
    """Adds one sample, whose calls hold nothing but this sample."""
    truth.samples += 1
    fires = [False] * len(truth.fired)
    for call in calls:
        for unit, values in enumerate(call.values.movedim(axis, 0)):
            active = [0 < x < call.ceiling for x in values.flatten().tolist()]
            fires[unit] = fires[unit] or any(active)
            truth.positive[unit] += sum(active)
        truth.positions += call.values.numel() // len(fires)
    for unit, fired in enumerate(fires):
        truth.fired[unit] += fired


def split(inputs: tuple[Tensor, ...], size: int, **keywords: Tensor) -> list[Batch]:
    whole = Batch(args=inputs, kwargs=keywords)
    return [whole.take(slice(start, start + size)) for start in range(0, whole.size, size)]


def scanned(model: nn.Module, *inputs: Tensor, size: int = 0, **keywords: Tensor) -> Scan:
    """The scan of a model in batches of some size; all at once where none is given."""
    return scan_model(model, iter(split(inputs, size or Batch(args=inputs, kwargs=keywords).size, **keywords)))

"""Carries out revival plans: He-initialised, fed, and cut off from their readers, so that the output does not move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.scanning.norm_statistics import norm_statistics
from prelu_doctor.scanning.scan import scan_model
from prelu_doctor.treatment.he import he_normal
from prelu_doctor.treatment.revival_plan import Edit, UnitPlan

DRAWS = 5
"""How often a unit that stays silent is drawn anew."""


@dataclass
class Revival:
    """What came of the plans.

    Attributes:
        revived: Plans of the units that now fire.
        failed: Plans of those that stayed silent; their weights are what they were.
    """

    revived: list[UnitPlan] = field(default_factory=list)
    failed: list[UnitPlan] = field(default_factory=list)


def revive(
    model: nn.Module,
    plans: Sequence[UnitPlan],
    batches: Callable[[], Iterator[Batch]],
    *,
    module_of: Callable[[str], str],
    slope: float,
    generator: torch.Generator,
) -> Revival:
    """Wakes dead units, in place, without moving the model's output.

    Args:
        model: The operated model.
        plans: One for each unit.
        batches: The scanned data: running statistics are re-estimated on it, and it must see every unit fire.
        module_of: Path of the PReLU of a site.
        slope: The slope that the units will have, for He's variance.
        generator: Draws the weights.

    Returns:
        Which units were revived. A unit still silent after `DRAWS` draws gets its old weights back.
    """
    revival = Revival()
    if not plans:
        return revival
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    edited = {edit.tensor for plan in plans for edit in _edits(plan)}
    before = {name: tensors[name].detach().clone() for name in edited}
    pending = list(plans)
    for _ in range(DRAWS):
        write_edits(tensors, (edit for plan in pending for edit in plan.incoming), slope, generator)
        write_edits(tensors, (edit for plan in plans for edit in plan.outgoing), slope, generator)
        _set_statistics(model, tensors, pending, batches)
        firing = _firing_units(model, batches)
        pending = [plan for plan in pending if plan.unit not in firing.get(module_of(plan.site), set())]
        if not pending:
            break
    silent = {(plan.site, plan.unit) for plan in pending}
    revival.failed = pending
    revival.revived = [plan for plan in plans if (plan.site, plan.unit) not in silent]
    _restore(tensors, before, revival)
    return revival


def _edits(plan: UnitPlan) -> tuple[Edit, ...]:
    return (*plan.incoming, *plan.outgoing)


@torch.no_grad()
def write_edits(tensors: dict[str, Tensor], edits: Iterable[Edit], slope: float, generator: torch.Generator) -> None:
    """Writes slices of tensors in place: He-normal values for this slope, or constants."""
    for edit in edits:
        place = tensors[edit.tensor][edit.index]
        if edit.write == "he":
            tensors[edit.tensor][edit.index] = he_normal(place.shape, edit.fan_in, slope, generator).to(place)
        else:
            tensors[edit.tensor][edit.index] = _CONSTANTS[edit.write]


_CONSTANTS = {"one": 1.0, "zero": 0.0, "mean": 0.0, "variance": 1.0}


@torch.no_grad()
def _set_statistics(
    model: nn.Module, tensors: dict[str, Tensor], plans: Sequence[UnitPlan], batches: Callable[[], Iterator[Batch]]
) -> None:
    """Running mean and variance of the norms behind re-initialised rows: one pass, since revived units feed nobody."""
    edits = [edit for plan in plans for edit in plan.incoming if edit.write in ("mean", "variance")]
    if not edits:
        return
    statistics = norm_statistics(model, (batch.to(_device(tensors)) for batch in batches()))
    for edit in edits:
        if edit.tensor in statistics:
            tensors[edit.tensor][edit.index] = statistics[edit.tensor][edit.index].to(tensors[edit.tensor])


def _firing_units(model: nn.Module, batches: Callable[[], Iterator[Batch]]) -> dict[str, set[int]]:
    """By path of the activation module, the units that fire on some sample."""
    scan = scan_model(model, batches())
    firing: dict[str, set[int]] = {}
    for examined in scan.probe.examined.values():
        module = examined.site.position.module
        if module is not None:
            firing.setdefault(module, set()).update(examined.tally.fired.nonzero().flatten().tolist())
    return firing


@torch.no_grad()
def _restore(tensors: dict[str, Tensor], before: dict[str, Tensor], revival: Revival) -> None:
    """Gives failed units their weights back; where these cross a revived unit's outgoing zeros, the zeros stay."""
    for edit in (edit for plan in revival.failed for edit in _edits(plan)):
        tensors[edit.tensor][edit.index] = before[edit.tensor][edit.index]
    for edit in (edit for plan in revival.revived for edit in plan.outgoing):
        tensors[edit.tensor][edit.index] = 0.0


def _device(tensors: dict[str, Tensor]) -> torch.device:
    return next(iter(tensors.values())).device

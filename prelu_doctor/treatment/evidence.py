"""Which dead units there is evidence enough to revive, and why not the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from prelu_doctor import records
from prelu_doctor.data.batches import Dataset
from prelu_doctor.scanning.confidence import firing_rate_bound
from prelu_doctor.scanning.scan import Scan, scan_model
from prelu_doctor.scanning.tally import Tally
from prelu_doctor.treatment.revival_plan import UnitPlan, plan_revival


@dataclass
class Revivable:
    """Dead units, sorted.

    Attributes:
        plans: How to revive those on which there is evidence and which known weights alone write and read.
        declined: By site and reason, the units left alone.
    """

    plans: list[UnitPlan] = field(default_factory=list)
    declined: dict[str, dict[str, list[int]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))


def revivable(before: Scan, dataset: Dataset, converted: Collection[str], revive_bound: float) -> Revivable:
    """Sorts the dead units of the converted sites.

    Re-initialisation would wipe out a unit that was only rare. So it takes real data, silence on the scanned and on the
    held-out part, and a firing-rate bound that is small enough.

    Args:
        before: The original model's scan.
        dataset: What it was scanned on.
        converted: Sites that were converted.
        revive_bound: Largest firing-rate bound at which silence counts as death.
    """
    sorted_units = Revivable()
    parts = [before, *_held_out(before, dataset)]
    for found, site in zip(before.probe.sites.found, before.sites, strict=True):
        if site.id not in converted or not site.dead_units:
            continue
        reasons = sorted_units.declined[site.id]
        doubt = _doubt(site, dataset, before, revive_bound, late=not found.calls)
        if doubt:
            reasons[doubt] = list(site.dead_units)
            continue
        fires = _above_zero(parts, site.id, lambda tally: tally.fired)
        awake = [unit for unit in site.dead_units if unit in fires]
        if awake:
            reasons["it fires on the held-out part"] = awake
        # A ReLU6 at its ceiling does not fire, and must not be cut off either.
        not_zero = _above_zero(parts, site.id, lambda tally: tally.magnitude.value())
        saturated = [unit for unit in site.dead_units if unit in not_zero - fires]
        if saturated:
            reasons["it is not silent but saturated: its output is not 0"] = saturated
        left = [unit for unit in site.dead_units if unit not in awake and unit not in saturated]
        plans, obstacles = plan_revival(before.probe.graph, found, left)
        sorted_units.plans += plans
        for unit, reason in obstacles.items():
            reasons[reason].append(unit)
    return sorted_units


def _doubt(site: records.Site, dataset: Dataset, before: Scan, revive_bound: float, *, late: bool) -> str:
    """Why a site's silence is no evidence, or an empty string."""
    if dataset.synthetic:
        return "the data is synthetic, and silence on it is no evidence"
    if site.saw_nan:
        return "NaN values reach its site, and what they hide cannot be told"
    if late:
        return "its branch does not run on the first samples, on which its readers are looked for"
    if site.input_independent:
        return ""
    bound = site.firing_rate_bound if site.counted == "samples" else firing_rate_bound(before.samples)
    if bound > revive_bound:
        return (
            f"silence on {site.samples} {site.counted} bounds its firing rate by {bound:.2%} only, "
            f"and --revive-bound asks for {revive_bound:.2%}"
        )
    return ""


def _held_out(before: Scan, dataset: Dataset) -> list[Scan]:
    """The scan of the held-out part, if there is one."""
    if dataset.held_out is None or dataset.synthetic:
        return []
    return [scan_model(before.probe.model, dataset.held_out(), functions=before.probe.graph.functions)]


def _above_zero(parts: Sequence[Scan], site: str, figure: Callable[[Tally], Tensor]) -> set[int]:
    """The units of which a figure is above 0 on any part."""
    tallies = [part.probe.examined[site].tally for part in parts if site in part.probe.examined]
    return {unit for tally in tallies for unit in (figure(tally) > 0).nonzero().flatten().tolist()}

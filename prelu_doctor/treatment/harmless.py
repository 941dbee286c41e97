"""Gives up the revivals that move the output, site by site, and keeps the others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from prelu_doctor import records
from prelu_doctor.treatment.preservation import is_preserved
from prelu_doctor.treatment.revival_plan import UnitPlan


def keep_harmless(
    model: nn.Module,
    before: Mapping[str, Tensor],
    slopes: Mapping[str, str],
    plans: Sequence[UnitPlan],
    compare: Callable[[], records.Preservation],
) -> dict[str, records.Preservation]:
    """Takes back the revivals that move the output.

    Args:
        model: The model with all units revived; changed in place.
        before: Its state dict before any was.
        slopes: Name of the slope parameter of a site.
        plans: The units that were revived.
        compare: Compares the model's outputs with the original's.

    Returns:
        By site that was given up, how far it alone moved the output; all sites, where each is harmless alone but not
        together with the others.
    """
    revived = copy.deepcopy(model.state_dict())
    sites = dict.fromkeys(plan.site for plan in plans)

    def revive(chosen: set[str]) -> records.Preservation:
        model.load_state_dict(before)
        _copy(revived, model.state_dict(), [plan for plan in plans if plan.site in chosen], slopes)
        return compare()

    alone = {site: revive({site}) for site in sites}
    harmful = {site: moved for site, moved in alone.items() if not is_preserved(moved)}
    together = revive(sites.keys() - harmful.keys())
    if is_preserved(together):
        return harmful
    model.load_state_dict(before)
    return {**dict.fromkeys(sites, together), **harmful}


@torch.no_grad()
def _copy(
    source: Mapping[str, Tensor], target: Mapping[str, Tensor], plans: Sequence[UnitPlan], slopes: Mapping[str, str]
) -> None:
    """Copies what reviving these units wrote: slices of weights, and their slopes."""
    for plan in plans:
        for edit in (*plan.incoming, *plan.outgoing):
            target[edit.tensor][edit.index] = source[edit.tensor][edit.index]
        slope = slopes[plan.site]
        if len(target[slope]) > plan.unit:
            target[slope][plan.unit] = source[slope][plan.unit]

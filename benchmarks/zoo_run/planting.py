"""Kills one unit of each of the first few sites, so that there is something to find and to revive."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from prelu_doctor.sites.find import FoundSite

DEEP = -1e3
"""The shift of a planted unit: nothing in these networks outweighs it."""

Planted = list[tuple[str, int]]
"""Site and unit."""


@torch.no_grad()
def plant_dead_units(model: nn.Module, sites: Sequence[FoundSite], *, wanted: int = 3, seed: int = 0) -> Planted:
    """Pushes the bias, or the shift of the norm, of one unit of a few sites far below 0, in place.

    Args:
        model: The model.
        sites: Its sites; the layer nearest to each tells whose bias is pushed.
        wanted: How many sites.
        seed: Picks the units.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    planted: Planted = []
    used: set[str] = set()
    for site in sites:
        if len(planted) == wanted or site.activation.function not in ("relu", "relu6") or not site.producers:
            continue
        name = f"{site.producers[-1]}.bias"
        bias = parameters.get(name)
        if bias is None or bias.shape != (site.units,) or name in used:
            continue
        unit = int(torch.randint(site.units, (), generator=generator))
        bias[unit] = DEEP
        used.add(name)
        planted.append((site.id, unit))
    return planted

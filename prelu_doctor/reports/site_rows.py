"""Which sites a table shows: all of a short model, of a long one the worst, with the rest summed up between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prelu_doctor.records import Site

ROWS = 40
"""Sites up to which a table shows all."""
WORST_ROWS = 20
"""Sites that the table of a longer model shows at most."""


@dataclass(frozen=True)
class Gap:
    """Neighbouring sites that a table leaves out.

    Attributes:
        sites: How many.
        units: Their units.
        dead: Their dead units.
    """

    sites: int
    units: int
    dead: int


def dead_share(site: Site) -> float:
    """Share of the site's units that are dead; 0 without units."""
    return site.dead / site.units if site.units else 0.0


def site_rows(sites: Sequence[Site]) -> list[Site | Gap]:
    """The rows of a table, in forward order.

    Args:
        sites: In forward order.

    Returns:
        All sites of a short model. Of a long one the worst that have dead units, and a gap for each run of others; a
        gap of one site is the site itself.
    """
    if len(sites) <= ROWS:
        return list(sites)
    order = sorted(range(len(sites)), key=lambda index: -dead_share(sites[index]))
    shown = {index for index in order[:WORST_ROWS] if sites[index].dead}
    table: list[Site | Gap] = []
    run: list[Site] = []
    for index, site in enumerate(sites):
        if index not in shown:
            run.append(site)
            continue
        table += [*_gap(run), site]
        run = []
    return table + _gap(run)


def _gap(run: list[Site]) -> list[Site | Gap]:
    if len(run) <= 1:
        return list(run)
    return [Gap(len(run), sum(site.units for site in run), sum(site.dead for site in run))]

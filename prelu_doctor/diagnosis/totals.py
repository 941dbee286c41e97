"""Sums over the sites of a scan."""

from __future__ import annotations

from collections.abc import Sequence

from prelu_doctor.records import Site, Totals


def totals(sites: Sequence[Site]) -> Totals:
    """The sums of a report.

    Args:
        sites: Every site that was scanned.

    Returns:
        Their sums. Without any site the firing-rate bound is 1: nothing is known.
    """
    units = sum(site.units for site in sites)
    dead = sum(site.dead for site in sites)
    return Totals(
        sites=len(sites),
        units=units,
        dead=dead,
        dead_fraction=dead / units if units else 0.0,
        firing_rate_bound=max((site.firing_rate_bound for site in sites), default=1.0),
    )

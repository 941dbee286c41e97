"""Which sites a spot of code serves: one line may serve a site at each turn of a loop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

NO_SITE = -1
"""Stands for an activation call that could not be placed."""

ENOUGH = 8
"""Runs that contradict each other: more of them say nothing new."""


@dataclass(frozen=True)
class Spot:
    """A place in the code of a module's forward that makes activation calls.

    Attributes:
        owner: Path of the module.
        location: Where in its code, as `locations.located` tells it; empty where that is not known.
    """

    owner: str
    location: str


@dataclass(frozen=True)
class Turn:
    """One of a spot's calls.

    Attributes:
        turn: Number of the call in one run of the owner's forward, from 0.
        of: After how many calls the turns start over; 0 where they never do.
    """

    turn: int
    of: int


@dataclass
class Spots:
    """What all forwards so far have shown of the spots; sites are numbers.

    Attributes:
        sites: By spot all sites that it serves.
        modules: By path of an activation module the sites that it serves; under None those that a function serves.
    """

    sites: dict[Spot, set[int]] = field(default_factory=lambda: defaultdict(set))
    modules: dict[str | None, set[int]] = field(default_factory=lambda: defaultdict(set))
    _runs: dict[Spot, list[tuple[int, ...]]] = field(default_factory=lambda: defaultdict(list))

    def add_run(self, spot: Spot, sites: tuple[int, ...]) -> None:
        """Notes the sites that one run of the owner's forward went through at a spot, in order."""
        self.sites[spot].update({*sites} - {NO_SITE})
        known = self._runs[spot]
        if len(known) < ENOUGH and not any(longer[: len(sites)] == sites for longer in known):
            known[:] = [*(shorter for shorter in known if sites[: len(shorter)] != shorter), sites]

    def of_site(self, site: int) -> list[Spot]:
        """The spots that make a site's calls."""
        return [spot for spot, sites in self.sites.items() if site in sites]

    def of_owner(self, owner: str) -> list[int]:
        """The sites that a module's forward serves, lowest first."""
        return sorted({site for spot, sites in self.sites.items() if spot.owner == owner for site in sites})

    def turns(self, spot: Spot, site: int) -> list[Turn] | None:
        """Which of a spot's calls belong to a site; None where that differs from run to run."""
        if len(self._runs[spot]) > 1:
            return None
        (run,) = self._runs[spot]
        period = _period(run)
        return [Turn(turn, period) for turn, other in enumerate(run[: period or None]) if other == site]

    def sections(self, spot: Spot, site: int) -> list[Turn] | None:
        """As `turns` for a spot that serves one site after the other, each with any number of calls in a row."""
        orders = {tuple(_without_repeats(run)) for run in self._runs[spot]}
        order = max(orders, key=len)
        if len(orders) > 1 or len(set(order)) < len(order):
            return None
        return [Turn(order.index(site), len(order))]


def _period(run: tuple[int, ...]) -> int:
    """The shortest cycle that a sequence goes through at least twice, or that is 1; 0 where it is none."""
    cycles = (n for n in range(1, len(run) // 2 + 1) if all(site == run[k % n] for k, site in enumerate(run)))
    return 1 if len(run) == 1 else next(cycles, 0)


def _without_repeats(run: Iterable[int]) -> list[int]:
    order: list[int] = []
    for site in run:
        if order[-1:] != [site]:
            order.append(site)
    return order

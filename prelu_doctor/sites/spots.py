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
        owner: Path of the module, the first where it has several.
        location: Where in its code, as `locations.located` tells it; empty where that is not known.
    """

    owner: str
    location: str


@dataclass(frozen=True)
class Turn:
    """One of a spot's calls, and those that repeat it.

    Attributes:
        turn: Number of the call in one run of the owner's forward, from 0.
        every: After how many calls it comes again; 0 where it never does.
    """

    turn: int
    every: int


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
        start, period = _cycle(run)
        turns = enumerate(run[: start + period])
        return [Turn(turn, period if turn >= start else 0) for turn, other in turns if other == site]

    def sections(self, spot: Spot, site: int) -> list[Turn] | None:
        """As `turns` for a spot that serves one site after the other, each with any number of calls in a row.

        The number of a turn is then that of its site, and `every` how many sites there are.
        """
        orders = {tuple(_without_repeats(run)) for run in self._runs[spot]}
        order = max(orders, key=len)
        if len(orders) > 1 or len(set(order)) < len(order):
            return None
        return [Turn(order.index(site), len(order))]


LONGEST_CYCLE = 64
"""Calls: a loop over more layers than that is taken as it was seen."""


def _cycle(run: tuple[int, ...]) -> tuple[int, int]:
    """Where a sequence begins to repeat itself, and after how many; its end and 0 where it does not.

    A cycle is one that is gone through at least twice, or a sequence of one.
    """
    if len(run) == 1:
        return 0, 1
    for period in range(1, min(len(run) // 2, LONGEST_CYCLE) + 1):
        start = len(run) - period
        while start > 0 and run[start - 1] == run[start - 1 + period]:
            start -= 1
        if len(run) - start >= 2 * period:
            return start, period
    return len(run), 0


def _without_repeats(run: Iterable[int]) -> list[int]:
    order: list[int] = []
    for site in run:
        if order[-1:] != [site]:
            order.append(site)
    return order

"""Which sites a line of code serves, from the sequences that runs of a forward went through."""

from __future__ import annotations

import pytest

from prelu_doctor.sites.spots import ENOUGH, NO_SITE, Spot, Spots, Turn

LINE = Spot("block", "Block.forward@00000000+1:2")


def after(*runs: tuple[int, ...]) -> Spots:
    spots = Spots()
    for run in runs:
        spots.add_run(LINE, run)
    return spots


@pytest.mark.parametrize(
    ("runs", "site", "turns"),
    [
        ([(0,)], 0, [Turn(0, 1)]),
        ([(0, 0, 0)], 0, [Turn(0, 1)]),
        ([(0,), (0, 0), (0, 0, 0)], 0, [Turn(0, 1)]),
        ([(0, 1)], 1, [Turn(1, 0)]),
        ([(0, 1, 2)], 2, [Turn(2, 0)]),
        ([(0, 1, 0, 1)], 1, [Turn(1, 2)]),
        ([(0, 1), (0, 1, 0, 1, 0)], 0, [Turn(0, 2)]),
        ([(0, 0, 1)], 0, [Turn(0, 0), Turn(1, 0)]),
        ([(0, NO_SITE, 1)], 1, [Turn(2, 0)]),
        ([(0, 1), (0, 1, 2)], 2, [Turn(2, 0)]),
        ([(0, 1, 1, 1)], 0, [Turn(0, 0)]),
        ([(0, 1, 1, 1)], 1, [Turn(1, 1)]),
        ([(2, 0, 1, 0, 1)], 1, [Turn(2, 2)]),
        ([(0,) * 5000 + (1,)], 1, [Turn(5000, 0)]),
    ],
)
def test_a_sites_turns_follow_from_all_runs(runs: list[tuple[int, ...]], site: int, turns: list[Turn]) -> None:
    assert after(*runs).turns(LINE, site) == turns


@pytest.mark.parametrize("runs", [[(0, 1), (1, 0)], [(0,), (1,)], [(0, 1, 0), (0, 0)]])
def test_runs_that_contradict_each_other_tell_no_turns(runs: list[tuple[int, ...]]) -> None:
    assert after(*runs).turns(LINE, 0) is None


def test_what_is_kept_does_not_grow_with_the_number_of_runs() -> None:
    spots = after(*[(0,) * length for length in range(1, 50)])
    assert spots._runs[LINE] == [(0,) * 49]
    spots = after(*[(number, number + 1) for number in range(100)])
    assert len(spots._runs[LINE]) == ENOUGH
    assert spots.of_owner("block") == list(range(101))


def test_sections_are_sites_in_a_row_each_with_any_number_of_calls() -> None:
    spots = after((0, 0, 0, 1, 1, 1), (0, 1))
    assert spots.sections(LINE, 1) == [Turn(1, 2)]
    assert after((0, 0, 1, 1), (0, 1, 0, 1)).sections(LINE, 0) is None


def test_the_sites_of_an_owner_are_those_of_all_its_spots() -> None:
    spots = after((3, NO_SITE, 1))
    spots.add_run(Spot("block", "elsewhere"), (2,))
    spots.add_run(Spot("other", "elsewhere"), (7,))
    assert spots.of_owner("block") == [1, 2, 3]
    assert spots.of_site(2) == [Spot("block", "elsewhere")]

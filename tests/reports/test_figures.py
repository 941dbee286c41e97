"""Figures never round to what they are not."""

import math

import pytest

from prelu_doctor.reports.figures import count, listed, number, percent, slope
from prelu_doctor.reports.glyphs import ASCII, UNICODE


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0, "0 %"),
        (1e-9, "<0.01 %"),
        (0.0065, "0.65 %"),
        (0.047, "4.7 %"),
        (0.5, "50.0 %"),
        (0.9999, ">99.9 %"),
        (1, "100 %"),
        (math.nan, "NaN"),
    ],
)
def test_a_percentage_is_0_or_100_only_when_the_share_is(share, shown):
    assert percent(share) == shown


def test_a_missing_figure_is_a_dash_and_a_nan_says_so():
    assert [number(value) for value in (None, math.nan, math.inf, 0.16123)] == ["-", "NaN", "inf", "0.1612"]


def test_slopes_that_are_exactly_0_look_different_from_small_ones():
    assert [slope(value) for value in (0, 1e-5, 0.25, -0.004)] == ["0", "1e-05", "0.250", "-0.004"]


def test_quantities_agree_with_their_nouns():
    assert [count(n, "unit") for n in (0, 1, 4800)] == ["0 units", "1 unit", "4,800 units"]
    assert [listed(list("abc"), most) for most in (2, 3)] == ["a, b and 1 more", "a, b, c"]


@pytest.mark.parametrize(
    ("share", "bar"), [(0, ""), (1e-6, "▏"), (0.5, "████"), (0.999999, "███████▉"), (1, "████████")]
)
def test_a_bar_shows_any_share_above_0_and_is_full_only_at_1(share, bar):
    assert UNICODE.bar(share, 8) == bar


@pytest.mark.parametrize(
    ("share", "bar"), [(0, ""), (1e-6, "#"), (0.5, "####"), (0.999999, "#######"), (1, "########")]
)
def test_a_bar_keeps_these_promises_in_ascii(share, bar):
    assert ASCII.bar(share, 8) == bar


def test_a_name_is_cut_at_its_left_by_the_cells_it_takes():
    assert UNICODE.cut_left("layer1.relu#2", 7) == "…relu#2"
    assert UNICODE.cut_left("relu", 4) == "relu"
    assert UNICODE.cut_left("日本語", 5) == "…本語"
    assert ASCII.cut_left("layer1.relu#2", 7) == "...lu#2"

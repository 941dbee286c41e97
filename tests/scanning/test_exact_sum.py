"""A sum whose bits do not depend on the order of its addends."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prelu_doctor.scanning.exact_sum import ExactSum

FLOOR = 2.0**-120
FLOATS = st.floats(-1e30, 1e30, allow_nan=False, allow_infinity=False)


def summed(numbers):
    total = ExactSum(1)
    total.add(torch.tensor(numbers, dtype=torch.float64).reshape(-1, 1))
    return total


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(FLOATS, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_any_order_and_any_cut_gives_the_same_bits(numbers, chance):
    whole = summed(numbers).value().item()
    shuffled = chance.sample(numbers, len(numbers))
    cut = chance.randint(0, len(numbers))
    parts = [part for part in (shuffled[cut:], shuffled[:cut]) if part]
    merged = summed(parts[0])
    for part in parts[1:]:
        merged.merge(summed(part))
    assert merged.value().item() == whole


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(FLOATS, min_size=1, max_size=40))
def test_the_sum_is_that_of_fsum_but_for_what_lies_below_the_floor(numbers):
    exact = math.fsum(math.trunc(number / FLOOR) * FLOOR for number in numbers)
    assert summed(numbers).value().item() == exact
    assert abs(exact - math.fsum(numbers)) <= len(numbers) * FLOOR + abs(exact) * 2**-52


def test_what_a_plain_sum_loses_is_kept():
    numbers = [1e16, 1.0, -1e16, 1e-20]
    assert sum(numbers) != math.fsum(numbers)
    assert summed(numbers).value().item() == math.fsum(numbers)


def test_addends_below_the_floor_are_dropped_the_same_way_every_time():
    assert summed([2.0**-121] * 1000).value().item() == 0
    assert summed([1.75 * FLOOR, -1.75 * FLOOR, 1.75 * FLOOR]).value().item() == FLOOR


def test_components_are_summed_by_themselves():
    total = ExactSum(3)
    total.add(torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]))
    assert total.value().tolist() == [11, 22, 33]


@pytest.mark.parametrize("value", [0.999999, 2.0**-41 + 2.0**-60, 3e38])
def test_ever_so_many_addends_do_not_overflow(value):
    """2^26 addends, by doubling: a digit of 40 bits alone would need 66."""
    total = summed([value])
    for _ in range(26):
        total.merge(total)
    assert total.value().item() == value * 2.0**26


def test_a_negative_sum_keeps_its_precision():
    assert summed([-0.1] * 3).value().item() == math.fsum([-0.1] * 3)

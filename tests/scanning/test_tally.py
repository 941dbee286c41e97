"""A tally is its counts: the same bits from any cut of the samples, in any order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prelu_doctor.scanning.tally import Tally

SHAPES = st.tuples(st.integers(2, 9), st.integers(1, 4), st.integers(1, 5))


def tallied(values, function="relu"):
    """The tally of pre-activations [N, C, P], as one forward."""
    tally = Tally(values.shape[1], function)
    tally.look(values.relu(), values.relu())
    tally.commit()
    return tally


def image(tally):
    return (
        tally.samples,
        tally.positions,
        tally.fired.tolist(),
        tally.positive.tolist(),
        tally.magnitude.value().tolist(),
        tally.sokar_scores().tolist(),
        tally.saw_nan,
    )


@settings(deadline=None, max_examples=100, derandomize=True)
@given(SHAPES, st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_shards_merge_to_the_whole_in_any_order(shape, seed, chance):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10 ** torch.linspace(-6, 6, shape[2])
    order = chance.sample(range(shape[0]), shape[0])
    cut = chance.randint(1, shape[0] - 1)
    one, other = tallied(values[order[cut:]]), tallied(values[order[:cut]])
    one.merge(other)
    assert image(one) == image(tallied(values))


def test_merging_is_associative_and_commutative():
    a, b, c = (torch.randn(n, 3, 4) for n in (2, 3, 5))

    def merged(first, *rest):
        tally = tallied(first)
        for values in rest:
            tally.merge(tallied(values))
        return image(tally)

    late = tallied(b)
    late.merge(tallied(c))
    early = tallied(a)
    early.merge(late)
    assert merged(a, b, c) == merged(c, a, b) == merged(b, c, a) == image(early)


def test_flags_survive_a_merge():
    tally, other = tallied(torch.ones(1, 1, 1)), tallied(torch.ones(1, 1, 1))
    other.saw_nan = other.saw_negative_infinity = True
    tally.merge(other)
    assert tally.saw_nan
    assert tally.saw_negative_infinity


def test_several_calls_in_one_forward_make_one_verdict_a_sample():
    tally = Tally(2, "relu")
    for values in ([[1.0, -1.0], [-1.0, -1.0]], [[-1.0, -1.0], [-1.0, 1.0]]):
        active = torch.tensor(values).relu().unsqueeze(-1)
        tally.look(active, active)
    tally.commit()
    assert (tally.samples, tally.fired.tolist()) == (2, [1, 1])
    assert (tally.positions, tally.positive.tolist()) == (4, [1, 1])


def test_nothing_is_counted_before_the_forward_has_ended():
    tally = Tally(1, "relu")
    tally.look(torch.ones(3, 1, 1), torch.ones(3, 1, 1))
    assert tally.samples == 0
    tally.commit()
    tally.commit()
    assert tally.samples == 3


def test_a_call_without_positions_counts_nothing():
    tally = tallied(torch.ones(3, 2, 0))
    assert (tally.samples, tally.positions) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_positions_are_counted_exactly_in_every_type(dtype):
    """4099 is no float16 or bfloat16 number: a count kept in the activation's type would be rounded."""
    values = torch.ones(3, 1, 4099, dtype=dtype)
    values[:, :, 0] = 0
    tally = tallied(values)
    assert tally.positive.tolist() == [3 * 4098]
    assert tally.magnitude.value().tolist() == [3 * 4098]


def test_the_smallest_positive_numbers_fire():
    assert tallied(torch.tensor([[[2.0**-149]]])).fired.tolist() == [1]
    assert tallied(torch.tensor([[[-0.0]]])).fired.tolist() == [0]


def test_sokar_scores_are_shares_of_the_mean_magnitude():
    values = torch.tensor([[[1.0, 3.0], [-1.0, 0.0], [4.0, 8.0]]])
    assert tallied(values).sokar_scores().tolist() == [2 / (8 / 3), 0, 6 / (8 / 3)]
    assert tallied(-values.abs()).sokar_scores().tolist() == [0, 0, 0]
    assert Tally(2, "relu").sokar_scores().tolist() == [0, 0]

"""One pass over one tensor, against counting one number at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prelu_doctor.weights import values
from prelu_doctor.weights.values import values_of
from weights.slow import slow_counts, slow_held

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2]
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0]


def sprinkled(shape: tuple[int, ...], seed: int, *, odd: float, zeros: float) -> torch.Tensor:
    """Random numbers, some of them replaced by special ones, and some slices by 0."""
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator)
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), shape, generator=generator)]
    tensor = torch.where(torch.rand(shape, generator=generator) < odd, special, tensor)
    for axis in range(min(len(shape), 2)):
        chosen = torch.rand(shape[axis], generator=generator) < zeros
        tensor = torch.where(chosen.view(-1, *[1] * (len(shape) - 1 - axis)), 0.0, tensor)
    return tensor


def assert_like_the_slow_way(tensor: torch.Tensor) -> None:
    found = values_of(tensor)
    assert (found.nan, found.positive_infinite, found.negative_infinite) == slow_counts(tensor)
    assert found.zeros == sum(number == 0 for number in tensor.double().flatten().tolist())
    if tensor.ndim >= 2:
        assert found.rows.tolist() == slow_held(tensor, 0)
        assert found.columns.tolist() == slow_held(tensor, 1)


@settings(max_examples=150, deadline=None)
@given(
    shape=SHAPES,
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 2**31),
    odd=st.sampled_from([0.0, 0.2]),
    zeros=st.sampled_from([0.0, 0.4, 1.0]),
    block=st.sampled_from([1, 3, 7, 2**20]),
)
def test_counts_and_slices_are_those_of_the_slow_way_whatever_the_blocks(shape, dtype, seed, odd, zeros, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "LARGEST_BLOCK", block)
        assert_like_the_slow_way(sprinkled(shape, seed, odd=odd, zeros=zeros).to(dtype))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), block=st.sampled_from([3, 2**20]))
def test_the_layout_in_memory_changes_nothing(seed, block):
    tensor = sprinkled((4, 3, 2, 5), seed, odd=0.1, zeros=0.4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "LARGEST_BLOCK", block)
        assert_like_the_slow_way(tensor.to(memory_format=torch.channels_last))
        assert_like_the_slow_way(tensor.transpose(0, 3))
        assert_like_the_slow_way(tensor[:, :1].expand(-1, 3, -1, -1))


def test_a_sum_that_overflows_is_not_taken_for_an_infinity():
    largest = torch.full((3, 4), torch.finfo(torch.float32).max)
    assert_like_the_slow_way(largest)
    assert not values_of(largest).infinite


def test_infinities_of_both_signs_do_not_cancel():
    assert_like_the_slow_way(torch.tensor([[math.inf, -math.inf], [1.0, 2.0]]))


def test_the_parts_of_complex_numbers_are_looked_at():
    tensor = torch.zeros(3, 2, dtype=torch.complex64)
    tensor[1, 0] = complex(0, 1)
    tensor[2, 1] = complex(math.nan, math.inf)
    found = values_of(tensor.conj())
    assert (found.nan, found.infinite) == (1, 1)
    assert found.rows.tolist() == [False, True, True]
    assert found.columns.tolist() == [True, True]


def test_a_parameter_that_wants_gradients_is_looked_at_like_any_tensor():
    assert_like_the_slow_way(torch.nn.Linear(3, 4).weight.detach())
    assert values_of(torch.nn.Linear(3, 4).weight).rows.all()

"""What silence on n samples says."""

from __future__ import annotations

import pytest

from prelu_doctor.scanning.confidence import firing_rate_bound


@pytest.mark.parametrize("samples", [1, 2, 10, 299, 100_000])
def test_the_bound_is_clopper_pearsons(samples):
    bound = firing_rate_bound(samples)
    assert bound == pytest.approx(1 - 0.05 ** (1 / samples), rel=1e-12)
    assert (1 - bound) ** samples == pytest.approx(0.05)


def test_nothing_seen_says_nothing():
    assert firing_rate_bound(0) == 1


def test_299_samples_bring_the_bound_below_one_percent_and_298_do_not():
    assert firing_rate_bound(299) <= 0.01 < firing_rate_bound(298)


@pytest.mark.parametrize("samples", [100, 1000, 10_000])
def test_the_rule_of_three(samples):
    assert firing_rate_bound(samples) == pytest.approx(3 / samples, rel=0.02)
    assert firing_rate_bound(samples) < 3 / samples


def test_more_confidence_means_a_wider_bound():
    assert firing_rate_bound(100, 0.99) == pytest.approx(1 - 0.01**0.01, rel=1e-12)
    assert firing_rate_bound(100, 0.9) < firing_rate_bound(100) < firing_rate_bound(100, 0.99)

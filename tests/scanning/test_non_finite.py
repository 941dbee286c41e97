"""NaN and infinities are flagged, and what is counted beside them stays right."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scanning.oracle import scanned
from sites.made import Made
from torch import nn

NAN, INF = math.nan, math.inf
FUNCTIONS = {
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x, inplace=True),
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "leaky_relu in place": lambda x: F.leaky_relu(x, 0.1, inplace=True),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.1])),
}
EVERY = pytest.mark.parametrize("name", FUNCTIONS)


def site_on(rows, name):
    """The site whose pre-activations are these numbers, one row a sample, 40 equal positions each (vectorised)."""
    x = torch.tensor(rows).unsqueeze(-1).repeat(1, 1, 40).unsqueeze(-1)
    (site,) = scanned(Made(lambda m, x: FUNCTIONS[name](x)), x).sites
    return site


@EVERY
def test_finite_values_raise_no_flag(name):
    site = site_on([[1.0, -1.0], [-2.0, 3.0]], name)
    assert (site.saw_nan, site.saw_negative_infinity) == (False, False)


@EVERY
def test_nan_is_flagged_and_does_not_fire(name):
    site = site_on([[1.0, NAN, -1.0, NAN], [1.0, 2.0, -1.0, -1.0]], name)
    assert (site.saw_nan, site.saw_negative_infinity) == (True, False)
    assert site.firing_rate == site.positive_rate == [1, 0.5, 0, 0]


@EVERY
def test_a_nan_beside_a_positive_position_does_not_hide_it(name):
    x = torch.full((2, 2, 40, 1), NAN)
    x[0, 0, 7] = 1
    (site,) = scanned(Made(lambda m, x: FUNCTIONS[name](x)), x).sites
    assert site.saw_nan
    assert site.firing_rate == [0.5, 0]
    assert site.positive_rate == [1 / 80, 0]


@EVERY
def test_negative_infinity_is_flagged_and_does_not_fire(name):
    site = site_on([[1.0, -INF], [1.0, 2.0]], name)
    assert (site.saw_nan, site.saw_negative_infinity) == (False, True)
    assert site.firing_rate == [1, 0.5]


@EVERY
def test_negative_infinity_is_seen_beside_a_nan(name):
    site = site_on([[NAN, -INF], [1.0, 2.0]], name)
    assert (site.saw_nan, site.saw_negative_infinity) == (True, True)


@EVERY
def test_positive_infinity_fires_unless_there_is_a_ceiling(name):
    site = site_on([[1.0, INF], [1.0, -1.0]], name)
    assert (site.saw_nan, site.saw_negative_infinity) == (False, False)
    assert site.firing_rate == ([1, 0] if name == "relu6" else [1, 0.5])


@EVERY
def test_zero_does_not_fire(name):
    assert site_on([[0.0, -0.0, 1e-30]], name).firing_rate == [0, 0, 1]


def test_relu6_fires_strictly_between_0_and_6():
    site = site_on([[0.0, 6.0, 7.0, 5.999, 1e-30]], "relu6")
    assert site.firing_rate == [0, 0, 0, 1, 1]


@EVERY
def test_scores_stay_finite(name):
    site = site_on([[1.0, NAN, INF, -INF], [1.0, 2.0, 3.0, 4.0]], name)
    assert site.dormant <= 4
    assert all(math.isfinite(rate) for rate in (*site.firing_rate, *site.positive_rate))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_types_are_counted_alike(dtype):
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU6()).to(dtype)
    x = torch.randn(8, 3).to(dtype)
    with torch.no_grad():
        first = model[1](model[0](x))
        second = model[3](model[2](first))
    one, two = scanned(model, x).sites
    assert one.firing_rate == (first > 0).double().mean(0).tolist()
    assert two.firing_rate == ((second > 0) & (second < 6)).double().mean(0).tolist()

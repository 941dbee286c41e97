"""Networks that are born dead: exact shares of Lu et al. (2019), Dying ReLU and Initialization.

Inputs are -1 and +1, weights He-normal, biases 0. Many networks are run as one: layer by layer a grouped convolution,
one group a network.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from scanning.oracle import scanned
from torch import nn

NETS = 4000


def nets(width, layers):
    """`NETS` independent networks of this width, as one model on [N, NETS, 1]."""
    parts = []
    for fan_in in (1, *itertools.repeat(width, layers - 1)):
        conv = nn.Conv1d(NETS * fan_in, NETS * width, 1, groups=NETS, bias=False)
        nn.init.normal_(conv.weight, std=(2 / fan_in) ** 0.5)
        parts += [conv, nn.ReLU()]
    return nn.Sequential(*parts)


def dead_by_layer(width, layers):
    """Which units are dead, bool [NETS, width] for every layer."""
    inputs = torch.tensor([-1.0, 1.0]).view(2, 1, 1).expand(2, NETS, 1)
    masks = []
    for site in scanned(nets(width, layers), inputs).sites:
        mask = torch.zeros(NETS * width, dtype=torch.bool)
        mask[site.dead_units + site.silent_outputs] = True  # the last layer's units are outputs
        masks.append(mask.view(NETS, width))
    return masks


def assert_mean(shares, truth):
    """The mean over networks lies within four standard errors of the truth; networks are independent, units are not."""
    error = shares.std().item() / NETS**0.5
    assert error < 0.01
    assert abs(shares.mean().item() - truth) < 4 * error


@pytest.mark.parametrize("width", [2, 4, 16])
def test_share_of_dead_units_in_the_second_layer(width):
    first, second = dead_by_layer(width, 2)
    assert not first.any()
    assert_mean(second.double().mean(1), 1 / 4 + 2.0 ** -(width + 1))


@pytest.mark.parametrize(("width", "truth"), [(2, 0.15625), (3, 0.04297)])
def test_share_of_networks_that_are_dead_as_a_whole(width, truth):
    q = 2.0 ** (1 - width)
    exact = (1 - q) * 4.0**-width + q * 2.0**-width
    assert exact == pytest.approx(truth, abs=5e-6)
    assert_mean(dead_by_layer(width, 2)[1].all(1).double(), exact)


def test_shares_grow_with_depth():
    """Expected shares were simulated to three places."""
    for dead, share in zip(dead_by_layer(16, 4), (0, 0.250, 0.306, 0.340), strict=True):
        shares = dead.double().mean(1)
        assert abs(shares.mean().item() - share) <= 0.0005 + 4 * shares.std().item() / NETS**0.5

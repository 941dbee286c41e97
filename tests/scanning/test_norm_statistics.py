"""Running statistics are re-estimated as torch itself would, without touching the model."""

from __future__ import annotations

import pytest
import torch
from scanning.oracle import split
from sites.made import noise
from torch import nn

from prelu_doctor.scanning.norm_statistics import norm_statistics


def net(norm=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4, momentum=None), nn.ReLU(), nn.Conv2d(4, 5, 3), norm(5))


@pytest.mark.parametrize("size", [1, 4, 12])
def test_they_equal_the_moments_of_all_samples(size):
    model = net()
    x = noise(12, 3, 8, 8) * 3 + 1
    statistics = norm_statistics(model, iter(split((x,), size)))
    with torch.no_grad():
        first = model[0](x).double().movedim(1, 0).flatten(1)
        second = model.eval()[:4](x).double().movedim(1, 0).flatten(1)
    for name, values in (("1", first), ("4", second)):
        assert torch.allclose(statistics[f"{name}.running_mean"], values.mean(1), rtol=1e-5, atol=1e-6)
        assert torch.allclose(statistics[f"{name}.running_var"], values.var(1), rtol=1e-5)


def test_they_equal_what_a_training_forward_keeps():
    model = net()
    x = noise(12, 3, 8, 8)
    statistics = norm_statistics(model, iter(split((x,), 4)))
    model[1].train()(model[0](x))
    assert torch.allclose(statistics["1.running_mean"].float(), model[1].running_mean, atol=1e-6)
    assert torch.allclose(statistics["1.running_var"].float(), model[1].running_var, rtol=1e-5)


def test_a_large_offset_does_not_cancel():
    model = nn.Sequential(nn.BatchNorm1d(2)).double()
    x = noise(100, 2).double() + 1e7
    statistics = norm_statistics(model, iter(split((x,), 10)))
    assert torch.allclose(statistics["0.running_var"], x.var(0), rtol=1e-6)


def test_the_models_own_statistics_stay():
    model = net().train()
    norm_statistics(model, iter(split((noise(12, 3, 8, 8),), 4)))
    assert model[1].running_mean.tolist() == [0] * 4
    assert model[1].num_batches_tracked == 0
    assert model.training


def test_norms_without_running_statistics_are_passed_over():
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.LayerNorm(3))
    assert norm_statistics(model, iter(split((noise(4, 3),), 2))) == {}

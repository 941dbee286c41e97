"""He's standard deviation against the formula and the table of He et al. 2015."""

from __future__ import annotations

import math

import pytest
import torch

from prelu_doctor.treatment.he import he_normal, he_std


@pytest.mark.parametrize(("filters", "published"), [(64, 0.059), (128, 0.042), (256, 0.029), (512, 0.021)])
def test_the_stds_of_3x3_filters_that_he_et_al_publish(filters: int, published: float) -> None:
    assert he_std(9 * filters) == pytest.approx(published, abs=0.0006)


@pytest.mark.parametrize("fan_in", [1, 27, 4608])
@pytest.mark.parametrize("slope", [0.0, 0.25, -1.0, 1.0])
def test_the_std_is_that_of_equation_15(fan_in: int, slope: float) -> None:
    assert he_std(fan_in, slope) == math.sqrt(2 / ((1 + slope * slope) * fan_in))


def test_the_variance_of_a_signal_is_kept_through_ten_layers() -> None:
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(256, 512, generator=generator)
    start = signal.square().mean()
    for _ in range(10):
        signal = torch.nn.functional.leaky_relu(signal, 0.25) @ he_normal((512, 512), 512, 0.25, generator)
    assert float(signal.square().mean() / start) == pytest.approx(1, rel=0.25)


def test_a_draw_has_the_std_and_follows_its_generator() -> None:
    draws = [he_normal((400, 100), 100, 0.25, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert float(draws[0].std()) == pytest.approx(he_std(100, 0.25), rel=0.02)
    assert float(draws[0].mean()) == pytest.approx(0, abs=0.002)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])

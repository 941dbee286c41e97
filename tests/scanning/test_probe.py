"""What scanning costs: one forward a batch beside a fixed few, and a state that does not grow."""

from __future__ import annotations

import pickle

import pytest
import torch
from scanning.oracle import scanned, split
from sites.made import noise
from torch import nn
from zoo import DIFFERENT, DropoutFunctional, PlantedModel, every

from prelu_doctor.scanning.scan import scan_model


class Counter(nn.Module):
    """Counts its forwards, and the samples that it was given."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return x


@pytest.mark.parametrize("number", [1, 2, 20])
def test_every_batch_is_run_once_and_a_fixed_few_forwards_of_two_samples_come_before(number):
    counter = Counter()
    scanned(nn.Sequential(counter, nn.Linear(3, 4), nn.ReLU()), noise(5 * number, 3), size=5)
    assert counter.sizes == [2] * 4 + [5] * number


def test_a_single_sample_is_enough():
    (site,) = scanned(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), noise(1, 3)).sites
    assert (site.samples, site.counted) == (1, "samples")


@pytest.mark.parametrize("kind", DIFFERENT)
def test_the_state_does_not_grow_with_the_samples(kind):
    few, many = (scanned(kind(), *kind.inputs(samples), size=5, **kind.keywords(samples)) for samples in (10, 20))
    assert size_of_state(few) == size_of_state(many)


def test_the_state_is_the_same_after_ten_and_a_thousand_samples():
    few, many = (scanned(PlantedModel(), *PlantedModel.inputs(samples), size=10) for samples in (10, 1000))
    assert size_of_state(few) == size_of_state(many)


def size_of_state(scan):
    """Elements of all tensors of the tallies, and how much else the probe holds on to."""
    tallies = [examined.tally for examined in scan.probe.examined.values()]
    elements = [value.numel() for tally in tallies for value in vars(tally).values() if isinstance(value, torch.Tensor)]
    digits = [tally.magnitude._digits.numel() for tally in tallies]
    others = (len(scan.probe.sites.found), len(scan.unresolved), len(scan.probe.graph.calls), len(scan.probe._now))
    return elements, digits, others


def test_nothing_is_pending_after_a_scan():
    scan = scanned(PlantedModel(), *PlantedModel.inputs(10), size=5)
    assert all(examined.tally._pending is None for examined in scan.probe.examined.values())


@every()
def test_the_model_is_left_as_it_was(kind):
    model = kind().train()
    before = pickle.dumps([(name, tensor.tolist()) for name, tensor in model.state_dict().items()])
    random = torch.random.get_rng_state()
    scanned(model, *kind.inputs(6), size=3, **kind.keywords(6))
    assert pickle.dumps([(name, tensor.tolist()) for name, tensor in model.state_dict().items()]) == before
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_a_scan_repeats_to_the_bit():
    model = DropoutFunctional()
    inputs = DropoutFunctional.inputs(9)
    assert scanned(model, *inputs, size=4).sites == scanned(model, *inputs, size=4).sites


def test_progress_is_told_after_each_batch():
    told = []
    scan_model(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), iter(split((noise(10, 3),), 4)), progress=told.append)
    assert told == [4, 8, 10]

"""Every odd model is counted as a slow oracle counts it, bit for bit, however its samples are cut into batches."""

from __future__ import annotations

import functools

import pytest
import torch
from scanning.oracle import Truth, scanned, split, truths_of
from zoo import ALL, DIFFERENT, InputIndependentBias, PlantedModel, PReluNet, TimeLoop, every

from prelu_doctor.data.batches import Batch
from prelu_doctor.scanning.scan import Thresholds, scan_model

SAMPLES = 6


def model_and_inputs(kind):
    torch.manual_seed(0)
    return kind(), kind.inputs(SAMPLES), kind.keywords(SAMPLES)


@functools.cache
def truths(kind) -> dict[str, Truth]:
    model, inputs, keywords = model_and_inputs(kind)
    return truths_of(kind, model, Batch(args=inputs, kwargs=keywords))


@functools.cache
def scan_of(kind, size):
    model, inputs, keywords = model_and_inputs(kind)
    return scanned(model, *inputs, size=size, **keywords)


def tells_nothing(kind):
    """A sample alone is not run as it is among others."""
    return kind.by_batch


@every(but=tells_nothing)
@pytest.mark.parametrize("size", [1, 4])
def test_counts_equal_the_oracle_in_every_batch_split(kind, size):
    scan = scan_of(kind, size)
    assert [site.id for site in scan.sites] == list(truths(kind))
    for site in scan.sites:
        truth = truths(kind)[site.id]
        assert site.firing_rate == [fired / truth.samples for fired in truth.fired]
        assert site.positive_rate == [positive / truth.positions for positive in truth.positive]
        assert site.always_on == sum(positive == truth.positions for positive in truth.positive)
        if not site.input_independent:
            assert (site.samples, site.counted) == (SAMPLES, "samples")


@every(but=tells_nothing)
def test_dead_units_are_those_that_never_fire_and_pass_no_gradient(kind):
    for site in scan_of(kind, 4).sites:
        silent = [unit for unit, fired in enumerate(truths(kind)[site.id].fired) if not fired]
        kept_alive = [unit for unit in silent if passes_gradient(site, unit)]
        gone = [unit for unit in silent if unit not in kept_alive]
        assert (site.dead_units, site.silent_outputs) == (([], gone) if site.is_output else (gone, []))
        assert (site.dead, site.never_positive) == (len(site.dead_units), len(kept_alive))


def passes_gradient(site, unit):
    if site.alpha is None:
        return False
    return abs(site.alpha.values[unit if len(site.alpha.values) > 1 else 0]) >= 1e-3


@pytest.mark.parametrize("kind", DIFFERENT)
def test_the_order_of_the_samples_does_not_matter(kind):
    model, inputs, keywords = model_and_inputs(kind)
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(1))
    one = scan_of(kind, 4)
    other = scanned(model, *(x[order] for x in inputs), size=4, **{name: x[order] for name, x in keywords.items()})
    for site, again in zip(one.sites, other.sites, strict=True):
        assert site.firing_rate == again.firing_rate
        assert site.positive_rate == again.positive_rate
        assert site.dead_units == again.dead_units


@pytest.mark.parametrize("kind", DIFFERENT)
def test_tallies_of_shards_merge_to_the_tally_of_the_whole(kind):
    """To the bit and in any order; the shards run the same batches as the whole."""
    model, inputs, keywords = model_and_inputs(kind)
    batches = split(inputs, 2, **keywords)
    whole = scan_model(model, iter(batches)).probe.examined
    shards = [scan_model(model, iter(batches[part::3])).probe.examined for part in (2, 0, 1)]
    for site, examined in whole.items():
        merged = shards[0][site].tally
        for shard in shards[1:]:
            merged.merge(shard[site].tally)
        assert (merged.samples, merged.positions) == (examined.tally.samples, examined.tally.positions)
        assert torch.equal(merged.fired, examined.tally.fired)
        assert torch.equal(merged.positive, examined.tally.positive)
        assert torch.equal(merged.magnitude.value(), examined.tally.magnitude.value())


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.truth], ids=lambda kind: kind.__name__)
def test_units_planted_dead_are_found_dead(kind):
    model, _, _ = model_and_inputs(kind)
    found = {
        site.id: site.dead_units + site.silent_outputs for site in scanned(model, *kind.inputs(300), size=100).sites
    }
    for site, units in kind.truth.items():
        assert set(units) <= set(found[site])


def test_the_planted_model_has_its_dead_units_at_the_right_calls():
    scan = scanned(PlantedModel(), *PlantedModel.inputs(300), size=100)
    first, second, last = scan.sites
    assert (first.id, first.producers, first.dead_units) == ("relu#1", ["conv1", "bn1"], [0, 1])
    assert (second.id, second.producers, second.dead_units) == ("relu#2", ["conv2"], [3])
    assert (last.id, last.producers) == (":relu#1", ["fc1"])
    assert last.dead_units[:4] == [0, 1, 2, 3]
    assert all(site.firing_rate_bound <= 0.01 for site in scan.sites)


def test_input_independent_sites_are_certain():
    model, inputs, _ = model_and_inputs(InputIndependentBias)
    certain, estimated = scanned(model, *inputs).sites
    assert certain.firing_rate_bound == 0
    assert estimated.firing_rate_bound == pytest.approx(1 - 0.05 ** (1 / SAMPLES))


def test_slopes_are_told_as_they_are():
    model, inputs, _ = model_and_inputs(PReluNet)
    (site,) = scanned(model, *inputs).sites
    assert site.alpha.shape == "channel"
    assert site.alpha.values == model.act.weight.tolist()
    assert (site.dead_units, site.never_positive) == ([2], 1)


def test_calls_of_a_loop_make_one_verdict_a_sample():
    model, inputs, _ = model_and_inputs(TimeLoop)
    (site,) = scanned(model, *inputs, size=5).sites
    assert (site.calls, site.samples) == (5, SAMPLES)


def test_rare_units_fire_on_fewer_samples_than_the_limit():
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    x = torch.full((100, 4), -1.0)
    for unit, samples in enumerate((0, 1, 2, 100)):
        x[:samples, unit] = 1
    batches = split((x,), 10)
    (site,) = scan_model(model, iter(batches), thresholds=Thresholds(rare=0.02)).sites
    assert site.firing_rate == [0, 0.01, 0.02, 1]
    assert (site.dead_units, site.rare, site.always_on) == ([0], 1, 1)
    (site,) = scan_model(model, iter(batches)).sites
    assert site.rare == 0


def test_dormant_units_have_at_most_a_share_tau_of_the_mean_activation():
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    x = torch.tensor([[1.0, 1.0, 1.0, 0.0625]]).repeat(10, 1)  # scores .0625 / .765625 = .0816 for the last
    for tau, dormant in ((0.08, 0), (0.09, 1)):
        (site,) = scan_model(model, iter(split((x,), 5)), thresholds=Thresholds(tau=tau)).sites
        assert site.dormant == dormant
    (site,) = scan_model(model, iter(split((-x,), 5))).sites
    assert site.dormant == site.dead == 4

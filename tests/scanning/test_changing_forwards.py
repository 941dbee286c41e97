"""Forwards that do not do the same every time: nothing is dropped, and nothing is counted twice."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scanning.oracle import scanned
from sites.made import Made, noise
from torch import nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import DataError, ForwardError
from prelu_doctor.scanning.scan import scan_model


def batches(*xs):
    return iter([Batch(args=(x,)) for x in xs])


PLAIN = noise(4, 3)
MARKED = PLAIN.clone()
MARKED[0, 0] = 100


def branching(activation):
    """A second activation, on the batches whose first number is large alone."""

    def run(model, x):
        h = model.act(model.first(x))
        return model.late(model.second(h)) if x[0, 0] > 50 else h

    return Made(run, first=nn.Linear(3, 4), act=nn.ReLU(), second=nn.Linear(4, 5), late=activation)


def test_a_branch_that_a_later_batch_takes_adds_its_site():
    scan = scan_model(branching(nn.ReLU()), batches(PLAIN, MARKED, PLAIN, MARKED))
    first, late = scan.sites
    assert (first.id, first.samples, first.counted) == ("act", 16, "samples")
    assert (late.id, late.units, late.samples, late.producers) == ("late", 5, 8, ["second"])
    assert not scan.unresolved


def test_a_late_site_is_counted_by_rows_since_nobody_knows_its_samples():
    model = branching(nn.ReLU())
    _, late = scan_model(model, batches(PLAIN, MARKED)).sites
    with torch.no_grad():
        fires = model.second(model.first(MARKED).relu()) > 0
    assert late.counted == "rows"
    assert late.firing_rate == fires.double().mean(0).tolist()


def test_a_late_site_keeps_its_name_whenever_it_turns_up():
    early, late = (scan_model(branching(nn.ReLU()), batches(*xs)) for xs in ((MARKED, PLAIN), (PLAIN, MARKED)))
    assert [site.id for site in early.sites] == [site.id for site in late.sites] == ["act", "late"]


def test_a_late_prelu_has_its_slopes():
    model = branching(nn.PReLU(5))
    with torch.no_grad():
        model.second.bias.fill_(-1e4)
        model.late.weight[3] = 0
    _, late = scan_model(model, batches(PLAIN, MARKED)).sites
    assert late.alpha.values == [0.25, 0.25, 0.25, 0, 0.25]
    assert (late.silent_outputs, late.never_positive) == ([3], 4)


def test_a_late_site_has_its_consumers():
    def run(model, x):
        h = model.first(x)
        return model.last(F.relu(model.second(h))) if x[0, 0] > 50 else h

    model = Made(run, first=nn.Linear(3, 4), second=nn.Linear(4, 5), last=nn.Linear(5, 4))
    (late,) = scan_model(model, batches(PLAIN, MARKED)).sites
    assert (late.id, late.producers, late.consumers) == (":relu#1", ["second"], ["last"])


def test_a_module_that_no_batch_calls_stays_listed():
    scan = scan_model(branching(nn.ReLU()), batches(PLAIN, PLAIN))
    assert [entry.id for entry in scan.unresolved] == ["late"]


@pytest.mark.parametrize("order", [(2, 5), (5, 2)])
def test_a_loop_may_take_another_number_of_steps(order):
    model = Made(lambda m, x: sum(F.relu(m.fc(x[:, step])) for step in range(x.shape[1])), fc=nn.Linear(3, 4))
    xs = {steps: noise(4, steps, 3) for steps in (2, 5)}
    (site,) = scan_model(model, batches(*(xs[steps] for steps in order))).sites
    with torch.no_grad():
        active = [model.fc(x) > 0 for x in xs.values()]
    assert (site.counted, site.samples) == ("samples", 8)
    assert site.firing_rate == torch.cat([fires.any(1) for fires in active]).double().mean(0).tolist()
    assert site.positive_rate == torch.cat([fires.flatten(0, 1) for fires in active]).double().mean(0).tolist()


def test_a_width_that_changes_from_batch_to_batch_is_listed_not_mixed():
    def run(model, x):
        return F.relu(model.fc(x)[:, : 2 if x[0, 0] > 50 else 4])

    scan = scan_model(Made(run, fc=nn.Linear(3, 4)), batches(PLAIN, MARKED))
    assert [(site.units, site.samples) for site in scan.sites] == [(4, 4), (2, 4)]


def test_a_call_on_nothing_at_all_counts_nothing():
    """A detector whose head gets no proposals."""
    model = Made(lambda m, x: F.relu(m.fc(x[:0] if x[0, 0] > 50 else x)), fc=nn.Linear(3, 4))
    scan = scan_model(model, batches(PLAIN, MARKED, PLAIN))
    assert [(site.samples, site.counted) for site in scan.sites] == [(8, "samples")]
    assert not scan.unresolved


def test_halves_of_one_layer_are_counted_apart():
    """Unit 0 of the left half is dead; merged with the right half's it would seem alive."""

    def run(model, x):
        left, right = model.fc(x).chunk(2, 1)
        return F.relu(left) * F.relu(right)

    model = Made(run, fc=nn.Linear(3, 4))
    with torch.no_grad():
        model.fc.bias[0] = -100
        model.fc.bias[2] = 100
    left, right = scanned(model, noise(6, 3)).sites
    assert left.dead_units == [0]
    assert right.firing_rate[0] == 1


def test_relu_of_x_and_of_minus_x_count_what_each_passes():
    def run(model, x):
        x = model.fc(x)
        return F.relu(x) - F.relu(-x)

    model = Made(run, fc=nn.Linear(3, 4))
    x = noise(16, 3)
    positive, negative = scanned(model, x).sites
    with torch.no_grad():
        share = (model.fc(x) > 0).double().mean(0)
    assert positive.firing_rate == share.tolist()
    assert negative.firing_rate == (1 - share).tolist()


def test_different_thresholds_on_one_layer_are_counted_apart():
    def run(model, x):
        x = model.fc(x)
        return F.relu(x - 1) + F.relu(x - 2)

    model = Made(run, fc=nn.Linear(3, 4))
    x = noise(16, 3) * 3
    with torch.no_grad():
        values = model.fc(x)
    expected = [(values > limit).double().mean(0).tolist() for limit in (1, 2)]
    assert [site.firing_rate for site in scanned(model, x).sites] == expected


def test_a_relu_in_place_on_a_view_is_counted():
    def run(model, x):
        x = model.conv(x)
        x.flatten(2).relu_()
        return x

    model = Made(run, conv=nn.Conv2d(3, 4, 2))
    x = noise(6, 3, 5, 5)
    with torch.no_grad():
        expected = (model.conv(x) > 0).flatten(2).double().mean((0, 2)).tolist()
    (site,) = scanned(model, x).sites
    assert site.positive_rate == pytest.approx(expected, abs=1e-12)


def test_the_second_of_two_relus_is_always_on_where_the_first_fires():
    first, second = scanned(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.ReLU()), noise(16, 3)).sites
    assert (first.id, second.id) == ("1", "2")
    assert first.firing_rate == second.firing_rate


def test_no_samples_are_no_result():
    for empty in (iter([]), batches(torch.zeros(0, 3))):
        with pytest.raises(DataError):
            scan_model(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), empty)


def test_a_batch_on_which_the_forward_raises_ends_the_scan():
    with pytest.raises(ForwardError):
        scan_model(nn.Linear(3, 4), batches(PLAIN, noise(4, 9)))


def test_slopes_that_several_sites_share_are_tied():
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 5), nn.PReLU(), nn.Linear(5, 6), nn.PReLU())
    model[3].weight = model[1].weight
    first, second, third = scanned(model, noise(4, 3)).sites
    assert [site.alpha.shape for site in (first, second, third)] == ["tied", "tied", "site"]

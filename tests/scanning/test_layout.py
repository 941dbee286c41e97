"""Where the samples lie is found out by changing them; where that fails, rows are counted and said to be rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scanning.oracle import Truth, count, scanned
from sites.made import Made, noise
from torch import nn
from zoo.slow_oracle import CallRecorder

from prelu_doctor.data.batches import Batch
from prelu_doctor.scanning.scan import scan_model

WIDTH = 7


def windows(model, x):
    """[N, 4, 6, 3] cut into four windows of 2 x 3, as a windowed transformer does: [4 N, 6, C]."""
    n = len(x)
    x = x.view(n, 2, 2, 2, 3, 3).transpose(2, 3).reshape(-1, 6, 3)
    return F.relu(model.fc(x)).reshape(n, -1)


def minor_windows(model, x):
    """The same, the samples the faster index of the rows."""
    n = len(x)
    x = x.view(n, 2, 2, 2, 3, 3).transpose(2, 3).reshape(n, 4, 6, 3).transpose(0, 1).reshape(-1, 6, 3)
    return F.relu(model.fc(x)).view(4, n, -1).transpose(0, 1)


FORWARDS = {
    "batch first": lambda m, x: F.relu(m.fc(x)),
    "sequence first": lambda m, x: F.relu(m.fc(x.transpose(0, 1))).transpose(0, 1),
    "rows, sample-major": lambda m, x: F.relu(m.fc(x.reshape(-1, 3))).view(*x.shape[:2], -1),
    "rows, sample-minor": lambda m, x: F.relu(m.fc(x.transpose(0, 1).reshape(-1, 3))).view(x.shape[1], len(x), -1),
    "channels between": lambda m, x: F.relu(m.conv(x.transpose(1, 2))),
    "batch last": lambda m, x: F.relu(m.fc(x).permute(1, 2, 0)),
    "units first": lambda m, x: F.relu(m.fc(x).permute(2, 0, 1)),
    "units first, sequence next": lambda m, x: F.relu(m.fc(x).permute(2, 1, 0)),
}


def made(forward):
    return Made(forward, fc=nn.Linear(3, WIDTH), conv=nn.Conv1d(3, WIDTH, 1))


def truth_of(model, x):
    """Sample after sample: what a forward of one sample holds is that sample's, wherever it lies."""
    truth = Truth(fired=[0] * WIDTH, positive=[0] * WIDTH)
    for sample in x:
        (call,) = CallRecorder(model.eval()).record(sample[None])
        count(truth, [call], axis=list(call.values.shape).index(WIDTH))
    return truth


def assert_counted_by_sample(forward, x, size):
    model = made(forward)
    (site,) = scanned(model, x, size=size).sites
    truth = truth_of(model, x)
    assert (site.counted, site.samples, site.units) == ("samples", len(x), WIDTH)
    assert site.firing_rate == [fired / len(x) for fired in truth.fired]
    assert site.positive_rate == [positive / truth.positions for positive in truth.positive]


@pytest.mark.parametrize("size", [1, 2, 4, 8], ids=lambda size: f"batches of {size}")
@pytest.mark.parametrize("steps", [1, 2, 4, 5], ids=lambda steps: f"{steps} steps")
@pytest.mark.parametrize("name", FORWARDS)
def test_samples_are_counted_wherever_they_lie(name, steps, size):
    """With 2 steps and batches of 2 (4 and 4) the shape alone does not tell steps from samples."""
    assert_counted_by_sample(FORWARDS[name], noise(8, steps, 3), size)


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_a_transposed_matrix_is_read_along_its_samples(size):
    """Batches of 7 are square: 7 units, 7 samples."""
    assert_counted_by_sample(lambda m, x: F.relu(m.fc(x).t()), noise(8, 3), size)


@pytest.mark.parametrize("forward", [windows, minor_windows])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_windows_are_folded_back_to_samples(forward, size):
    assert_counted_by_sample(forward, noise(8, 4, 6, 3), size)


@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize("name", FORWARDS)
def test_samples_that_differ_in_their_first_step_alone_are_told_apart(name, steps):
    """As with padded texts: what moves first is row 0 alone, which fits several layouts."""
    x = noise(1, steps, 3).repeat(8, 1, 1)
    x[:, 0] = noise(8, 3, seed=1)
    assert_counted_by_sample(FORWARDS[name], x, 4)


@pytest.mark.parametrize("name", FORWARDS)
def test_equal_samples_are_told_apart_by_reversing_one(name):
    x = noise(8, 4, 3)
    x[1] = x[0]
    assert_counted_by_sample(FORWARDS[name], x, 4)


@pytest.mark.parametrize("steps", [2, 5])
def test_where_no_change_shows_the_samples_a_third_one_does(steps):
    """All inputs are 0, so that nothing moves; the axis that grows with the batch is the samples'."""
    (site,) = scanned(made(FORWARDS["sequence first"]), torch.zeros(2, steps, 3)).sites
    assert site.counted == "samples"
    assert site.samples == 2


def test_where_the_model_takes_no_third_sample_rows_are_counted():
    def two_alone(model, x):
        assert len(x) == 2
        return FORWARDS["sequence first"](model, x)

    (site,) = scanned(made(two_alone), torch.zeros(2, 2, 3)).sites
    assert site.counted == "rows"


def batch_statistics(model, x):
    return F.relu(model.norm(model.fc(x)))


@pytest.mark.parametrize(
    "forward",
    [
        batch_statistics,
        lambda m, x: F.relu(m.fc(x - x.mean(0))),
        lambda m, x: F.relu(m.fc(x.cumsum(0))),
        lambda m, x: F.relu(m.fc(x.flip(0).cumsum(0).flip(0))),
    ],
    ids=["batch statistics", "minus the mean", "running sum", "running sum from the end"],
)
def test_samples_that_interact_are_counted_as_rows(forward):
    model = Made(forward, fc=nn.Linear(3, 5), norm=nn.BatchNorm1d(5, track_running_stats=False))
    (site,) = scanned(model, noise(8, 3), size=4).sites
    assert (site.counted, site.samples) == ("rows", 8)


def test_a_mean_over_the_batch_is_one_row_a_batch():
    (site,) = scanned(Made(lambda m, x: F.relu(m.fc(x.mean(0))), fc=nn.Linear(3, 5)), noise(8, 3), size=4).sites
    assert (site.counted, site.samples, site.units) == ("rows", 2, 5)


def test_a_batch_that_does_not_fit_the_layout_is_counted_as_rows():
    """The first batches are plain; a later one is cut to a part of its samples."""
    model = Made(lambda m, x: F.relu(m.fc(x[x[:, 0] < 50])), fc=nn.Linear(3, 5))
    odd = noise(4, 3)
    odd[0, 0] = 100
    (site,) = scan_model(model, iter([Batch(args=(noise(4, 3),)), Batch(args=(odd,))])).sites
    assert (site.counted, site.samples) == ("rows", 4 + 3)


def test_inputs_of_integers_are_exchanged_not_computed():
    model = Made(lambda m, x: F.relu(m.fc(m.embed(x).transpose(0, 1))), embed=nn.Embedding(9, 3), fc=nn.Linear(3, 5))
    (site,) = scanned(model, torch.tensor([[8, 0, 1], [2, 8, 3], [4, 5, 8]])).sites
    assert (site.counted, site.samples) == ("samples", 3)

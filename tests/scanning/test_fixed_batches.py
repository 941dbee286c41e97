"""Models that take batches of one size: every sample counts once, whatever fills the batches up."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scanning.oracle import scanned
from sites.made import Made, noise
from torch import nn

import prelu_doctor
from prelu_doctor.errors import ForwardError
from prelu_doctor.expected_inputs import ExpectedInput, ExpectedInputs
from prelu_doctor.patient import Patient
from prelu_doctor.samples import samples_for
from prelu_doctor.scanning.scan import scan_model

WIDTH = 5

FORWARDS = {
    "batch first": lambda m, x: F.relu(m.fc(x)),
    "sequence first": lambda m, x: F.relu(m.fc(x.transpose(0, 1))).transpose(0, 1),
    "rows, sample-major": lambda m, x: F.relu(m.fc(x.reshape(-1, 3))).view(*x.shape[:2], -1),
    "rows, sample-minor": lambda m, x: F.relu(m.fc(x.transpose(0, 1).reshape(-1, 3))).view(x.shape[1], len(x), -1),
    "batch last": lambda m, x: F.relu(m.fc(x).permute(1, 2, 0)),
}


def frozen_at(size, forward):
    """A model whose forward holds the size of its batch as a number, and the same model without."""

    def guarded(model, x):
        assert len(x) == size, f"batches of {size} alone"
        return forward(model, x)

    torch.manual_seed(1)
    free = Made(forward, fc=nn.Linear(3, WIDTH))
    fixed = Made(guarded, fc=nn.Linear(3, WIDTH))
    fixed.load_state_dict(free.state_dict())
    return fixed, free


def told(size, steps):
    return ExpectedInputs((ExpectedInput("x", (size, steps, 3), torch.float32),))


def counts(site):
    return site.counted, site.samples, site.dead_units, site.firing_rate, site.positive_rate, site.always_on, site.rare


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("name", FORWARDS)
def test_counts_are_those_of_the_same_model_with_an_open_batch(name, size):
    """Ten samples fill no batch of 3, 4 or 7; steps as many as the batch has samples do not confuse it either."""
    for steps in (2, size):
        x = noise(10, steps, 3)
        fixed, free = frozen_at(size, FORWARDS[name])
        (site,) = scan_model(fixed, samples_for(fixed, x, expected=told(size, steps)).scanned()).sites
        (expected,) = scanned(free, x).sites
        assert counts(site) == counts(expected)
        assert (site.counted, site.samples) == ("samples", 10)


def test_where_rows_are_counted_what_fills_up_a_batch_is_left_out_in_proportion():
    """The samples interact, so that nobody can tell them apart; one sample in a batch of four is one row of four."""
    fixed, _ = frozen_at(4, lambda m, x: F.relu(m.fc(x - x.mean(0))))
    (site,) = scan_model(fixed, samples_for(fixed, noise(5, 1, 3), expected=told(4, 1)).scanned()).sites
    assert (site.counted, site.samples) == ("rows", 5)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_size_that_only_the_forward_knows_is_found_by_running_what_the_data_holds(size):
    fixed, free = frozen_at(size, FORWARDS["batch first"])
    x = noise(2 * size, 4, 3)
    assert counts(scanned(fixed, x, size=size).sites[0]) == counts(scanned(free, x).sites[0])


def test_a_forward_that_takes_nothing_raises_its_own_error():
    fixed, _ = frozen_at(9, FORWARDS["batch first"])
    with pytest.raises(ForwardError, match="batches of 9 alone"):
        scanned(fixed, noise(4, 2, 3))


def test_a_report_counts_real_samples_alone():
    fixed, _ = frozen_at(4, FORWARDS["batch first"])
    record = prelu_doctor.open_patient(fixed).record
    report = prelu_doctor.scan(Patient(fixed, record, expected=told(4, 2)), noise(6, 2, 3))
    assert (report.data.samples, report.sites[0].samples) == (6, 6)


@pytest.mark.parametrize("size", [1, 4])
def test_such_a_model_is_converted_trained_and_exported(tmp_path, size):
    fixed, _ = frozen_at(size, lambda m, x: F.relu(m.fc(x)).mean((1, 2)))
    with torch.no_grad():
        fixed.fc.weight[0] = 0
        fixed.fc.bias[0] = -9
    x = noise(402, 2, 3)
    data = samples_for(fixed, [(x[:200], x[:200, 0, 0]), (x[200:], x[200:, 0, 0])], expected=told(size, 2))
    options = prelu_doctor.Treatment(training=prelu_doctor.Training(steps=3))
    conversion = prelu_doctor.convert(fixed, data, options)
    assert (conversion.report.preservation.samples, conversion.report.preservation.equal) == (402, True)
    assert conversion.report.changes[0].declined == ""
    assert conversion.report.fine_tune.steps == 3
    report = conversion.save(tmp_path / "m.safetensors", onnx=tmp_path / "m.onnx")
    assert (report.parity.verdict, report.parity.fixed_batch) == ("healthy", size)

"""Calls that cannot be cut along axis 0 are run exactly as they are, and a stream may carry what the model returns."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sites.made import Made, noise
from torch import nn

import prelu_doctor
from prelu_doctor import Call, Training, Treatment
from prelu_doctor.deployment.pt2_file import export_pt2
from prelu_doctor.errors import DataError
from prelu_doctor.samples import samples_for

FRAMES, WIDTH = 12, 6


class Stream(nn.Module):
    """As a voice detector does it: a frame, the state of its two layers, the sample rate; returns the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 3, num_layers=2)
        self.gate = nn.Linear(3, WIDTH)
        self.out = nn.Linear(WIDTH, 1)
        self.seen = []

    def forward(self, frame, state, rate: int = 8000):
        self.seen.append((tuple(frame.shape), tuple(state.shape), rate))
        hidden, (h, c) = self.rnn(frame.unsqueeze(0), (state[0], state[1]))
        return torch.sigmoid(self.out(F.relu(self.gate(hidden[0])))), torch.stack([h, c])


FEED = noise(FRAMES, 1, 4)
START = torch.zeros(2, 2, 1, 3)


def carried(feed=FEED, start=START):
    """The state that one call returns is an input of the next."""

    def calls():
        state = start
        for frame in feed:
            _, state = yield Call(frame, state, rate=16000)

    return calls


def truth(model, feed=FEED, start=START):
    """Which units fire on which frame, by a plain loop over the layers: [frames, C]."""
    state, fires = start, []
    with torch.no_grad():
        for frame in feed:
            hidden, (h, c) = model.rnn(frame.unsqueeze(0), (state[0], state[1]))
            state = torch.stack([h, c])
            fires.append((model.gate(hidden[0]) > 0).any(0))
    return torch.stack(fires)


def small(model, scale=20.0):
    """Weights large enough that the state matters."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * scale / 10)
        model.gate.bias.zero_()
    return model


def only_site(model, data):
    (site,) = prelu_doctor.scan(model, data).sites
    return site


def test_a_stream_is_scanned_with_the_state_that_the_model_returned():
    model = small(Stream())
    site = only_site(model, carried())
    fires = truth(model)
    assert site.firing_rate == [count / FRAMES for count in fires.sum(0).tolist()]
    assert (site.counted, site.samples, site.units) == ("samples", FRAMES, WIDTH)
    without = only_site(model, [Call(frame, START, rate=16000) for frame in FEED])
    assert without.firing_rate != site.firing_rate, "the state changes nothing, so that nothing was tested"


def test_a_call_is_never_sliced_and_never_doubled():
    model = Stream()
    prelu_doctor.scan(model, carried())
    assert set(model.seen) == {((1, 4), (2, 2, 1, 3), 16000)}
    assert len(model.seen) == FRAMES + 1, "one look at the first call, and one forward a call"


def test_every_pass_carries_its_own_state():
    model = small(Stream())
    data = samples_for(model, carried())
    assert prelu_doctor.scan(model, data).sites == prelu_doctor.scan(model, data).sites


def test_the_answer_is_a_plain_tensor_of_the_callers():
    """A generator may overwrite what it gets; what it holds is neither the model's nor bound to inference mode."""
    model, answers = Stream(), []

    def calls():
        state = START.clone()
        for frame in FEED:
            output, state = yield Call(frame, state)
            state.mul_(0.5)
            answers.append(output)

    prelu_doctor.scan(model, calls)
    assert not any(answer.is_inference() or answer.requires_grad for answer in answers)
    assert len(answers) == FRAMES


def test_the_first_output_of_a_call_is_the_answer():
    """A comparison of two models runs each call twice: the original's output goes on."""
    answers = []

    def calls():
        answers.append((yield Call(FEED[0])))
        yield Call(FEED[1])

    for call in samples_for(None, calls).scanned():
        call.run(lambda x: x + 1)
        call.clone().run(lambda x: x + 2)
    assert torch.equal(answers[0], FEED[0] + 1)


def test_a_call_that_nobody_has_run_is_answered_with_none():
    answers = []

    def calls():
        answers.append((yield Call(FEED[0], START)))
        yield Call(FEED[1], START)

    assert len(list(samples_for(Stream(), calls).scanned())) == 2
    assert answers == [None]


def test_an_object_whose_iterator_is_a_generator_is_answered_too():
    class Recording:
        def __iter__(self):
            return carried()()

    model = small(Stream())
    assert only_site(model, Recording()).firing_rate == only_site(model, carried()).firing_rate


# Which samples ------------------------------------------------------------------------------------------------------


def test_the_pair_of_arguments_and_keywords_is_a_whole_call():
    model = small(Stream())
    pairs = [((frame, START), {"rate": 16000}) for frame in FEED]
    assert only_site(model, pairs) == only_site(model, [Call(frame, START, rate=16000) for frame in FEED])


@pytest.mark.parametrize(
    ("call", "samples"),
    [
        (Call(torch.zeros(3, 4), torch.zeros(2, 3, 8)), 3),
        (Call(torch.tensor(2.0), torch.zeros(5, 4)), 1),
        (Call(16000, torch.zeros(5, 4)), 5),
        (Call(16000, x=[torch.zeros(5, 4)]), 5),
        (Call(torch.zeros(9, 2, 4)).with_samples(2), 2),
    ],
)
def test_a_call_counts_as_axis_0_of_its_first_tensor_unless_it_says_otherwise(call, samples):
    (batch,) = samples_for(None, [call]).scanned()
    assert (batch.size, batch.counted, batch.whole) == (samples, samples, True)


RANK_3 = {
    "conv [N, C, T]": (lambda m, x: F.relu(m.conv(x)), (1, 4, 9), 1),
    "conv [C, T]": (lambda m, x: F.relu(m.conv(x)), (4, 9), 0),
    "conv, transposed [N, T, C]": (lambda m, x: F.relu(m.conv(x).transpose(1, 2)), (1, 4, 9), 2),
    "linear [N, T, C]": (lambda m, x: F.relu(m.fc(x)), (1, 9, 4), 2),
    "linear [T, N, C]": (lambda m, x: F.relu(m.fc(x)), (9, 1, 4), 2),
    "linear [T, C]": (lambda m, x: F.relu(m.fc(x)), (9, 4), 1),
    "linear [C]": (lambda m, x: F.relu(m.fc(x)), (4,), 0),
    "behind an LSTM [T, N, C]": (lambda m, x: F.relu(m.fc(m.rnn(x)[0])), (9, 1, 4), 2),
    "behind attention [T, N, C]": (lambda m, x: F.relu(m.fc(m.attention(x, x, x)[0])), (9, 1, 4), 2),
}


@pytest.mark.parametrize("form", RANK_3)
def test_of_one_sample_everything_belongs_to_it_and_the_producer_tells_the_units(form):
    """As many channels as positions: the shape tells nothing."""
    forward, shape, axis = RANK_3[form]
    model = Made(
        forward,
        conv=nn.Conv1d(4, 9, 1),
        fc=nn.Linear(4, 9),
        rnn=nn.LSTM(4, 4),
        attention=nn.MultiheadAttention(4, 2),
    ).eval()
    calls = [noise(*shape, seed=seed) for seed in range(5)]
    site = only_site(model, [Call(x).with_samples(1) for x in calls])
    fired = [0] * 9
    with torch.no_grad():
        for x in calls:
            output = model(x).movedim(axis, 0).reshape(9, -1)
            fired = [count + int(any(value > 0 for value in row)) for count, row in zip(fired, output, strict=True)]
    assert (site.unit_axis, site.axis_assumed, site.units) == (axis, False, 9)
    assert (site.counted, site.samples, site.firing_rate) == ("samples", 5, [count / 5 for count in fired])


def test_a_transformer_layer_that_takes_time_first_has_its_units_last():
    layer = nn.TransformerEncoderLayer(8, 2, 11)
    site = only_site(layer, [Call(noise(5, 1, 8, seed=seed)).with_samples(1) for seed in range(3)])
    assert (site.unit_axis, site.units, site.counted, site.samples) == (2, 11, "samples", 3)


def test_several_samples_of_a_call_are_told_apart_where_they_lie_on_axis_0():
    model = small(Stream())
    feed, start = noise(FRAMES, 3, 4), torch.zeros(2, 2, 3, 3)
    site = only_site(model, carried(feed, start))
    fires = []
    for sample in range(3):
        fires.append(truth(model, feed[:, sample : sample + 1], start[:, :, sample : sample + 1]))
    assert (site.counted, site.samples) == ("samples", 3 * FRAMES)
    assert site.firing_rate == [count / (3 * FRAMES) for count in torch.cat(fires).sum(0).tolist()]


def test_where_they_lie_elsewhere_rows_are_counted_and_said_to_be_rows():
    site = only_site(Made(lambda m, x: F.relu(m.fc(x)), fc=nn.Linear(4, 5)), [Call(noise(9, 2, 4)).with_samples(2)])
    assert (site.counted, site.samples) == ("rows", 9)


def test_an_axis_as_long_as_the_samples_are_many_is_no_sample_axis_by_its_length_alone():
    """The state [2, N, C] has 2 layers and N is 2: what lies on its axis 0 is no sample."""
    model = Made(lambda m, x, state: F.relu(m.fc(state)).sum() + x, fc=nn.Linear(4, 5))
    site = only_site(model, [Call(noise(2, 4), noise(2, 2, 4, seed=1))])
    assert (site.counted, site.samples) == ("rows", 2)


def test_a_state_of_as_many_layers_as_there_are_samples_does_not_hide_the_samples():
    model = small(Stream())
    feed, start = noise(FRAMES, 2, 4), torch.zeros(2, 2, 2, 3)
    site = only_site(model, carried(feed, start))
    assert (site.counted, site.samples) == ("samples", 2 * FRAMES)


def test_max_samples_ends_a_pass_and_cuts_no_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calls_feed.py").write_text(
        "import torch\nfrom prelu_doctor import Call\n"
        "def calls():\n    while True:\n        yield Call(torch.zeros(4, 2), torch.zeros(2, 4, 3))\n"
    )
    from prelu_doctor.data.sources import open_dataset

    data = open_dataset("calls_feed.py:calls", model=None, max_samples=10)
    assert [call.size for call in data.scanned()] == [4, 4, 4]
    assert data.contents == "first call x: 4x2, x2: 2x4x3"


# What the other commands do with them -----------------------------------------------------------------------------


def with_dead_units(model):
    with torch.no_grad():
        model.gate.weight[:, 0].abs_()
        model.gate.bias.fill_(1)
        model.gate.weight[:2] = 0
        model.gate.bias[:2] = -5
    return model


def test_whole_calls_are_converted_and_proved_but_not_trained_on(tmp_path):
    model = with_dead_units(small(Stream(), 5.0))
    feed = noise(400, 1, 4)
    conversion = prelu_doctor.convert(model, carried(feed), Treatment(training=Training(steps=3)))
    assert conversion.report.not_trained == "the data yields whole calls, whose samples cannot be drawn anew"
    revived = conversion.report.changes[0].revived
    assert (revived, revived[:2]) == (conversion.report.before.sites[0].dead_units, [0, 1])
    assert conversion.report.preservation.max_change <= 1e-6
    assert conversion.report.preservation.samples == 400
    assert conversion.report.after.totals.dead == 0
    report = conversion.save(tmp_path / "m.safetensors", onnx=tmp_path / "m.onnx")
    assert report.parity.verdict == "healthy"
    assert report.parity.fixed_because == "the data yields whole calls"
    made = export_pt2(conversion.model, samples_for(model, carried(feed)).scanned, tmp_path / "m.pt2")
    assert (made.fixed_batch, made.fixed_because) == (1, "the data yields whole calls")


def test_parity_compares_call_by_call_with_the_state_carried_on(tmp_path):
    model = small(Stream(), 5.0)
    prelu_doctor.export_onnx(model, tmp_path / "m.onnx", carried())
    report = prelu_doctor.check_parity(model, tmp_path / "m.onnx", carried())
    assert report.verdict == "healthy"
    assert len([check for check in report.checks if check.output == "output_1"]) == 4
    other = small(Stream(), 4.0)
    assert prelu_doctor.check_parity(other, tmp_path / "m.onnx", carried()).verdict == "findings"


def test_a_tuple_taking_forward_is_converted_trained_and_exported_for_any_batch_size(tmp_path):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.out = nn.Linear(4, 8), nn.Linear(2, 8), nn.Linear(8, 3)

        def forward(self, inputs):
            a, b = inputs
            return self.out(F.relu(self.left(a) + self.right(b)))

    model = Joined()
    with torch.no_grad():
        model.left.bias[:2] = -500
    loader = [((noise(50, 4, seed=k), noise(50, 2, seed=k + 100)), torch.arange(50) % 3) for k in range(8)]
    conversion = prelu_doctor.convert(model, loader, Treatment(training=Training(steps=4)))
    assert (conversion.report.preservation.samples, conversion.report.preservation.max_change) == (400, 0.0)
    assert conversion.report.fine_tune.steps == 4
    report = conversion.save(tmp_path / "m.safetensors", onnx=tmp_path / "m.onnx")
    assert (report.parity.verdict, report.parity.fixed_batch) == ("healthy", None)
    import onnx

    assert [each.name for each in onnx.load(tmp_path / "m.onnx").graph.input] == ["inputs_0", "inputs_1"]
    made = export_pt2(conversion.model, samples_for(model, loader).scanned, tmp_path / "m.pt2")
    assert (made.fixed_batch, made.fixed_because) == (None, "")


# Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (Call(1, 2), "without a tensor"),
        (Call(torch.zeros(0, 3)), "holds no samples"),
        (Call(torch.zeros(2, 3), object()), "a call with a object in it"),
        (((torch.zeros(2, 3), object()), {}), "a call with a object in it"),
    ],
)
def test_calls_that_cannot_be_run_as_they_are_are_told(item, told):
    with pytest.raises(DataError, match=told):
        next(samples_for(None, [item]).scanned())


@pytest.mark.parametrize("number", [0, -1, 1.0, True, math.nan])
def test_a_call_counts_as_one_sample_or_more(number):
    with pytest.raises(DataError, match="1 or more"):
        Call(torch.zeros(1)).with_samples(number)


def test_a_lone_call_is_no_data_set():
    with pytest.raises(DataError, match="pass a list of batches"):
        samples_for(None, Call(torch.zeros(1)))

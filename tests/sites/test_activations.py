"""Which calls are activations, and which only look like one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sites.made import Made, found_in, ids_in, noise
from torch import nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.sites.activations import RECOGNISED, activation_of
from prelu_doctor.sites.find import find_sites
from prelu_doctor.sites.trace import trace

X = noise(2, 3)

RECTIFIERS = {
    "F.relu": (F.relu, "relu"),
    "F.relu(inplace)": (lambda x: F.relu(x, inplace=True), "relu"),
    "F.relu_": (F.relu_, "relu"),
    "torch.relu": (torch.relu, "relu"),
    "x.relu()": (lambda x: x.relu(), "relu"),
    "x.relu_()": (lambda x: x.relu_(), "relu"),
    "clamp(min=0)": (lambda x: x.clamp(min=0), "relu"),
    "clamp(0)": (lambda x: x.clamp(0.0), "relu"),
    "clamp_(min=0)": (lambda x: x.clamp_(min=0), "relu"),
    "clamp(min=tensor)": (lambda x: x.clamp(min=torch.tensor(0.0)), "relu"),
    "clamp_min(0)": (lambda x: x.clamp_min(0), "relu"),
    "clamp_min_(0)": (lambda x: x.clamp_min_(0), "relu"),
    "clip(0)": (lambda x: x.clip(0), "relu"),
    "clip_(min=0)": (lambda x: x.clip_(min=0), "relu"),
    "threshold(0, 0)": (lambda x: F.threshold(x, 0, 0), "relu"),
    "threshold_(0, 0)": (lambda x: F.threshold(x, 0, 0, inplace=True), "relu"),
    "F.relu6": (F.relu6, "relu6"),
    "F.relu6(inplace)": (lambda x: F.relu6(x, inplace=True), "relu6"),
    "hardtanh(0, 6)": (lambda x: F.hardtanh(x, 0, 6), "relu6"),
    "hardtanh_(0, 6)": (lambda x: F.hardtanh_(x, 0.0, 6.0), "relu6"),
    "clamp(0, 6)": (lambda x: x.clamp(0, 6), "relu6"),
    "clamp(max=6, min=0)": (lambda x: x.clamp(max=6, min=0), "relu6"),
    "clip(0, 6)": (lambda x: torch.clip(x, 0, 6), "relu6"),
    "F.relu(clamp without a limit)": (lambda x: x.clamp(0, float("inf")), "relu"),
    "hardtanh(0, 1)": (lambda x: F.hardtanh(x, 0, 1), "clamp"),
    "hardtanh_(0, 20)": (lambda x: F.hardtanh_(x, 0, 20), "clamp"),
    "clamp(0, 1.0)": (lambda x: x.clamp(0, 1.0), "clamp"),
    "clamp_(0.0, 2.5)": (lambda x: x.clamp_(0.0, 2.5), "clamp"),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), "leaky_relu"),
    "leaky_relu_": (lambda x: F.leaky_relu(x, 0.2, inplace=True), "leaky_relu"),
    "prelu": (lambda x: F.prelu(x, torch.ones(1)), "prelu"),
    "rrelu": (F.rrelu, "rrelu"),
    "rrelu(inplace)": (lambda x: F.rrelu(x, 0.1, 0.3, inplace=True), "rrelu"),
}

OTHERS = {
    "clamp(min=1)": lambda x: x.clamp(min=1),
    "clamp(-1, 1)": lambda x: x.clamp(-1, 1),
    "clamp(0, 1)": lambda x: x.clamp(0, 1),
    "clamp(max=0)": lambda x: x.clamp(max=0),
    "clamp_min(0.1)": lambda x: x.clamp_min(0.1),
    "clamp_max(0)": lambda x: x.clamp_max(0),
    "clamp(min=tensor of several)": lambda x: x.clamp(min=torch.zeros(3)),
    "clip(-1)": lambda x: x.clip(-1),
    "hardtanh()": F.hardtanh,
    "hardtanh(-1, 0)": lambda x: F.hardtanh(x, -1, 0),
    "clamp(0, tensor)": lambda x: x.clamp(torch.tensor(0.0), torch.tensor(1.0)),
    "rrelu(training)": lambda x: F.rrelu(x, training=True),
    "threshold(1, 0)": lambda x: F.threshold(x, 1, 0),
    "threshold(0, 1)": lambda x: F.threshold(x, 0, 1),
    "threshold(0, -1)": lambda x: F.threshold(x, 0, -1),
    "gelu": F.gelu,
    "elu": F.elu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "abs": torch.abs,
}


@pytest.mark.parametrize("spelling", RECTIFIERS)
def test_every_spelling_of_a_rectifier_is_one_site(spelling):
    rectify, function = RECTIFIERS[spelling]
    sites = found_in(Made(lambda m, x: rectify(m.fc(x)), fc=nn.Linear(3, 4)), X)[1]
    assert [(site.id, site.activation.function, site.units) for site in sites.found] == [
        (f":{function}#1", function, 4)
    ]
    assert not sites.unresolved


@pytest.mark.parametrize("spelling", [name for name in RECTIFIERS if "_(" in name or "inplace" in name])
def test_in_place_spellings_are_known_as_such(spelling):
    sites = found_in(Made(lambda m, x: RECTIFIERS[spelling][0](m.fc(x)), fc=nn.Linear(3, 4)), X)[1]
    assert sites.found[0].activation.in_place


@pytest.mark.parametrize("spelling", OTHERS)
def test_what_is_no_rectifier_is_no_site(spelling):
    model = Made(lambda m, x: OTHERS[spelling](m.fc(x)), fc=nn.Linear(3, 3))
    graph, sites = found_in(model, X)
    assert len(graph.calls) > 1
    assert not sites.found
    assert not sites.unresolved


@pytest.mark.parametrize("module", [nn.Hardtanh(), nn.Threshold(1.0, 0.0)])
def test_a_module_that_runs_without_rectifying_is_not_said_to_be_uncalled(module):
    sites = found_in(nn.Sequential(nn.Linear(3, 4), module), X)[1]
    assert not sites.found
    assert not sites.unresolved


def test_the_slope_of_a_leaky_relu_is_kept():
    assert activation_of("leaky_relu", (X, 0.3), {}).slope == 0.3
    assert activation_of("leaky_relu", (X,), {}).slope == 0.01
    assert activation_of("relu", (X,), {}).slope is None


def test_the_slope_of_an_rrelu_is_the_mean_of_its_range():
    assert activation_of("rrelu", (X, 0.1, 0.3), {}).slope == 0.2


def test_a_ceiling_is_kept():
    assert activation_of("relu6", (X,), {}).ceiling == 6
    assert activation_of("hardtanh", (X, 0, 20), {}).ceiling == 20
    assert activation_of("relu", (X,), {}).ceiling is None


SMOOTH_CALLS = {
    "F.gelu": (F.gelu, "gelu"),
    "F.gelu(tanh)": (lambda x: F.gelu(x, approximate="tanh"), "gelu"),
    "torch.ops.aten.gelu": (torch.ops.aten.gelu, "gelu"),
    "F.silu": (F.silu, "silu"),
    "F.silu(inplace)": (lambda x: F.silu(x, inplace=True), "silu"),
    "F.hardswish": (F.hardswish, "hardswish"),
    "F.hardswish(inplace)": (lambda x: F.hardswish(x, inplace=True), "hardswish"),
}


@pytest.mark.parametrize("spelling", SMOOTH_CALLS)
def test_a_smooth_activation_is_a_site_where_it_was_asked_for(spelling):
    function = SMOOTH_CALLS[spelling][1]
    model = Made(lambda m, x: SMOOTH_CALLS[spelling][0](m.fc(x)), fc=nn.Linear(3, 4))
    graph = trace(model, Batch(args=(X,)), functions=RECOGNISED | {function})
    assert [(site.id, site.units) for site in find_sites(model, graph).found] == [(f":{function}#1", 4)]
    assert not found_in(model, X)[1].found


def test_the_way_a_gelu_is_computed_is_kept():
    gelu = activation_of("gelu", (X,), {"approximate": "tanh"}, {"gelu"})
    assert gelu.approximate == "tanh"


def test_two_leaky_relus_of_one_layer_with_different_slopes_are_two_sites():
    model = Made(lambda m, x: F.leaky_relu(h := m.fc(x), 0.1) + F.leaky_relu(h, 0.2), fc=nn.Linear(3, 4))
    assert ids_in(model, X) == [":leaky_relu#1", ":leaky_relu#2"]


WRITTEN_OUT = {
    "maximum(x, 0)": lambda m, x: torch.maximum(x, torch.zeros_like(x)),
    "max(x, 0)": lambda m, x: torch.max(torch.zeros(1), x),
    "fmax(x, 0)": lambda m, x: torch.fmax(x, torch.tensor(0.0)),
    "maximum(x, 0) ": lambda m, x: torch.maximum(x, m.nought),
    "where(x > 0, x, 0)": lambda m, x: torch.where(x > 0, x, 0.0),
    "where(x > 0, x, 0) ": lambda m, x: torch.where(x >= 0, x, torch.zeros_like(x)),
    "where(x < 0, 0, x)": lambda m, x: torch.where(x < 0, 0.0, x),
    "x * (x > 0)": lambda m, x: x * (x > 0),
    "x * (x > 0) ": lambda m, x: (x > 0).float() * x,
    "masked_fill(x, x < 0, 0)": lambda m, x: x.masked_fill(x < 0, 0.0),
    "masked_fill(x, x < 0, 0) ": lambda m, x: x.masked_fill_(x <= 0, 0),
    "x[x < 0] = 0": lambda m, x: (x.__setitem__(x < 0, 0), x)[1],
}


@pytest.mark.parametrize("spelling", WRITTEN_OUT)
def test_a_rectifier_put_together_from_other_operations_is_listed_with_its_line(spelling):
    model = Made(lambda m, x: WRITTEN_OUT[spelling](m, m.fc(x)), fc=nn.Linear(3, 4), nought=torch.zeros(1))
    sites = found_in(model, X)[1]
    (entry,) = sites.unresolved
    assert not sites.found
    assert entry.reason.startswith("test_activations.py:")
    assert f"a rectifier written as {spelling.strip()} is neither counted" in entry.reason


def test_a_written_out_rectifier_in_a_loop_is_listed_once_and_does_not_number_other_calls():
    def run(m, x):
        for _ in range(3):
            x = x * (x > 0)
        return F.relu(m.fc(x))

    graph, sites = found_in(Made(run, fc=nn.Linear(3, 4)), X)
    assert len(sites.unresolved) == 1
    assert [call.position.rank for call in graph.activations()] == [0]


LOOKALIKES = {
    "maximum of two signals": lambda m, x: torch.maximum(x, x.flip(0)),
    "maximum with a parameter": lambda m, x: torch.maximum(x, m.threshold),
    "maximum with ones": lambda m, x: torch.maximum(x, torch.ones_like(x)),
    "maximum of integers": lambda m, x: torch.maximum((9 * x).long(), torch.zeros(1, dtype=torch.long)),
    "where of another signal": lambda m, x: torch.where(x.flip(0) > 0, x, 0.0),
    "where of the negative side": lambda m, x: torch.where(x < 0, x, 0.0),
    "a gate of another signal": lambda m, x: x * (x.flip(0) > 0),
    "a gate at 1": lambda m, x: x * (x > 1),
    "masked_fill of large values": lambda m, x: x.masked_fill(x > 0, 0.0),
    "masked_fill with -1": lambda m, x: x.masked_fill(x < 0, -1.0),
}


@pytest.mark.parametrize("spelling", LOOKALIKES)
def test_what_only_looks_like_a_written_out_rectifier_is_not_listed(spelling):
    model = Made(
        lambda m, x: LOOKALIKES[spelling](m, m.fc(x)), fc=nn.Linear(3, 4), threshold=nn.Parameter(torch.zeros(1))
    )
    assert not found_in(model, X)[1].unresolved


@pytest.mark.parametrize(
    ("rectify", "reason"),
    [
        (lambda x: F.relu(x.mean()), "shape []"),
        (lambda x: F.relu(x[:, :0]), "shape [2, 0]"),
        (lambda x: F.relu((x * 9).long()), "int64"),
        (lambda x: (x * 9).int().clamp(min=0), "int32"),
        (lambda x: F.relu(x.sum(1)), "no axis of units"),
    ],
    ids=["rank 0", "empty", "int64", "int32", "one number a sample"],
)
def test_a_call_that_holds_no_units_is_listed_with_its_line_and_reason(rectify, reason):
    sites = found_in(Made(lambda m, x: rectify(m.fc(x)), fc=nn.Linear(3, 4)), X)[1]
    (entry,) = sites.unresolved
    assert not sites.found
    assert entry.id == ":relu#1"
    assert entry.reason.startswith("test_activations.py:")
    assert reason in entry.reason


def test_an_activation_on_a_vector_of_weights_has_a_unit_for_each():
    model = Made(lambda m, x: m.fc(x) * F.relu(m.gate), fc=nn.Linear(3, 4), gate=nn.Parameter(noise(4)))
    (site,) = found_in(model, X)[1].found
    assert (site.units, site.unit_axis, site.axis_assumed, site.input_independent) == (4, 0, True, True)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_relus_of_a_recurrent_net_are_seen(layers, bidirectional):
    net = nn.RNN(4, 5, layers, nonlinearity="relu", batch_first=True, bidirectional=bidirectional)
    sites = found_in(Made(lambda m, x: m.rnn(x)[0], rnn=net), noise(2, 3, 4))[1].found
    assert len(sites) == layers * (1 + bidirectional)
    assert all((site.units, len(site.calls)) == (5, 3) for site in sites)


def test_the_relu_of_a_recurrent_cell_is_seen():
    assert ids_in(Made(lambda m, x: m.cell(x), cell=nn.RNNCell(3, 5, nonlinearity="relu")), X) == ["cell:relu#1"]


def test_tracing_does_not_change_what_a_recurrent_net_computes():
    net = nn.RNN(4, 5, nonlinearity="relu")
    x = noise(3, 2, 4)
    before = net(x)[0]
    found_in(Made(lambda m, x: m.rnn(x)[0], rnn=net), x)
    assert torch.equal(net(x)[0], before)

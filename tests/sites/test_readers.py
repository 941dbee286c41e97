"""Which weight columns read a unit: with these at 0, nothing that happens to the unit reaches the output."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from sites.made import Made, found_in, noise
from sites.perturbed import contradictions, examined
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from zoo import every

from prelu_doctor.sites.consumers import readers_of


class Shuffle(nn.Module):
    """Channel shuffle over two groups, as ShuffleNet does it."""

    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Excite(nn.Module):
    """A gate computed from the units multiplies them."""

    def __init__(self):
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.excite(self.squeeze(F.adaptive_avg_pool2d(x, 1))))


class Fork(nn.Module):
    """Two readers; what they write is added behind them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x):
        return self.a(x) + self.b(F.dropout(x, 0.5, self.training))


def images(behind, **parts):
    """conv, ReLU `act` with 4 units on [N, 4, 6, 6], then what stands behind."""
    run = lambda m, x: behind(m, m.act(m.conv(x)))  # noqa: E731
    return Made(run, conv=nn.Conv2d(3, 4, 3, padding=1), act=nn.ReLU(), **parts), noise(2, 3, 6, 6)


def tokens(behind, **parts):
    """linear, ReLU `act` with 4 units on [N, 5, 4], then what stands behind."""
    run = lambda m, x: behind(m, m.act(m.fc(x)))  # noqa: E731
    return Made(run, fc=nn.Linear(3, 4), act=nn.ReLU(), **parts), noise(2, 5, 3)


def read_by(layer, before=lambda x: x):
    return lambda: images(lambda m, x: m.head(before(x)), head=layer())


def linear(features):
    return lambda: nn.Linear(features, 2)


FOLLOWED = {
    "conv": read_by(lambda: nn.Conv2d(4, 2, 3)),
    "conv with zero padding": read_by(lambda: nn.Conv2d(4, 2, 3, padding=1)),
    "conv with reflected padding": read_by(lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect")),
    "conv with circular padding": read_by(lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular")),
    "padded with 0 before": read_by(lambda: nn.Conv2d(4, 2, 3), lambda x: F.pad(x, (1, 2, 0, 1))),
    "channels padded with 0": read_by(lambda: nn.Conv2d(6, 2, 3), lambda x: F.pad(x, (0, 0, 0, 0, 1, 1))),
    "grouped": read_by(lambda: nn.Conv2d(4, 6, 3, groups=2)),
    "depthwise": read_by(lambda: nn.Conv2d(4, 4, 3, groups=4)),
    "depthwise with multiplier": read_by(lambda: nn.Conv2d(4, 8, 3, groups=4)),
    "dilated and strided": read_by(lambda: nn.Conv2d(4, 3, 2, stride=2, dilation=2)),
    "transposed": read_by(lambda: nn.ConvTranspose2d(4, 3, 3, stride=2)),
    "transposed grouped": read_by(lambda: nn.ConvTranspose2d(4, 6, 3, groups=2)),
    "flattened": read_by(linear(144), lambda x: x.flatten(1)),
    "viewed": read_by(linear(144), lambda x: x.view(len(x), -1)),
    "reshaped": read_by(linear(144), lambda x: x.reshape(len(x), -1)),
    "viewed in groups": read_by(lambda: nn.Conv2d(4, 2, 1), lambda x: x.view(2, 2, 2, 36).view(2, 4, 6, 6)),
    "permuted and flattened": read_by(linear(144), lambda x: x.permute(0, 2, 3, 1).flatten(1)),
    "channels last": read_by(linear(4), lambda x: x.permute(0, 2, 3, 1)),
    "transposed tokens": read_by(linear(4), lambda x: x.flatten(2).transpose(1, 2)),
    "concatenated with itself": read_by(lambda: nn.Conv2d(8, 2, 1), lambda x: torch.cat([x, x.flip(3)], 1)),
    "channels flipped": read_by(lambda: nn.Conv2d(4, 2, 1), lambda x: x.flip(1)),
    "channels rolled": read_by(lambda: nn.Conv2d(4, 2, 1), lambda x: x.roll(1, 1)),
    "shuffled": lambda: images(lambda m, x: m.head(m.shuffle(x)), shuffle=Shuffle(), head=nn.Conv2d(4, 2, 1, groups=2)),
    "max pool": read_by(linear(16), lambda x: F.max_pool2d(x, 3).flatten(1)),
    "max pool with indices": read_by(linear(16), lambda x: F.max_pool2d(x, 3, return_indices=True)[0].flatten(1)),
    "average pool": read_by(linear(16), lambda x: F.avg_pool2d(x, 3).flatten(1)),
    "adaptive average pool": read_by(linear(4), lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1)),
    "adaptive max pool": read_by(linear(16), lambda x: F.adaptive_max_pool2d(x, 2).flatten(1)),
    "mean of positions": read_by(linear(4), lambda x: x.mean((2, 3))),
    "sum of rows": read_by(linear(24), lambda x: x.sum(3).flatten(1)),
    "maximum of positions": read_by(linear(4), lambda x: x.amax((2, 3))),
    "nearest upsampling": read_by(lambda: nn.Conv2d(4, 2, 1), lambda x: F.interpolate(x, scale_factor=2)),
    "bilinear upsampling": read_by(lambda: nn.Conv2d(4, 2, 1), lambda x: F.interpolate(x, (9, 7), mode="bilinear")),
    "space to depth": read_by(lambda: nn.Conv2d(16, 2, 1), lambda x: F.pixel_unshuffle(x, 2)),
    "patches": read_by(lambda: nn.Conv2d(4, 2, 1), lambda x: x.unfold(2, 2, 2).flatten(3, 4)),
    "two readers": lambda: images(lambda m, x: m.head(x), head=Fork()),
    "squeeze and excite": lambda: images(lambda m, x: m.head(m.gate(x)), gate=Excite(), head=nn.Conv2d(4, 2, 1)),
    "scaled": read_by(lambda: nn.Conv2d(4, 2, 1), lambda x: x * 0.5 / 3 - 0),
    "scaled by a parameter": lambda: images(
        lambda m, x: m.head(x * m.scale), head=nn.Conv2d(4, 2, 1), scale=nn.Parameter(noise(4, 1, 1))
    ),
    "another ReLU": read_by(lambda: nn.Conv2d(4, 2, 1), F.relu),
    "other functions that are 0 at 0": read_by(lambda: nn.Conv2d(4, 2, 1), lambda x: F.gelu(x).tanh() ** 2),
    "clamped above": read_by(lambda: nn.Conv2d(4, 2, 1), lambda x: x.clamp(max=5)),
    "sliced halves": lambda: images(
        lambda m, x: m.a(x[:, :2]) + m.b(x.chunk(2, 1)[1]), a=nn.Conv2d(2, 3, 1), b=nn.Conv2d(2, 3, 1)
    ),
    "linear on tokens": lambda: tokens(lambda m, x: m.head(x), head=nn.Linear(4, 2)),
    "flattened tokens": lambda: tokens(lambda m, x: m.head(x.flatten(1)), head=nn.Linear(20, 2)),
    "token rows": lambda: tokens(lambda m, x: m.head(x.view(-1, 4)), head=nn.Linear(4, 2)),
    "matmul with a parameter": lambda: tokens(lambda m, x: x @ m.weight, weight=nn.Parameter(noise(4, 3))),
    "addmm with a parameter": lambda: tokens(
        lambda m, x: torch.addmm(m.bias, x[:, 0], m.weight),
        weight=nn.Parameter(noise(4, 3)),
        bias=nn.Parameter(noise(3)),
    ),
    "conv1d over tokens": lambda: tokens(lambda m, x: m.head(x.transpose(1, 2)), head=nn.Conv1d(4, 2, 3)),
    "attention with projections": lambda: tokens(
        lambda m, x: m.part(x, x, x, need_weights=False)[0], part=nn.MultiheadAttention(4, 2, batch_first=True)
    ),
    "used twice alike": lambda: tokens(lambda m, x: m.head(x) - m.head(x.flip(1)), head=nn.Linear(4, 2)),
}

UNIT = 2


def perturbed(model, x, axis):
    """The output where the unit is raised, by another amount at every position."""

    def raise_unit(_module, _args, output):
        output = output.clone()
        place = output.select(axis, UNIT)
        place += 1 + noise(*place.shape).abs()
        return output

    handle = model.act.register_forward_hook(raise_unit)
    try:
        with torch.no_grad():
            return model(x)
    finally:
        handle.remove()


def outputs(model, x, axis):
    with torch.no_grad():
        return model(x), perturbed(model, x, axis)


@torch.no_grad()
def cut(model, columns, channel):
    """Sets to 0 whatever a layer multiplies one of its input channels with."""
    layer = columns.layer
    weight = model.get_parameter(layer.weight)
    if layer.kind == "linear":
        weight[:, channel] = 0
    elif layer.kind in ("matmul", "conv_transpose"):
        weight[channel] = 0
    else:
        group, within = divmod(channel, weight.shape[1])
        rows = weight.shape[0] // layer.groups
        weight[group * rows : (group + 1) * rows, within] = 0


def site_and_readers(model, x):
    graph, sites = found_in(model, x)
    site = next(site for site in sites.found if site.position.module == "act")
    return site, readers_of(graph, site.calls, site.unit_axis)


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_unit_whose_columns_are_zero_reaches_the_output_no_more(name):
    model, x = FOLLOWED[name]()
    model.eval()
    site, readers = site_and_readers(model, x)
    assert not readers.declined
    assert set(readers.columns) == set(range(4))
    for columns in readers.columns[UNIT]:
        for channel in columns.channels:
            cut(model, columns, channel)
    plain, moved = outputs(model, x, site.unit_axis)
    assert torch.equal(plain, moved)
    assert plain.abs().sum() > 0


@pytest.mark.parametrize("name", FOLLOWED)
def test_no_column_is_named_that_does_not_read_the_unit(name):
    """With all columns but one at 0, the unit still reaches the output through that one."""
    whole, x = FOLLOWED[name]()
    whole.eval()
    site, readers = site_and_readers(whole, x)
    places = [(columns, channel) for columns in readers.columns[UNIT] for channel in columns.channels]
    for left in {0, len(places) // 2, len(places) - 1}:
        model = copy.deepcopy(whole)
        for number, (columns, channel) in enumerate(places):
            if number != left:
                cut(model, columns, channel)
        plain, moved = outputs(model, x, site.unit_axis)
        assert not torch.equal(plain, moved), left


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_columns_of_different_units_are_different(name):
    model, x = FOLLOWED[name]()
    _, readers = site_and_readers(model, x)
    places = [
        (columns.layer.weight, channel)
        for unit in readers.columns.values()
        for columns in unit
        for channel in columns.channels
    ]
    assert len(places) == len(set(places))


def attention():
    return tokens(lambda m, x: m.head(F.scaled_dot_product_attention(x, x, x)), head=nn.Linear(4, 2))


def computed_weight():
    return tokens(lambda m, x: m.head(x), head=weight_norm(nn.Linear(4, 2)))


DECLINED = {
    "residual sum": (
        lambda: images(lambda m, x: m.head(x + m.a(x)), a=nn.Conv2d(4, 4, 1), head=nn.Conv2d(4, 2, 1)),
        "residual sum",
    ),
    "in-place residual sum": (
        lambda: images(lambda m, x: m.head(m.a(x).add_(x)), a=nn.Conv2d(4, 4, 1), head=nn.Conv2d(4, 2, 1)),
        "residual sum",
    ),
    "output": (lambda: images(lambda m, x: x), "output"),
    "output beside a reader": (
        lambda: images(lambda m, x: {"x": x, "y": m.head(x)}, head=nn.Conv2d(4, 2, 1)),
        "output",
    ),
    "part of the output": (lambda: images(lambda m, x: [m.head(x), x[:, :, 0]], head=nn.Conv2d(4, 2, 1)), "output"),
    "batch norm behind": (
        lambda: images(lambda m, x: m.head(m.n(x)), n=nn.BatchNorm2d(4), head=nn.Conv2d(4, 2, 1)),
        "batch_norm",
    ),
    "layer norm behind": (
        lambda: tokens(lambda m, x: m.head(m.n(x)), n=nn.LayerNorm(4), head=nn.Linear(4, 2)),
        "layer_norm",
    ),
    "softmax": (lambda: tokens(lambda m, x: m.head(x.softmax(-1)), head=nn.Linear(4, 2)), "softmax"),
    "attention": (attention, "a query of attention"),
    "computed weight": (computed_weight, "computed"),
    "transposed weight": (lambda: tokens(lambda m, x: x @ m.w.t(), w=nn.Parameter(noise(3, 4))), "computed"),
    "tied weight": (lambda: tokens(lambda m, x: m.head(x) @ m.head.weight, head=nn.Linear(4, 3)), "used elsewhere too"),
    "weight that reads two things": (
        lambda: tokens(lambda m, x: m.head(x) + m.head(x.flip(2)), head=nn.Linear(4, 2)),
        "used elsewhere too",
    ),
    "a constant added": (lambda: images(lambda m, x: m.head(x + 1), head=nn.Conv2d(4, 2, 1)), "zero"),
    "sigmoid": (lambda: images(lambda m, x: m.head(x.sigmoid()), head=nn.Conv2d(4, 2, 1)), "zero"),
    "clamped from 1": (lambda: images(lambda m, x: m.head(x.clamp(min=1)), head=nn.Conv2d(4, 2, 1)), "zero"),
    "padded with 1": (
        lambda: images(lambda m, x: m.head(F.pad(x, (1, 1, 1, 1), value=1.0)), head=nn.Conv2d(4, 2, 3)),
        "shares a column",
    ),
    "pixel shuffle": (
        lambda: images(lambda m, x: m.head(F.pixel_shuffle(x, 2)), head=nn.Conv2d(1, 2, 1)),
        "shares a column",
    ),
    "mean over channels": (
        lambda: images(lambda m, x: m.head(x.mean(1, keepdim=True)), head=nn.Conv2d(1, 2, 1)),
        "mixed",
    ),
    "product of units": (lambda: images(lambda m, x: m.head(x * x.flip(1)), head=nn.Conv2d(4, 2, 1)), "multiplied"),
    "divisor": (lambda: images(lambda m, x: m.head(1 / (x + 1)), head=nn.Conv2d(4, 2, 1)), ""),
    "signal divided by a unit": (
        lambda: images(lambda m, x: m.head(m.a(x) / x), a=nn.Conv2d(4, 4, 1), head=nn.Conv2d(4, 2, 1)),
        "divides",
    ),
    "sorted": (lambda: images(lambda m, x: m.head(x.sort(1)[0]), head=nn.Conv2d(4, 2, 1)), "sort"),
    "maximum of two": (
        lambda: images(lambda m, x: m.head(torch.maximum(x, m.a(x))), a=nn.Conv2d(4, 4, 1), head=nn.Conv2d(4, 2, 1)),
        "maximum",
    ),
    "product of signals": (lambda: tokens(lambda m, x: m.head(x @ x.transpose(1, 2)), head=nn.Linear(5, 2)), "matmul"),
    "written into another tensor": (
        lambda: images(lambda m, x: m.head(torch.ones(2, 4, 6, 6).copy_(x)), head=nn.Conv2d(4, 2, 1)),
        "copy",
    ),
    "cut down to nothing": (
        lambda: tokens(lambda m, x: m.head(x) + m.other(x[:0]).sum(), head=nn.Linear(4, 2), other=nn.Linear(4, 2)),
        "read through an output of slice",
    ),
    "overwritten through a view": (
        lambda: images(lambda m, x: (x.view(-1).mul_(2), m.head(x))[1], head=nn.Conv2d(4, 2, 1)),
        "overwritten",
    ),
}


@pytest.mark.parametrize("name", DECLINED)
def test_units_that_reach_anything_else_are_declined_with_the_reason(name):
    (model, x), reason = DECLINED[name][0](), DECLINED[name][1]
    _, readers = site_and_readers(model.eval(), x)
    assert set(readers.declined) == set(range(4))
    assert all(reason in told for told in readers.declined.values()), readers.declined


def test_only_the_units_that_meet_another_signal_are_declined():
    model, x = images(
        lambda m, x: m.head(torch.cat([x[:, :2], x[:, 2:] + m.other], 1)),
        head=nn.Conv2d(4, 2, 1),
        other=nn.Parameter(noise(2, 6, 6)),
    )
    _, readers = site_and_readers(model, x)
    assert set(readers.declined) == {2, 3}
    assert set(readers.columns) >= {0, 1}


def test_an_empty_value_of_no_unit_is_passed_over():
    _, readers = site_and_readers(
        *tokens(
            lambda m, x: torch.cat([m.head(x), m.head(torch.zeros(0, 5, 4))]) + m.other(torch.zeros(0, 4)).sum(),
            head=nn.Linear(4, 2),
            other=nn.Linear(4, 2),
        )
    )
    assert readers.declined == {}
    assert set(readers.columns) == set(range(4))


@every()
def test_protected_sites_of_the_zoo_are_declined_and_no_others(kind):
    graph, sites = found_in(kind().eval(), *kind.inputs(), **kind.keywords())
    declined = [site.id for site in sites.found if readers_of(graph, site.calls, site.unit_axis).declined]
    assert declined == kind.protected


@every(but=lambda kind: bool(kind.keyword_shapes))
def test_what_is_said_about_a_unit_of_the_zoo_is_so(kind):
    """One unit of each site; those of a state that is carried through time have columns of their own like any other."""
    torch.manual_seed(0)
    model, inputs = kind().eval(), kind.inputs()
    for site, readers in examined(model, inputs):
        assert contradictions(model, inputs, site, readers, [site.units - 1], at_layers=True) == []

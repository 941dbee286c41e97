"""Which channel of a layer each unit comes from, whatever lies between the layer and the activation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sites.made import Made, found_in, noise
from torch import nn

from prelu_doctor.sites.labels import by_channel
from prelu_doctor.sites.producers import channel_labels, origin_of


def labels_of(model, x):
    """The site behind the layer `fc` or `conv`, and the channels of this layer by unit: a set each."""
    graph, sites = found_in(model.eval(), x)
    (site,) = sites.found
    call = site.calls[0]
    origin = origin_of(graph, call)
    layer = next(layer for layer in origin.layers if layer.name in ("fc", "conv", "w"))
    labels = channel_labels(graph, layer.call.writes[0], layer.axis, origin, call.reads[0])
    assert labels is not None
    return site, [set(unit.tolist()) for unit in by_channel(labels, site.unit_axis)]


def tokens(between, **parts):
    return Made(lambda m, x: F.relu(between(m, m.fc(x))), fc=nn.Linear(3, 4), **parts), noise(2, 5, 3)


def images(between, **parts):
    return Made(lambda m, x: F.relu(between(m, m.conv(x))), conv=nn.Conv2d(3, 4, 1), **parts), noise(2, 3, 6, 6)


ONE_TO_ONE = {
    "nothing": (tokens(lambda m, x: x), [1, 2, 3, 4]),
    "values of attention": (
        tokens(lambda m, x: F.scaled_dot_product_attention(m.q, m.q, x), q=noise(2, 5, 4)),
        [1, 2, 3, 4],
    ),
    "product from the left": (tokens(lambda m, x: m.mask @ x, mask=noise(5, 5)), [1, 2, 3, 4]),
    "flipped": (tokens(lambda m, x: x.flip(2)), [4, 3, 2, 1]),
    "constant index": (tokens(lambda m, x: x[..., m.order], order=torch.tensor([2, 0, 3, 1])), [3, 1, 4, 2]),
    "running sum": (tokens(lambda m, x: x.cumsum(1)), [1, 2, 3, 4]),
    "another signal added": (tokens(lambda m, x: x + m.bias, bias=noise(5, 4)), [1, 2, 3, 4]),
    "sigmoid": (tokens(lambda m, x: x.sigmoid() - 0.5), [1, 2, 3, 4]),
    "masked": (tokens(lambda m, x: x.masked_fill(m.mask, -1.0), mask=noise(5, 1) > 0), [1, 2, 3, 4]),
    "channel shuffle": (images(lambda m, x: F.channel_shuffle(x, 2)), [1, 3, 2, 4]),
    "shuffle by reshaping": (
        images(lambda m, x: x.view(2, 2, 2, 36).transpose(1, 2).reshape(2, 4, 6, 6)),
        [1, 3, 2, 4],
    ),
    "batch norm and pooling": (images(lambda m, x: F.max_pool2d(m.n(x), 2), n=nn.BatchNorm2d(4)), [1, 2, 3, 4]),
    "resized": (images(lambda m, x: F.interpolate(x, size=(3, 8), mode="bilinear")), [1, 2, 3, 4]),
    "folded patches": (images(lambda m, x: F.fold(F.unfold(x, 3, padding=1), (6, 6), 3, padding=1)), [1, 2, 3, 4]),
    "scaled by its own mean": (images(lambda m, x: x * x.mean((2, 3), keepdim=True)), [1, 2, 3, 4]),
}


@pytest.mark.parametrize("name", ONE_TO_ONE)
def test_a_unit_is_traced_to_its_channel(name):
    (model, x), channels = ONE_TO_ONE[name]
    site, labels = labels_of(model, x)
    assert (site.units, site.axis_assumed) == (4, False)
    assert labels == [{channel} for channel in channels]


MIXING = {
    "mean over channels": tokens(lambda m, x: x * x.mean(2, keepdim=True)),
    "norm over channels": tokens(lambda m, x: F.normalize(x, dim=2)),
    "local response": images(lambda m, x: F.local_response_norm(x, 3)),
    "keys and values of attention": tokens(lambda m, x: F.scaled_dot_product_attention(x, x, x)),
    "softmax of channels": tokens(lambda m, x: x * x.softmax(2)),
    "index of the largest": tokens(lambda m, x: x + x.argmax(2, keepdim=True)),
}


@pytest.mark.parametrize("name", MIXING)
def test_no_channel_belongs_to_one_unit_where_it_has_a_say_in_others(name):
    """To change its row would change them as well; the axis of the units is still known."""
    site, labels = labels_of(*MIXING[name])
    assert (site.units, site.axis_assumed) == (4, False)
    assert all(label < 0 for unit in labels for label in unit)
    assert len({frozenset(unit) for unit in labels}) == 4


def test_only_the_channels_that_have_a_say_in_others_are_set_apart():
    _, labels = labels_of(
        *tokens(lambda m, x: torch.cat([x[..., :2], x[..., 2:] * x[..., 2:].mean(2, keepdim=True)], 2))
    )
    assert labels == [{1}, {2}, {-4}, {-5}]


@pytest.mark.parametrize(
    ("run", "weight"),
    [
        (lambda m, x: torch.einsum("bti,io->bto", x, m.w), noise(3, 4)),
        (lambda m, x: torch.einsum("oi,bti->bto", m.w, x), noise(4, 3)),
        (lambda m, x: torch.tensordot(x, m.w, dims=([2], [0])), noise(3, 4)),
    ],
    ids=["einsum", "einsum of a transposed weight", "tensordot"],
)
def test_a_product_with_a_parameter_writes_units(run, weight):
    model = Made(lambda m, x: F.relu(run(m, x)), w=nn.Parameter(weight))
    site, labels = labels_of(model, noise(2, 5, 3))
    assert (site.units, site.axis_assumed, site.producers) == (4, False, ["w"])
    assert labels == [{1}, {2}, {3}, {4}]

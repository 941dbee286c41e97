"""Random compositions of operations behind a site: what is said about the columns of each unit is so."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sites.made import noise
from sites.perturbed import contradictions, examined
from torch import Tensor, nn


class Net(nn.Module):
    """A site `act`, random steps behind it, and a reader of what comes out."""

    def __init__(self, first: nn.Module, x: Tensor, steps: list[Step], reader: Step) -> None:
        super().__init__()
        self.first, self.act = first, nn.ReLU()
        self.parts = nn.ModuleList()
        self.ways: list[Callable[[nn.ModuleList, Tensor], Tensor]] = []
        with torch.no_grad():
            y = self.act(first(x))
            for step in [*steps, reader]:
                way = step(self.parts, y)
                if way is not None and (after := way(self.parts, y)).numel() <= 2000:
                    self.ways.append(way)
                    y = after

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first(x))
        for way in self.ways:
            y = way(self.parts, y)
        return y


Step = Callable[[nn.ModuleList, Tensor], Callable[[nn.ModuleList, Tensor], Tensor] | None]
"""Gives, for a value of this shape, the way on from it, its parts registered; None where the step does not fit."""


def added(parts: nn.ModuleList, part: nn.Module) -> int:
    parts.append(part.double())
    return len(parts) - 1


def of_rank(rank, way):
    return lambda parts, y: (lambda p, x: way(x)) if y.dim() == rank else None


def elementwise(way):
    return lambda parts, y: lambda p, x: way(x)


def pointwise(y, out=None, **options):
    """A convolution or linear layer for this value."""
    if y.dim() == 4:
        return nn.Conv2d(y.shape[1], out or y.shape[1], 1, **options)
    return nn.Linear(y.shape[-1], out or y.shape[-1])


def with_layer(way):
    """A step that has a layer of its own, of as many channels."""

    def step(parts, y):
        number = added(parts, pointwise(y))
        return lambda p, x: way(p[number], x)

    return step


def channel_axis(x):
    return 1 if x.dim() == 4 else -1


def even(way):
    """A step that fits where channels and rows of an image are even in number."""
    fits = lambda y: y.dim() == 4 and y.shape[1] % 2 == 0 and y.shape[2] % 2 == 0 and y.shape[3] % 2 == 0  # noqa: E731
    return lambda parts, y: (lambda p, x: way(x)) if fits(y) else None


def larger(way):
    return lambda parts, y: (lambda p, x: way(x)) if y.dim() == 4 and min(y.shape[2:]) > 2 else None


def in_halves(x):
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def squeezed(layer, x):
    axes = (2, 3) if x.dim() == 4 else (1,) if x.dim() == 3 else ()
    return x * layer(x.mean(axes, keepdim=True) if axes else x).sigmoid()


def mixed_positions(layer, x):
    """Attention whose queries and keys have a layer of their own, and whose values are what it is given."""
    tokens = x.flatten(2).transpose(1, 2) if x.dim() == 4 else x.reshape(len(x), -1, x.shape[-1])
    keys = layer(x).flatten(2).transpose(1, 2) if x.dim() == 4 else layer(x).reshape(tokens.shape)
    return F.scaled_dot_product_attention(keys, keys, tokens)


def by_hand(layer, x):
    tokens = x.reshape(len(x), -1, x.shape[-1])
    keys = layer(x).reshape(tokens.shape) if x.dim() != 4 else tokens
    return torch.einsum("bst,btc->bsc", (keys @ keys.mT).softmax(-1), tokens)


def picked(parts, y):
    axis = channel_axis(y)
    order = torch.arange(y.shape[axis]).flip(0)
    holder = nn.Module()
    holder.register_buffer("order", order)
    number = len(parts)
    parts.append(holder)
    return lambda p, x: x.index_select(axis, p[number].order)


def depthwise(parts, y):
    if y.dim() != 4 or min(y.shape[2:]) < 3:
        return None
    number = added(parts, nn.Conv2d(y.shape[1], 2 * y.shape[1], 3, groups=y.shape[1]))
    return lambda p, x: p[number](x)


STEPS: dict[str, Step] = {
    "flatten": lambda parts, y: (lambda p, x: x.flatten(1)) if y.dim() > 2 else None,
    "dense": with_layer(lambda layer, x: torch.cat([x, layer(x)], channel_axis(x))),
    "concat with itself": elementwise(lambda x: torch.cat([x, x.roll(1, channel_axis(x))], channel_axis(x))),
    "layer": with_layer(lambda layer, x: layer(x)),
    "residual": with_layer(lambda layer, x: x + layer(x)),
    "depthwise": depthwise,
    "squeeze and excite": with_layer(squeezed),
    "multiplied": with_layer(lambda layer, x: x * layer(x)),
    "values": with_layer(mixed_positions),
    "by hand": with_layer(by_hand),
    "maximum": with_layer(lambda layer, x: torch.maximum(x, layer(x))),
    "chosen": elementwise(lambda x: torch.where(torch.arange(len(x)).reshape(-1, *[1] * (x.dim() - 1)) > 0, 0.0, x)),
    "shuffle": even(in_halves),
    "unshuffle": even(lambda x: F.pixel_unshuffle(x, 2)),
    "depth to space": lambda parts, y: (
        (lambda p, x: F.pixel_shuffle(x, 2)) if y.dim() == 4 and y.shape[1] % 4 == 0 else None
    ),
    "max pool": larger(lambda x: F.max_pool2d(x, 2, 1)),
    "average pool": larger(lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "adaptive pool": larger(lambda x: F.adaptive_avg_pool2d(x, 2)),
    "power-average pool": larger(lambda x: F.lp_pool2d(x, 2, 2)),
    "nearest": of_rank(4, lambda x: F.interpolate(x, scale_factor=2)),
    "bilinear": of_rank(4, lambda x: F.interpolate(x, size=(5, 3), mode="bilinear")),
    "zero padding": of_rank(4, lambda x: F.pad(x, (1, 0, 0, 2))),
    "channel padding": of_rank(4, lambda x: F.pad(x, (0, 0, 0, 0, 1, 0))),
    "reflection": larger(lambda x: F.pad(x, (1, 1, 0, 1), mode="reflect")),
    "replication": of_rank(4, lambda x: F.pad(x, (1, 1, 0, 1), mode="replicate")),
    "circles": of_rank(4, lambda x: F.pad(x, (1, 1, 0, 1), mode="circular")),
    "ones padded": of_rank(4, lambda x: F.pad(x, (1, 0, 0, 0), value=1.0)),
    "channels last": of_rank(4, lambda x: x.permute(0, 2, 3, 1).flatten(1, 2)),
    "transpose": of_rank(3, lambda x: x.transpose(1, 2)),
    "patches": larger(lambda x: F.unfold(x, 2, stride=2).transpose(1, 2)),
    "reversed": picked,
    "flip": elementwise(lambda x: x.flip(channel_axis(x))),
    "halves swapped": elementwise(lambda x: torch.cat(x.chunk(2, channel_axis(x))[::-1], channel_axis(x))),
    "first half": elementwise(lambda x: x.chunk(2, channel_axis(x))[0]),
    "first position": of_rank(3, lambda x: x[:, 0]),
    "stack": of_rank(3, lambda x: torch.stack([x, x * 2], -1).flatten(2)),
    "mean of positions": of_rank(4, lambda x: x.mean((2, 3))),
    "running sum": of_rank(3, lambda x: x.cumsum(1)),
    "relu": elementwise(F.relu),
    "tanh": elementwise(torch.tanh),
    "sigmoid": elementwise(torch.sigmoid),
    "softmax": elementwise(lambda x: x.softmax(-1)),
    "scaled": elementwise(lambda x: x * 0.5),
    "shifted": elementwise(lambda x: x + 0.5),
    "squared": elementwise(torch.square),
    "masked": elementwise(lambda x: x * (x.abs() > 0.01)),
}
"""By name; those that spoil units (sums, softmax, ones) stand among those that do not."""


def einsum(parts, y):
    holder = nn.Module()
    holder.weight = nn.Parameter(noise(y.shape[-1], 2).double())
    number = len(parts)
    parts.append(holder)
    return lambda p, x: torch.einsum("...i,io->...o", x, p[number].weight)


def product(parts, y):
    holder = nn.Module()
    holder.weight = nn.Parameter(noise(y.shape[-1], 2).double())
    number = len(parts)
    parts.append(holder)
    return lambda p, x: x @ p[number].weight


def grouped(parts, y):
    if y.dim() != 4 or y.shape[1] % 2:
        return pointwise_reader(parts, y)
    number = added(parts, nn.Conv2d(y.shape[1], 4, 1, groups=2))
    return lambda p, x: p[number](x)


def transposed(parts, y):
    if y.dim() != 4:
        return pointwise_reader(parts, y)
    number = added(parts, nn.ConvTranspose2d(y.shape[1], 2, 2, stride=2))
    return lambda p, x: p[number](x)


def pointwise_reader(parts, y):
    number = added(parts, pointwise(y, 3))
    return lambda p, x: p[number](x)


READERS = {
    "layer": pointwise_reader,
    "einsum": einsum,
    "product": product,
    "grouped": grouped,
    "transposed": transposed,
    "none": lambda parts, y: lambda p, x: x,
}


@settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    images=st.booleans(),
    steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=5),
    reader=st.sampled_from(sorted(READERS)),
)
def test_what_is_said_about_the_columns_of_every_unit_is_so(images, steps, reader):
    torch.manual_seed(0)
    first = (nn.Conv2d(2, 4, 1) if images else nn.Linear(2, 4)).double()
    x = noise(2, 2, 4, 4).double() if images else noise(2, 3, 2).double()
    net = Net(first, x, [STEPS[name] for name in steps], READERS[reader]).eval()
    site, readers = next(found for found in examined(net, (x,)) if found[0].position.module == "act")
    assert contradictions(net, (x,), site, readers, range(4), at_layers=True) == []


def test_steps_that_keep_zeros_leave_units_with_columns_behind_a_long_way():
    """So that the property above does not hold because everything is declined."""
    way = [
        "zero padding",
        "dense",
        "adaptive pool",
        "unshuffle",
        "reversed",
        "channels last",
        "values",
        "stack",
        "flatten",
    ]
    torch.manual_seed(0)
    x = noise(2, 2, 4, 4).double()
    net = Net(nn.Conv2d(2, 4, 1).double(), x, [STEPS[name] for name in way], READERS["einsum"]).eval()
    assert len(net.ways) == len(way) + 1
    (_, readers), *_ = examined(net, (x,))
    assert readers.declined == {}
    assert set(readers.columns) == set(range(4))

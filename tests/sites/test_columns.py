"""For every kind of operation behind a site: which units have columns, which are declined, and that it is so."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sites.made import Made, noise
from sites.perturbed import contradictions, examined
from torch import nn

UNITS = {0, 1, 2, 3}


def images(behind, **parts):
    """conv, ReLU `act` with 4 units on [2, 4, 6, 6], then what stands behind."""
    run = lambda m, x: behind(m, m.act(m.conv(x)))  # noqa: E731
    return Made(run, conv=nn.Conv2d(3, 4, 3, padding=1), act=nn.ReLU(), **parts), noise(2, 3, 6, 6)


def tokens(behind, **parts):
    """linear, ReLU `act` with 4 units on [2, 5, 4], then what stands behind."""
    run = lambda m, x: behind(m, m.act(m.fc(x)))  # noqa: E731
    return Made(run, fc=nn.Linear(3, 4), act=nn.ReLU(), **parts), noise(2, 5, 3)


def to_conv(way, channels=4, **parts):
    """Images, something on the way, and a convolution that reads them."""
    return lambda: images(lambda m, x: m.head(way(m, x)), head=nn.Conv2d(channels, 3, 1), **parts)


def to_linear(way, features, **parts):
    """Images, something on the way, and a linear layer that reads them."""
    return lambda: images(lambda m, x: m.head(way(m, x)), head=nn.Linear(features, 3), **parts)


def of_tokens(way, features=4, **parts):
    """Tokens, something on the way, and a linear layer that reads them."""
    return lambda: tokens(lambda m, x: m.head(way(m, x)), head=nn.Linear(features, 3), **parts)


def weights(*shape):
    return nn.Parameter(noise(*shape))


def conv():
    return nn.Conv2d(4, 4, 1)


def attend(q, k, v):
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def heads(x):
    return x.view(2, 5, 2, 2).transpose(1, 2)


def merged(x):
    return x.transpose(1, 2).flatten(2)


class Steps(nn.Module):
    """A loop over time whose state is its own input; the first state is zeros."""

    def __init__(self, joined):
        super().__init__()
        self.joined, self.act, self.head = joined, nn.ReLU(), nn.Linear(4, 2)
        self.step = nn.Linear(7, 4) if joined else nn.Linear(3, 4)
        self.back = None if joined else nn.Linear(4, 4, bias=False)

    def forward(self, x):
        states = [x.new_zeros(len(x), 4)]
        for now in x.unbind(1):
            before = (
                self.step(torch.cat([now, states[-1]], 1)) if self.joined else self.step(now) + self.back(states[-1])
            )
            states.append(self.act(before))
        return [self.head(state) for state in states[1:]]


FOLLOWED = {
    # images
    "flatten": to_linear(lambda m, x: x.flatten(1), 144),
    "dense concatenation": to_conv(lambda m, x: torch.cat([x, m.grow(x)], 1), 8, grow=conv()),
    "dense concatenation twice": to_conv(
        lambda m, x: torch.cat([y := torch.cat([x, m.grow(x)], 1), m.more(y)], 1),
        10,
        grow=conv(),
        more=nn.Conv2d(8, 2, 1),
    ),
    "channel shuffle": to_conv(lambda m, x: F.channel_shuffle(torch.cat([x, m.other(x)], 1), 2), 8, other=conv()),
    "shuffle by reshaping": to_conv(lambda m, x: x.view(2, 2, 2, 6, 6).transpose(1, 2).reshape(2, 4, 6, 6)),
    "grouped": lambda: images(lambda m, x: m.head(x), head=nn.Conv2d(4, 6, 3, groups=2)),
    "depthwise": lambda: images(lambda m, x: m.head(x), head=nn.Conv2d(4, 8, 3, groups=4)),
    "transposed": lambda: images(lambda m, x: m.head(x), head=nn.ConvTranspose2d(4, 3, 3, stride=2)),
    "transposed grouped": lambda: images(lambda m, x: m.head(x), head=nn.ConvTranspose2d(4, 6, 3, groups=2)),
    "squeeze and excite": to_conv(
        lambda m, x: x * m.up(m.down(x.mean((2, 3), keepdim=True))).sigmoid(),
        down=nn.Conv2d(4, 2, 1),
        up=nn.Conv2d(2, 4, 1),
    ),
    "max pooling": to_linear(lambda m, x: F.max_pool2d(x, 3, 2, 1).flatten(1), 36),
    "average pooling": to_linear(lambda m, x: F.avg_pool2d(x, 2).flatten(1), 36),
    "adaptive pooling": to_linear(lambda m, x: F.adaptive_avg_pool2d(x, 2).flatten(1), 16),
    "pooling behind padding": to_linear(lambda m, x: F.avg_pool2d(F.pad(x, (2, 0, 0, 0)), 2).flatten(1), 48),
    "power-average pooling": to_linear(lambda m, x: F.lp_pool2d(x, 2, 2).flatten(1), 36),
    "nearest": to_conv(lambda m, x: F.interpolate(x, scale_factor=2)),
    "nearest exact": to_conv(lambda m, x: F.interpolate(x, size=(9, 5), mode="nearest-exact")),
    "bilinear": to_conv(lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)),
    "bicubic": to_conv(lambda m, x: F.interpolate(x, size=(9, 5), mode="bicubic")),
    "area": to_conv(lambda m, x: F.interpolate(x, size=(3, 4), mode="area")),
    "antialiased": to_conv(lambda m, x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True)),
    "sampled at a grid": to_conv(lambda m, x: F.grid_sample(x, m.grid, align_corners=False), grid=noise(2, 4, 4, 2)),
    "padded with zeros": to_conv(lambda m, x: F.pad(x, (1, 2, 0, 1))),
    "channels padded with zeros": to_conv(lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 1)), 6),
    "padded by reflection": to_conv(lambda m, x: F.pad(x, (1, 2, 2, 1), mode="reflect")),
    "padded by replication": to_conv(lambda m, x: F.pad(x, (1, 2, 2, 1), mode="replicate")),
    "padded in circles": to_conv(lambda m, x: F.pad(x, (1, 2, 2, 1), mode="circular")),
    "permuted": to_linear(lambda m, x: x.permute(0, 2, 3, 1), 4),
    "space to depth": to_conv(lambda m, x: F.pixel_unshuffle(x, 2), 16),
    "depth to space, flattened": to_linear(lambda m, x: F.pixel_shuffle(x, 2).flatten(1), 144),
    "patches": to_linear(lambda m, x: F.unfold(x, 2, stride=2).transpose(1, 2), 16),
    "patches folded": to_conv(lambda m, x: F.fold(F.unfold(x, 3, padding=1), (6, 6), 3, padding=1)),
    "windows": to_conv(lambda m, x: x.unfold(2, 2, 2).flatten(3, 4)),
    "roll": to_conv(lambda m, x: x.roll((1, 2), (1, 3))),
    "flip": to_conv(lambda m, x: x.flip(1)),
    "narrow": lambda: images(
        lambda m, x: m.a(x.narrow(1, 0, 3)) + m.b(x.narrow(1, 3, 1)), a=nn.Conv2d(3, 2, 1), b=nn.Conv2d(1, 2, 1)
    ),
    "split": lambda: images(
        lambda m, x: sum(layer(part) for layer, part in zip((m.a, m.b), x.split([1, 3], 1), strict=True)),
        a=nn.Conv2d(1, 2, 1),
        b=nn.Conv2d(3, 2, 1),
    ),
    "stack": to_conv(lambda m, x: torch.stack([x, x.flip(2)], 2).flatten(1, 2), 8),
    "unbind": to_linear(lambda m, x: torch.cat([part.flatten(1) for part in x.unbind(1)], 1), 144),
    "repeated": to_conv(lambda m, x: x.repeat_interleave(2, 1), 8),
    "channels by a constant index": to_conv(lambda m, x: x[:, m.order], order=torch.tensor([2, 0, 3, 1])),
    "channels by a constant mask": lambda: images(
        lambda m, x: m.a(x[:, m.mask]) + m.b(x[:, ~m.mask]),
        a=nn.Conv2d(3, 2, 1),
        b=nn.Conv2d(1, 2, 1),
        mask=torch.tensor([True, False, True, True]),
    ),
    "channels selected": to_conv(lambda m, x: x.index_select(1, m.order), order=torch.tensor([2, 0, 3, 1])),
    "positions gathered": to_linear(
        lambda m, x: x.flatten(2).gather(2, m.order).flatten(1), 12, order=torch.randint(36, (2, 4, 3))
    ),
    "positions taken along": to_linear(
        lambda m, x: torch.take_along_dim(x.flatten(2), m.order, 2).flatten(1), 12, order=torch.randint(36, (1, 1, 3))
    ),
    "positions by an index that hangs on the data": to_linear(
        lambda m, x: x.flatten(2)[:, :, m.other(x).mean((0, 1, 2)).argsort()].flatten(1), 24, other=conv()
    ),
    "maximum of positions": to_linear(lambda m, x: x.flatten(2).max(2)[0], 4),
    "largest positions": to_linear(lambda m, x: x.flatten(2).topk(3)[0].flatten(1), 12),
    "norm of positions": to_linear(lambda m, x: x.norm(dim=(2, 3)), 4),
    "maximum with itself moved": to_conv(lambda m, x: torch.maximum(x, x.roll(1, 3))),
    "minimum with what is never negative": to_conv(lambda m, x: torch.minimum(x, m.other(x).sigmoid()), other=conv()),
    "masked with zero": to_conv(lambda m, x: x.masked_fill(m.mask, 0.0), mask=noise(6, 6) > 0),
    "masked where it is positive": to_conv(lambda m, x: x * (x > 0.5)),
    "zero elsewhere": to_conv(lambda m, x: torch.where(m.other(x).sin() > -0.5, x, 0.0), other=conv()),
    "between itself and itself moved": to_conv(lambda m, x: torch.lerp(x, x.flip(2), 0.3)),
    "between zero and itself": to_conv(lambda m, x: torch.lerp(torch.zeros_like(x), x, 0.3)),
    "addcmul": to_conv(lambda m, x: torch.addcmul(x, x, m.other(x)), other=conv()),
    "running sum": to_conv(lambda m, x: x.cumsum(3)),
    "gated": to_conv(lambda m, x: F.glu(torch.cat([x, m.other(x)], 1), 1), other=conv()),
    "added to zeros": to_conv(lambda m, x: x + torch.zeros_like(x)),
    "shape alone read": to_conv(lambda m, x: x * torch.ones_like(x)),
    "conv norm conv": to_conv(lambda m, x: m.norm(m.first(x)), first=conv(), norm=nn.BatchNorm2d(4)),
    # tokens
    "einsum": lambda: tokens(lambda m, x: torch.einsum("bti,io->bto", x, m.w), w=weights(4, 3)),
    "einsum of a transposed weight": lambda: tokens(
        lambda m, x: torch.einsum("oi,...i->...o", m.w, x), w=weights(3, 4)
    ),
    "einsum that scales": of_tokens(lambda m, x: torch.einsum("btc,c->btc", x, m.w), w=weights(4)),
    "einsum of two signals": of_tokens(lambda m, x: torch.einsum("bst,btc->bsc", m.mix(x), x), mix=nn.Linear(4, 5)),
    "tensordot": lambda: tokens(lambda m, x: torch.tensordot(x, m.w, dims=([2], [0])), w=weights(4, 3)),
    "tensordot of a transposed weight": lambda: tokens(
        lambda m, x: torch.tensordot(x, m.w, dims=([2], [1])), w=weights(3, 4)
    ),
    "bilinear form": lambda: tokens(
        lambda m, x: m.form(x, m.other(x)), form=nn.Bilinear(4, 2, 3), other=nn.Linear(4, 2)
    ),
    "product with a signal": of_tokens(lambda m, x: m.mix(x) @ x, mix=nn.Linear(4, 5)),
    "product of batches": of_tokens(lambda m, x: torch.bmm(m.mix(x), x), mix=nn.Linear(4, 5)),
    "product of batches added to zeros": of_tokens(
        lambda m, x: torch.baddbmm(torch.zeros(2, 5, 4, dtype=x.dtype), m.mix(x), x), mix=nn.Linear(4, 5)
    ),
    "values of attention": of_tokens(lambda m, x: F.scaled_dot_product_attention(m.q(x), m.q(x), x), q=nn.Linear(4, 3)),
    "values of masked attention": of_tokens(
        lambda m, x: F.scaled_dot_product_attention(m.q(x), m.q(x), x, is_causal=True), q=nn.Linear(4, 3)
    ),
    "values of attention in heads": of_tokens(
        lambda m, x: merged(F.scaled_dot_product_attention(heads(m.q(x)), heads(m.q(x)), heads(x))), q=nn.Linear(4, 4)
    ),
    "values of attention by hand": of_tokens(lambda m, x: attend(m.q(x), m.q(x), x), q=nn.Linear(4, 3)),
    "queries, keys and values of a module": lambda: tokens(
        lambda m, x: m.part(x, x, x)[0], part=nn.MultiheadAttention(4, 2, batch_first=True)
    ),
    "keys of a module of another width": lambda: tokens(
        lambda m, x: m.part(m.other, x, x)[0],
        part=nn.MultiheadAttention(6, 2, kdim=4, vdim=4, batch_first=True),
        other=noise(2, 3, 6),
    ),
    "an encoder layer": lambda: tokens(
        lambda m, x: m.layer(m.widen(x)),
        widen=nn.Linear(4, 6),
        layer=nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True),
    ),
    "rows of a table": of_tokens(lambda m, x: F.embedding(m.rows, x[0]), rows=torch.tensor([[0, 3], [2, 2]])),
    "a loop over time": lambda: (Steps(joined=False), noise(2, 3, 3)),
    "a loop over time that joins input and state": lambda: (Steps(joined=True), noise(2, 3, 3)),
    "used twice alike": lambda: tokens(lambda m, x: m.head(x) - m.head(x.flip(1)), head=nn.Linear(4, 2)),
}

DECLINED = {
    "residual sum": (to_conv(lambda m, x: x + m.other(x), other=conv()), "residual sum"),
    "output": (lambda: images(lambda m, x: x), "output"),
    "depth to space": (to_conv(lambda m, x: F.pixel_shuffle(x, 2), 1), "shares a column"),
    "power-average pooling of an odd power": (
        to_linear(lambda m, x: F.lp_pool2d(x, 3, 2).flatten(1), 36),
        "below zero",
    ),
    "softmax over units": (to_conv(lambda m, x: x.softmax(1)), "softmax"),
    "softmax over positions": (to_conv(lambda m, x: x.softmax(3)), "softmax"),
    "log-softmax": (to_conv(lambda m, x: x.log_softmax(1)), "log_softmax"),
    "padded with ones": (to_conv(lambda m, x: F.pad(x, (1, 0, 0, 0), value=1.0)), "shares a column"),
    "channels by an index that hangs on the data": (
        to_conv(lambda m, x: x[:, m.other(x).mean((0, 2, 3)).argsort()], other=conv()),
        "index",
    ),
    "index of the maximum": (to_linear(lambda m, x: x.flatten(2).max(2)[1].to(x), 4), "max"),
    "a bag of rows": (
        of_tokens(lambda m, x: F.embedding_bag(m.rows, x[0]), rows=torch.tensor([[0, 3]])),
        "embedding_bag",
    ),
    "weights of a bag": (
        of_tokens(
            lambda m, x: F.embedding_bag(m.rows, m.table, mode="sum", per_sample_weights=x[0, :1]),
            table=weights(9, 4),
            rows=torch.tensor([[0, 3, 5, 6]]),
        ),
        "something other than its input",
    ),
    "masked with minus infinity": (
        to_conv(lambda m, x: x.masked_fill(m.mask, -1e9), mask=noise(6, 6) > 0),
        "masked_fill",
    ),
    "chooses between signals": (to_conv(lambda m, x: torch.where(x > 0, m.other(x), 0.5), other=conv()), "where"),
    "maximum with another signal": (to_conv(lambda m, x: torch.maximum(x, m.other(x)), other=conv()), "maximum"),
    "maximum of two": (to_conv(lambda m, x: torch.max(x, m.other(x)), other=conv()), "max"),
    "minimum with another signal": (to_conv(lambda m, x: torch.minimum(x, m.other(x)), other=conv()), "minimum"),
    "upper bound": (to_conv(lambda m, x: m.other(x).clamp(max=x), other=conv()), "something other than its input"),
    "exponent": (to_conv(lambda m, x: m.other(x).abs().pow(x), other=conv()), "something other than its input"),
    "slope": (to_conv(lambda m, x: F.prelu(m.other(x), x[0, :, 0, 0]), other=conv()), "something other than its input"),
    "scale of a norm": (
        to_conv(
            lambda m, x: F.batch_norm(m.other(x), m.zero, m.one, weight=x[0, :, 0, 0]),
            other=conv(),
            zero=noise(4),
            one=noise(4) ** 2,
        ),
        "something other than its input",
    ),
    "grid": (
        to_conv(
            lambda m, x: F.grid_sample(
                x, m.other(x).permute(0, 2, 3, 1)[..., :2] * x[:, :2].permute(0, 2, 3, 1), align_corners=False
            ),
            other=conv(),
        ),
        "",
    ),
    "between two signals": (to_conv(lambda m, x: torch.lerp(x, m.other(x), 0.3), other=conv()), "lerp"),
    "gate": (to_conv(lambda m, x: F.glu(torch.cat([m.other(x), x], 1), 1), other=conv()), "gate"),
    "both inputs of a bilinear": (
        lambda: tokens(lambda m, x: m.form(x, x), form=nn.Bilinear(4, 4, 3)),
        "something other than its input",
    ),
    "second input of a bilinear": (
        lambda: tokens(lambda m, x: m.form(m.other(x), x), form=nn.Bilinear(2, 4, 3), other=nn.Linear(4, 2)),
        "something other than its input",
    ),
    "contracted with a signal": (of_tokens(lambda m, x: x @ m.mix(x).transpose(1, 2), 5, mix=nn.Linear(4, 4)), "mixed"),
    "product of two units": (of_tokens(lambda m, x: torch.einsum("btc,btd->bcd", x, x)), "multiplied by another unit"),
    "einsum over heads": (
        lambda: tokens(lambda m, x: torch.einsum("bthe,heo->bto", x.view(2, 5, 2, 2), m.w), w=weights(2, 2, 3)),
        "something other than its input",
    ),
    "diagonal by einsum": (of_tokens(lambda m, x: torch.einsum("bii->bi", x[:, :4])), "einsum"),
    "queries": (
        of_tokens(lambda m, x: F.scaled_dot_product_attention(x, m.o(x), m.o(x)), o=nn.Linear(4, 4)),
        "a query",
    ),
    "keys": (of_tokens(lambda m, x: F.scaled_dot_product_attention(m.o(x), x, m.o(x)), o=nn.Linear(4, 4)), "a key"),
    "mask of attention": (
        of_tokens(
            lambda m, x: F.scaled_dot_product_attention(m.o(x), m.o(x), m.o(x), attn_mask=x[:, :, :1]),
            o=nn.Linear(4, 4),
        ),
        "",
    ),
    "queries by hand": (of_tokens(lambda m, x: attend(x, m.o(x), m.o(x)), o=nn.Linear(4, 4)), "mixed"),
    "linear attention": (of_tokens(lambda m, x: x @ (x.transpose(1, 2) @ m.o(x)), o=nn.Linear(4, 4)), "mixed"),
    "queries of a module alone": (
        lambda: tokens(
            lambda m, x: m.part(x, m.other, m.other)[0],
            part=nn.MultiheadAttention(4, 2, batch_first=True),
            other=noise(2, 3, 4),
        ),
        "whose weight is computed",
    ),
    "recurrent layer": (lambda: tokens(lambda m, x: m.rnn(x)[0], rnn=nn.GRU(4, 3, batch_first=True)), "rnn"),
    "norm of units": (of_tokens(lambda m, x: x / x.norm(dim=2, keepdim=True).clamp_min(1e-6)), "mixed"),
    "rectified once more by another site": (to_conv(lambda m, x: F.relu(x - 0.1)), "zero"),
}


def built(build):
    torch.manual_seed(0)
    model, x = build()
    return model.double().eval(), x.double()


def site_of(model, x):
    return next((site, readers) for site, readers in examined(model, (x,)) if site.position.module == "act")


@pytest.mark.parametrize("name", FOLLOWED)
def test_every_unit_has_columns_and_they_are_all_that_reads_it(name):
    model, x = built(FOLLOWED[name])
    site, readers = site_of(model, x)
    assert readers.declined == {}
    assert set(readers.columns) == UNITS
    assert contradictions(model, (x,), site, readers, UNITS) == []


@pytest.mark.parametrize("name", DECLINED)
def test_units_that_reach_anything_else_are_declined_with_the_reason(name):
    build, reason = DECLINED[name]
    model, x = built(build)
    _, readers = site_of(model, x)
    assert all(reason in told for told in readers.declined.values()), readers.declined
    wanted = {0, 1} if name == "grid" else {0} if name == "mask of attention" else UNITS
    assert set(readers.declined) >= wanted

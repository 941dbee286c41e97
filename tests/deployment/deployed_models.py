"""Little models, each named after what makes it hard to export or to compare."""

from dataclasses import dataclass

import torch
from torch import nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.treatment.prelu import AxisPReLU


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spread_slopes(model):
    """Slopes of their own for every channel, so that a slope in the wrong place shows."""
    for module in model.modules():
        if isinstance(module, nn.PReLU | AxisPReLU):
            nn.init.uniform_(module.weight, -0.5, 0.9)
    return model


class ConvNormPRelu(nn.Module):
    """Channels on axis 1, batch norm with statistics of its own, dropout that must be off."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.PReLU(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)
        nn.init.normal_(self.norm.running_mean)
        spread_slopes(self)

    def forward(self, image):
        return self.head(self.drop(self.act(self.norm(self.conv(image))).mean((2, 3))))


class AxesOfEveryKind(nn.Module):
    """Slopes on the last axis with and without a ceiling, on a middle axis, shared, and plain PReLU called twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(8, 6)
        self.last = AxisPReLU(6, axis=-1)
        self.capped = AxisPReLU(6, axis=-1, ceiling=0.75)
        self.middle = AxisPReLU(5, axis=2)
        self.one = AxisPReLU(1)
        self.plain = nn.PReLU(3)
        spread_slopes(self)

    def forward(self, tokens):
        hidden = self.plain(self.capped(self.last(self.up(tokens))))
        return self.plain(self.one(self.middle(hidden) - 0.5))


class DictOfOutputs(nn.Module):
    """Outputs by name, one of them nested, one integer, one bool, one None; one named like the input."""

    def forward(self, x):
        return {"logits": x * 2, "best": x.argmax(-1), "x": {"positive": x > 0}, "loss": None, "rest": (x + 1, x)}


@dataclass
class Answer:
    mean: torch.Tensor
    linear: torch.Tensor


class DataclassOutput(nn.Module):
    """An unregistered dataclass, with a field that is named like the exporter's own intermediate value."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return Answer(mean=self.layer(x).mean(-1), linear=self.layer(x).relu() + 1)


class TwoInputsInPlace(nn.Module):
    """Overwrites its first input; subtraction shows when the two are swapped."""

    def forward(self, left, right):
        return left.relu_() - right


class KeywordsOnly(nn.Module):
    def forward(self, *, minuend, subtrahend):
        return minuend - subtrahend


class CountsItsCalls(nn.Module):
    """Changes a buffer and draws random numbers in every forward."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        torch.rand(1)
        return x * 2


class FrozenBatchView(nn.Module):
    """The batch size of the day it was written, in a view."""

    def forward(self, x):
        return x.reshape(3, -1).reshape(-1, x.shape[1]) + x.reshape(3, -1).mean()


class FrozenBatchBranch(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] == 1 else x * 3


class LoopsOverSamples(nn.Module):
    """The exporter refuses an open axis: the loop has as many turns as there are samples."""

    def __init__(self):
        super().__init__()
        self.act = nn.PReLU(4)

    def forward(self, x):
        return torch.stack([self.act(row[None])[0] for row in x])


class TakesThree(nn.Module):
    """The exporter refuses an open axis, and the model any other size."""

    def __init__(self):
        super().__init__()
        self.register_buffer("offsets", torch.arange(12.0).reshape(3, 4))

    def forward(self, x):
        assert x.shape[0] == 3, "three samples alone"
        return x + self.offsets


class TwosEverywhere(nn.Module):
    """Every axis has the length of the example's batch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x, y):
        rows = self.linear(x) + y.mean(1)
        return rows, rows.T, rows[:, None] * y, rows.T @ rows


class PrintsAndBranchesOnData(nn.Module):
    """The exporter refuses it, at length."""

    def forward(self, x):
        print("noise of a forward")  # noqa: T201 - what the test is about
        return x * 2 if x.sum() > 0 else x


class ReturnsAString(nn.Module):
    def forward(self, x):
        return x, "done"


IMAGES = Batch(args=(gaussian(12, 3, 6, 6),))
TOKENS = Batch(args=(gaussian(12, 3, 5, 8),))
ROWS = Batch(args=(gaussian(12, 4),))

"""Rectifiers as terms: gates, squares, differences, chains, and the other ways to write max(x, 0)."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .odd import Odd


class _Wide(Odd):
    expected_sites = [(":relu#1", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 6)
        self.down = nn.Linear(6, 2)


class ReGlu(_Wide):
    """A ReLU gate times a linear half, each a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.gate(x)) * self.up(x))


class PackedReGlu(Odd):
    """Gate and value come out of one layer and are cut apart."""

    expected_sites = [(":relu#1", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 12)
        self.down = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=1)
        return self.down(F.relu(gate) * value)


class BothHalvesRectified(PackedReGlu):
    """The product of two rectified halves: a unit of the one stands on a unit of the other."""

    expected_sites = [(":relu#1", 6), (":relu#2", 6)]

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=1)
        return self.down(F.relu(gate) * F.relu(value))


class SquaredRelu(_Wide):
    """relu(x) ** 2, as in Primer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)) ** 2)


class SquaredReluBySquare(_Wide):
    """The same by torch.square."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.square(self.up(x).relu()))


class PlusAndMinus(_Wide):
    """relu(x) - relu(-x), which is x: two sites, summed."""

    expected_sites = [(":relu#1", 6), (":relu#2", 6)]
    protected = [":relu#1", ":relu#2"]

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.down(F.relu(x) - F.relu(-x))


class ConcatenatedRelu(Odd):
    """CReLU: both signs side by side."""

    expected_sites = [(":relu#1", 6), (":relu#2", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 6)
        self.down = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.down(torch.cat([F.relu(x), F.relu(-x)], dim=1))


class ReluBehindRelu(_Wide):
    """A ReLU straight behind a ReLU: two sites with the same units."""

    expected_sites = [(":relu#1", 6), (":relu#2", 6)]

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(F.relu(self.up(x))))


class ReluBehindReluModules(Odd):
    """The same of two modules, with a pooling between them, as VGG's features end in two."""

    expected_sites = [("body.1", 5), ("body.3", 5)]
    input_shape = (3, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU())
        self.head = nn.Conv2d(5, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class ReluOnInput(Odd):
    """The input itself is rectified, and read beside that."""

    expected_sites = [(":relu#1", 4)]
    input_shape = (4,)
    axis_assumed = [":relu#1"]

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cat([F.relu(x), x], dim=1))


class ReluBehindNormOfInput(Odd):
    """Pre-activation: a norm of the input, a ReLU, a convolution."""

    expected_sites = [("act", 3)]
    input_shape = (3, 5, 5)

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(self.bn(x)))


class FunctionalOnOutput(Odd):
    """F.relu is the last operation of a regression: its units are the answer."""

    expected_sites = [(":relu#1", 5), (":relu#2", 3)]
    input_shape = (4,)
    protected = [":relu#2"]
    truth = {":relu#2": [1]}

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)
        with torch.no_grad():
            self.head.bias[1] = -100

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.head(F.relu(self.fc(x))))


class ClampByTensor(_Wide):
    """clamp(min=tensor(0.))."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("floor", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).clamp(min=self.floor))


class _WrittenOut(_Wide):
    """Computes a ReLU without calling one: nothing is counted or converted, and the user is told so."""

    expected_sites = []


class MaximumWithZeros(_WrittenOut):
    """torch.maximum(x, zeros)."""

    unresolved = {":maximum#1": "written as maximum(x, 0)"}

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.down(torch.maximum(x, torch.zeros_like(x)))


class WherePositive(_WrittenOut):
    """torch.where(x > 0, x, 0)."""

    unresolved = {":where#1": "written as where(x > 0, x, 0)"}

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.down(torch.where(x > 0, x, 0.0))


class TimesItsSign(_WrittenOut):
    """x * (x > 0)."""

    unresolved = {":mul#1": "written as x * (x > 0)"}

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.down(x * (x > 0))


class OwnAutograd(_Wide):
    """A torch.autograd.Function of the user's own, whose forward is a clamp: its gradient is no PReLU's."""

    declines = {":relu#1": "autograd.Function"}

    def forward(self, x: Tensor) -> Tensor:
        return self.down(_OwnRelu.apply(self.up(x)))


class _OwnRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x > 0)


class UnitCeiling(Odd):
    """Rectifiers that end at 1: clip and hardtanh. (Of clip, 1.0 is a ceiling; a whole 1 may be a limit of boxes.)"""

    expected_sites = [(":clamp#1", 5), (":clamp#2", 6)]
    input_shape = (4,)
    functions = {":clamp#1": "clamp", ":clamp#2": "clamp"}

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 5)
        self.fc2 = nn.Linear(5, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x).clip(0, 1.0)
        return self.head(F.hardtanh(self.fc2(x), 0, 1))


class CeilingsInPlace(Odd):
    """The in-place forms of a ReLU6."""

    expected_sites = [("act", 5), (":relu6#1", 6), (":relu6#2", 7)]
    input_shape = (4,)
    functions = {"act": "relu6", ":relu6#1": "relu6", ":relu6#2": "relu6"}

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 5)
        self.act = nn.ReLU6(inplace=True)
        self.fc2 = nn.Linear(5, 6)
        self.fc3 = nn.Linear(6, 7)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        x = F.hardtanh_(self.fc2(x), 0, 6)
        return self.head(F.relu6(self.fc3(x), inplace=True))


class HandMadeHardswish(_Wide):
    """x * relu6(x + 3) / 6: a ReLU6 gate, whose unit also stands outside of it."""

    expected_sites = [(":relu6#1", 6)]
    functions = {":relu6#1": "relu6"}

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.down(x * F.relu6(x + 3) / 6)


class RandomLeakyRelu(_Wide):
    """F.rrelu in eval mode is a leaky ReLU with the middle of its slopes, and is left alone as one."""

    expected_sites = [(":rrelu#1", 6)]
    functions = {":rrelu#1": "rrelu"}
    declines = {":rrelu#1": "rrelu has a negative side"}

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.rrelu(self.up(x), training=self.training))

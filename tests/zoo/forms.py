"""The ways to write a rectifier: in place, as a method, as a clamp, with a ceiling, with a slope."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .odd import Odd


class InplaceReluOnInput(Odd):
    """An in-place ReLU overwrites the caller's own input; nothing produced it, so the axis is assumed."""

    expected_sites = [("act", 3)]
    input_shape = (3, 4, 4)
    axis_assumed = ["act"]

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(x))


class InplaceFunctional(Odd):
    """Three in-place spellings: F.relu_, the method, and the flag."""

    expected_sites = [(":relu#1", 4), (":relu#2", 5), (":relu#3", 6)]
    input_shape = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 4)
        self.fc2 = nn.Linear(4, 5)
        self.fc3 = nn.Linear(5, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.fc1(x))
        x = self.fc2(x).relu_()
        x = F.relu(self.fc3(x), inplace=True)
        return self.head(x)


class ClampMinZero(Odd):
    """clamp(min=0) and clamp_min(0) are ReLUs; a clamp to -1..1 is none."""

    expected_sites = [(":relu#1", 4), (":relu#2", 5), (":relu#3", 6)]
    input_shape = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 4)
        self.fc2 = nn.Linear(4, 5)
        self.fc3 = nn.Linear(5, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x).clamp(min=0)
        x = torch.clamp(self.fc2(x), 0)
        x = self.fc3(x).clamp_min(0)
        return self.head(x).clamp(-1, 1)


class ThresholdForm(Odd):
    """threshold(0, 0) is a ReLU, as a module and as a function; threshold(0.5, 0) is none."""

    expected_sites = [("act", 4), (":relu#1", 5)]
    input_shape = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 4)
        self.act = nn.Threshold(0, 0)
        self.fc2 = nn.Linear(4, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        x = F.threshold(self.fc2(x), 0, 0)
        return F.threshold(self.head(x), 0.5, 0)


class Relu6Net(Odd):
    """Four spellings of a ReLU with the ceiling 6."""

    expected_sites = [("act", 4), (":relu6#1", 5), (":relu6#2", 6), (":relu6#3", 7)]
    input_shape = (3,)
    functions = {"act": "relu6", ":relu6#1": "relu6", ":relu6#2": "relu6", ":relu6#3": "relu6"}

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU6()
        self.fc1 = nn.Linear(3, 4)
        self.fc2 = nn.Linear(4, 5)
        self.fc3 = nn.Linear(5, 6)
        self.fc4 = nn.Linear(6, 7)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        x = F.relu6(self.fc2(x))
        x = F.hardtanh(self.fc3(x), 0.0, 6.0)
        x = self.fc4(x).clamp(0, 6)
        return self.head(x)


class LeakyNet(Odd):
    """LeakyReLU as a module and as a function: scanned, but its units cannot be dead at these slopes."""

    expected_sites = [("act", 4), (":leaky_relu#1", 5)]
    input_shape = (3,)
    functions = {"act": "leaky_relu", ":leaky_relu#1": "leaky_relu"}
    declines = {"act": "leaky_relu has a negative side", ":leaky_relu#1": "leaky_relu has a negative side"}

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 4)
        self.act = nn.LeakyReLU(0.1)
        self.fc2 = nn.Linear(4, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        return self.head(F.leaky_relu(self.fc2(x), 0.2))


class PReluNet(Odd):
    """A PReLU with two silent units: unit 2 has slope 0 and is dead, unit 4 has slope 0.25 and is never-positive."""

    expected_sites = [("act", 6)]
    input_shape = (3, 5, 5)
    functions = {"act": "prelu"}
    truth = {"act": [2]}
    declines = {"act": "prelu has a negative side"}

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.act = nn.PReLU(6)
        self.head = nn.Linear(6, 2)
        with torch.no_grad():
            self.conv.bias[[2, 4]] = -100
            self.act.weight[2] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)).mean((2, 3)))

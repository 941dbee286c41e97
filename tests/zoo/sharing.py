"""One module called often, one call made often: what is one site and what is two."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .odd import Odd


class SharedReluTwoWidths(Odd):
    """One nn.ReLU behind two convolutions of different widths."""

    expected_sites = [("act#1", 4), ("act#2", 6)]
    input_shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.conv2 = nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv1(x))
        x = self.act(self.conv2(x))
        return self.head(x.mean((2, 3)))


class HelperCalledTwice(Odd):
    """A method holds the F.relu and is called for two convolutions: one line of code, two sites."""

    expected_sites = [(":relu#1", 4), (":relu#2", 6)]
    input_shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.conv2 = nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self._rectified(self.conv1, x)
        x = self._rectified(self.conv2, x)
        return self.head(x.mean((2, 3)))

    def _rectified(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        return F.relu(conv(x))


class ReluInHelperFunction(Odd):
    """The F.relu stands in a plain function of the module's file."""

    expected_sites = [(":relu#1", 5), ("block:relu#1", 7)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 5)
        self.block = _LinearWithHelper(5, 7)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(_rectified(self.fc1(x))))


class _LinearWithHelper(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        return _rectified(self.fc(x))


def _rectified(x: Tensor) -> Tensor:
    return F.relu(x)


class SiameseEncoder(Odd):
    """One encoder run on two inputs: its ReLU is called twice, its producers are the same, so it is one site."""

    expected_sites = [("encoder.act", 6)]
    input_shapes = ((5,), (5,))
    merged_calls = {"encoder.act": 2}

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential()
        self.encoder.add_module("fc", nn.Linear(5, 6))
        self.encoder.add_module("act", nn.ReLU())
        self.head = nn.Linear(6, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.encoder(left)) - self.head(self.encoder(right))


class TimeLoop(Odd):
    """F.relu behind the same Linear at each of five time steps: five calls, one site."""

    expected_sites = [(":relu#1", 6)]
    input_shape = (5, 3)
    merged_calls = {":relu#1": 5}

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(3 + 6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 6)
        for step in range(x.shape[1]):
            state = F.relu(self.cell(torch.cat([x[:, step], state], dim=1)))
        return self.head(state)


class SharedReluTwoParents(Odd):
    """One ReLU instance registered in two parents: `named_modules` knows it under the first path alone."""

    expected_sites = [("a.act", 4), ("b.act", 6)]
    input_shape = (3,)

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.a = _LinearThenGivenAct(3, 4, act)
        self.b = _LinearThenGivenAct(4, 6, act)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x)))


class _LinearThenGivenAct(nn.Module):
    def __init__(self, width_in: int, width_out: int, act: nn.Module) -> None:
        super().__init__()
        self.fc = nn.Linear(width_in, width_out)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))


class TiedLinear(Odd):
    """The weight that reads the units reads the raw input too: zeroing its columns would move the output."""

    expected_sites = [(":relu#1", 5)]
    input_shape = (5,)
    protected = [":relu#1"]

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 5)
        self.tied = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(F.relu(self.fc(x))) + self.tied(x)

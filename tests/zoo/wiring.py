"""Where a unit comes from and who reads it: concatenation, groups, gates, sums, norms."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .odd import Odd


class DenseConcat(Odd):
    """The ReLU reads two convolutions side by side: the first four units are one's, the last six the other's."""

    expected_sites = [("act", 10)]
    input_shape = (3, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(3, 6, 1)
        self.act = nn.ReLU()
        self.head = nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(torch.cat([self.a(x), self.b(x)], dim=1)))


class GroupedConv(Odd):
    """Grouped producer and grouped consumer: a unit is read by the filters of its own group alone."""

    expected_sites = [("act1", 8), ("act2", 6)]
    input_shape = (4, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, groups=4)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 6, 3, groups=2)
        self.act2 = nn.ReLU()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.conv1(x))
        x = self.act2(self.conv2(x))
        return self.head(x.mean((2, 3)))


class DepthwiseNet(Odd):
    """One filter a channel: its fan-in is the kernel alone."""

    expected_sites = [("act1", 5), ("act2", 5)]
    input_shape = (3, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 5, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(5)
        self.act1 = nn.ReLU(inplace=True)
        self.depthwise = nn.Conv2d(5, 5, 3, groups=5, bias=False)
        self.bn2 = nn.BatchNorm2d(5)
        self.act2 = nn.ReLU(inplace=True)
        self.project = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.expand(x)))
        x = self.act2(self.bn2(self.depthwise(x)))
        return self.project(x)


class SqueezeExcite(Odd):
    """The units are multiplied by a gate that was computed from them; the product keeps zero at zero."""

    expected_sites = [("act", 8), ("gate.act", 3)]
    input_shape = (3, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.act = nn.ReLU()
        self.gate = _Gate(8, 3)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        return self.head(x * self.gate(x))


class _Gate(nn.Module):
    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.act = nn.ReLU()
        self.excite = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(x, 1)
        return torch.sigmoid(self.excite(self.act(self.squeeze(x))))


class ResidualBlock(Odd):
    """The stem's units live on in an identity shortcut, so that they must not be isolated; the inner ones may be."""

    expected_sites = [("stem_act", 4), ("relu#1", 6), ("relu#2", 4)]
    input_shape = (3, 5, 5)
    protected = ["stem_act"]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stem_act = nn.ReLU()
        self.conv1 = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_act(self.stem(x))
        inner = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(inner)) + x)
        return self.head(x.mean((2, 3)))


class NormBehindRelu(Odd):
    """ReLU, norm, convolution: the norm turns a silent unit into a constant that is not 0."""

    expected_sites = [("act", 4)]
    input_shape = (3, 7, 7)
    protected = ["act"]

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.act = nn.ReLU()
        self.bn = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 2, 3)
        with torch.no_grad():
            self.bn.bias.fill_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.bn(self.act(self.conv1(x))))


class ReluOnOutput(Odd):
    """The ReLU is the last operation: its units are the model's output and nobody's input."""

    expected_sites = [("act", 4)]
    input_shape = (3,)
    protected = ["act"]

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))

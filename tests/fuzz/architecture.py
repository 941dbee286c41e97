"""The net whose weights are in most seed files, and what a plain reading of its weights says of its units."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (3, 6, 6)


class Net(nn.Module):
    """Two sites: a module call behind a batch norm and a functional one behind a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.fc1 = nn.Linear(64, 6)
        self.fc2 = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def build() -> Net:
    """For `--arch`."""
    return Net()


def planted() -> Net:
    """With dead units: channel 1 of the convolution, and units 0 and 3 of the linear layer."""
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        net.bn.bias[1] = -50
        net.fc1.bias[0] = net.fc1.bias[3] = -100
    return net


def firing_rates(state: dict[str, Tensor], x: Tensor) -> list[list[float]]:
    """Share of samples on which each unit is positive at one position at least, layer by layer from the weights."""
    w = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    first = F.conv2d(x, w["conv.weight"], w["conv.bias"])
    first = F.batch_norm(first, w["bn.running_mean"], w["bn.running_var"], w["bn.weight"], w["bn.bias"])
    second = F.linear(first.relu().flatten(1), w["fc1.weight"], w["fc1.bias"])
    return [(first > 0).flatten(2).any(2).double().mean(0).tolist(), (second > 0).double().mean(0).tolist()]

"""The model whose dead units were planted: three calls, two of them of one module, one functional."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .odd import Odd


class PlantedModel(Odd):
    """Dead by a norm's shift, by a convolution's bias and by a linear bias; a hook on modules sees one site of three.

    The weights are the same at every construction. `truth` is complete for the convolutions; fc1 may have more.
    """

    expected_sites = [("relu#1", 8), ("relu#2", 8), (":relu#1", 16)]
    input_shape = (3, 8, 8)
    truth = {"relu#1": [0, 1], "relu#2": [3], ":relu#1": [0, 1, 2, 3]}

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(8)
            self.relu = nn.ReLU()
            self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
            self.fc1 = nn.Linear(512, 16)
            self.fc2 = nn.Linear(16, 10)
        with torch.no_grad():
            self.bn1.bias[:2] = -50
            self.conv2.bias[3] = -100
            self.fc1.bias[:4] = -100

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.conv2(x))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)

"""Units that are not on axis 1, and batches that are not on axis 0."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .odd import Odd


class LastAxisTransformerFeedForward(Odd):
    """Linear, ReLU, Linear on [N, T, C]: axis 1 is time."""

    expected_sites = [("act", 12)]
    input_shape = (5, 6)
    unit_axes = {"act": 2}

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 12)
        self.act = nn.ReLU()
        self.down = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(x)))


class FlattenedTokens(Odd):
    """Batch and time are one axis at the ReLU: its rows are folded back to samples."""

    expected_sites = [(":relu#1", 7)]
    input_shape = (5, 6)

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 7)
        self.down = nn.Linear(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        return self.down(F.relu(self.up(rows))).view(x.shape)


class SequenceFirst(Odd):
    """[T, N, C] inside: the batch is axis 1, and there are five steps on axis 0 whatever the batch."""

    expected_sites = [(":relu#1", 7)]
    input_shape = (5, 6)
    unit_axes = {":relu#1": 2}

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 7)
        self.down = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.transpose(0, 1)
        return self.down(F.relu(self.up(steps))).mean(0)


class ChannelsLastConv(Odd):
    """A permute to [N, H, W, C] stands between the convolution and its ReLU."""

    expected_sites = [("act", 4)]
    input_shape = (3, 6, 8)
    unit_axes = {"act": 3}

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv1(x).permute(0, 2, 3, 1))
        return self.conv2(x.permute(0, 3, 1, 2))

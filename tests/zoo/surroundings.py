"""What stands round the sites: inputs, outputs, modes, modules that nobody calls."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .odd import Odd


class UnusedRelu(Odd):
    """An nn.ReLU is registered and never called; the call is an F.relu."""

    expected_sites = [(":relu#1", 5)]
    input_shape = (3,)
    uncalled = ["act"]

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)
        self.act = nn.ReLU()
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(x)))


class InputIndependentBias(Odd):
    """An MLP over constant positions makes a bias: the input reaches its ReLU never, its dead units are certain."""

    expected_sites = [("position.act", 8), (":relu#1", 6)]
    input_shape = (9, 4)
    unit_axes = {"position.act": 2, ":relu#1": 2}
    input_independent = ["position.act"]

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.position = _PositionBias(9, 8, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.position()
        return self.head(F.relu(self.fc(x) + bias))


class _PositionBias(nn.Module):
    """`[1, positions, 1]` to `[1, positions, width]`."""

    positions: Tensor

    def __init__(self, positions: int, hidden: int, width: int) -> None:
        super().__init__()
        self.register_buffer("positions", torch.linspace(-1, 1, positions).view(1, positions, 1))
        self.up = nn.Linear(1, hidden)
        self.act = nn.ReLU()
        self.down = nn.Linear(hidden, width)

    def forward(self) -> Tensor:
        return self.down(self.act(self.up(self.positions)))


class TwoInputs(Odd):
    """A vector and an image, each with a branch of its own, joined before the last ReLU."""

    expected_sites = [("vector_act", 5), ("image_act", 4), (":relu#1", 6)]
    input_shapes = ((3,), (1, 7, 7))

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)
        self.vector_act = nn.ReLU()
        self.conv = nn.Conv2d(1, 4, 3)
        self.image_act = nn.ReLU()
        self.join = nn.Linear(9, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, vector: Tensor, image: Tensor) -> Tensor:
        vector = self.vector_act(self.fc(vector))
        image = self.image_act(self.conv(image)).mean((2, 3))
        return self.head(F.relu(self.join(torch.cat([vector, image], dim=1))))


class DictOutput(Odd):
    """The output is a dict, and one of its values is the units themselves."""

    expected_sites = [("act", 5)]
    input_shape = (3,)
    protected = ["act"]

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)
        self.act = nn.ReLU()
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.act(self.fc(x))
        return {"features": features, "logits": self.head(features)}


class TrainingBranch(Odd):
    """Another call in train mode than in eval mode: a traced copy freezes one of them."""

    expected_sites = [(":relu#1", 5), ("act", 6)]
    input_shape = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 5)
        self.fc2 = nn.Linear(5, 6)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
            x = F.relu(x) * 2
        else:
            x = F.relu(x)
        return self.head(self.act(self.fc2(x)))


class DropoutFunctional(Odd):
    """F.dropout reads self.training in the very forward whose F.relu is to be replaced."""

    expected_sites = [(":relu#1", 8)]
    input_shape = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc(x))
        x = F.dropout(x, p=0.5, training=self.training)
        return self.head(x)

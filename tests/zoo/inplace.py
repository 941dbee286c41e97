"""In-place rectifiers on what somebody else still holds: the input, a view, a value that is read again."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .odd import Odd


class _Net(Odd):
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.mid = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)


class InplaceReadAgain(_Net):
    """A shortcut round a layer reads what nn.ReLU(inplace=True) has overwritten."""

    expected_sites = [("act", 6)]
    protected = ["act"]

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.head(self.mid(self.act(x)) + x)


class InplaceFunctionReadAgain(_Net):
    """The same with F.relu_, whose input is a name that the forward goes on using."""

    expected_sites = [(":relu#1", 6)]
    protected = [":relu#1"]

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.head(self.mid(F.relu_(x)) + x)


class InplaceReturnIgnored(_Net):
    """F.relu(x, inplace=True) as a statement."""

    expected_sites = [(":relu#1", 6)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        F.relu(x, inplace=True)
        return self.head(x)


class InplaceOnView(_Net):
    """A view is overwritten, and what it is a view of is read."""

    expected_sites = [(":relu#1", 3)]
    axis_assumed = [":relu#1"]
    protected = [":relu#1"]

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        F.relu_(x.view(-1, 3))
        return self.head(x)


class InplaceOnHalf(_Net):
    """The first half of the channels is overwritten, the second left linear."""

    expected_sites = [(":relu#1", 3)]
    protected = [":relu#1"]

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        x[:, :3].relu_()
        return self.head(x)


class InplaceOnInputReadAgain(Odd):
    """The caller's own input is overwritten, and read again behind that."""

    expected_sites = [(":relu#1", 6)]
    input_shape = (6,)
    axis_assumed = [":relu#1"]
    protected = [":relu#1"]

    def __init__(self) -> None:
        super().__init__()
        self.mid = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mid(F.relu_(x)) + x)


class InplaceThenOverwritten(_Net):
    """The activation's output is overwritten by another in-place operation."""

    expected_sites = [(":relu#1", 6)]
    protected = [":relu#1"]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.fc(x))
        x.add_(1).mul_(2)
        return self.head(x)


class InplaceOnBatchRows(_Net):
    """Of the batch only the even samples are rectified, through a view."""

    expected_sites = [(":relu#1", 6)]
    by_batch = True
    protected = [":relu#1"]

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        torch.relu_(x[::2])
        return self.head(x)

"""Forwards that look before they run: at modes, at shapes, at data, at what they kept from the last run."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .odd import Odd

HUGE = 1e6
"""No input of the tests comes near it."""


class _TwoSites(Odd):
    expected_sites = [(":relu#1", 5), ("act", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 5)
        self.fc2 = nn.Linear(5, 6)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 2)


class AuxiliaryHeadInTraining(_TwoSites):
    """A head with a ReLU of its own that runs in train mode only, as GoogLeNet's do."""

    uncalled = ["aux_act"]

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(5, 2)
        self.aux_act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.fc1(x))
        aux = self.aux_act(self.aux(F.relu(x - 1))) if self.training else None
        x = self.head(self.act(self.fc2(x)))
        return x if aux is None else (x, aux)


class ShapeBranch(_TwoSites):
    """Another way for long inputs than for short ones."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if x.shape[0] > 1000:
            x = torch.tanh(x)
        x = F.relu(x)
        return self.head(self.act(self.fc2(x)))


class ShapeAssertion(_TwoSites):
    """An assertion and an error message about the input's shape."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 4, f"4 features, not {x.shape[-1]}"
        if x.dim() != 2:
            raise ValueError(f"rank 2, not {x.dim()}")
        return self.head(self.act(self.fc2(F.relu(self.fc1(x)))))


class DataBranch(_TwoSites):
    """Asks the data, which always answer the same here."""

    protected = [":relu#1"]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x))
        if bool(x.max() > HUGE):
            x = x / x.max()
        return self.head(self.act(self.fc2(x)))


class DataBranchWithRelu(Odd):
    """A ReLU that runs for some batches only: for those whose first number is large, as at first in the tests."""

    expected_sites = [(":relu#1", 5), (":relu#2", 6)]
    input_shape = (4,)
    by_batch = True

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 5)
        self.fc2 = nn.Linear(5, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        large = bool(x[0, 0].abs() > 0.5)
        x = self.fc2(F.relu(self.fc1(x)))
        return self.head(F.relu(x) if large else torch.tanh(x))


class ScalesByItem(_TwoSites):
    """A Python number out of a tensor: `.item()` on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x)) * self.scale.item()
        return self.head(self.act(self.fc2(x)))


class NoGradPart(_TwoSites):
    """A frozen part under torch.no_grad(): after conversion it must stay frozen."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = F.relu(self.fc1(x))
        return self.head(self.act(self.fc2(x)))


class MakesTensors(_TwoSites):
    """Tensors made within the forward, as large as the input says."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x) + torch.arange(5) / len(x.shape))
        mask = torch.ones(len(x), 1)
        return self.head(self.act(self.fc2(x * mask)))


class DrawsNumbers(_TwoSites):
    """Noise in eval mode too, on a way that no ReLU reads."""

    protected = ["act"]

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc2(F.relu(self.fc1(x))))
        return self.head(x + 0.1 * torch.randn_like(x))


class CountsItsRuns(_TwoSites):
    """Keeps a number from run to run."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.head(self.act(self.fc2(F.relu(self.fc1(x)))))


class CountsInABuffer(_TwoSites):
    """Keeps a number from run to run, in a buffer that it adds to."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.head(self.act(self.fc2(F.relu(self.fc1(x)))))


class KeepsItsFeatures(_TwoSites):
    """Leaves the activations of the last run on itself, for whoever wants to look."""

    def __init__(self) -> None:
        super().__init__()
        self.features: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.features = F.relu(self.fc1(x))
        return self.head(self.act(self.fc2(self.features)))


class OptionalMask(Odd):
    """An input that nobody gives, and a branch for it."""

    expected_sites = [(":relu#1", 5), (":relu#2", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 5)
        self.fc2 = nn.Linear(5, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        x = F.relu(self.fc1(x))
        if mask is not None:
            x = x * mask
        return self.head(F.relu(self.fc2(x)) * scale)

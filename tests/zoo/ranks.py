"""Tensors of every rank and of every kind of number."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .odd import Odd


class RankZero(Odd):
    """A single number is rectified beside the units: it has no units, and is listed."""

    expected_sites = [(":relu#1", 5)]
    input_shape = (4,)
    unresolved = {":relu#2": "no units"}

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc(x))
        return self.head(x) * F.relu(self.gain)


class RankOne(Odd):
    """One number a sample, squeezed: no axis of units."""

    expected_sites = [(":relu#1", 5)]
    input_shape = (4,)
    unresolved = {":relu#2": "one number a sample"}

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.score = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc(x))
        return F.relu(self.score(x).squeeze(1))


class ReluOfParameter(Odd):
    """A vector of weights is kept positive by a ReLU: the input does not reach it."""

    expected_sites = [(":relu#1", 5), (":relu#2", 3)]
    input_shape = (4,)
    unit_axes = {":relu#2": 0}
    axis_assumed = [":relu#2"]
    input_independent = [":relu#2"]
    protected = [":relu#2"]

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)
        self.gain = nn.Parameter(torch.tensor([0.5, -0.5, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(x))) * F.relu(self.gain)


class RankThreeConv(Odd):
    """Audio: [N, C, L]."""

    expected_sites = [("act", 5)]
    input_shape = (3, 9)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 5, 3, stride=2)
        self.act = nn.ReLU()
        self.head = nn.Conv1d(5, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)))


class RankFiveConv(Odd):
    """Volumes: [N, C, D, H, W], with a transposed convolution behind."""

    expected_sites = [("act1", 5), ("act2", 6)]
    input_shape = (2, 4, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 5, 3)
        self.act1 = nn.ReLU()
        self.up = nn.ConvTranspose3d(5, 6, 2, stride=2)
        self.act2 = nn.ReLU()
        self.head = nn.Conv3d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.up(self.act1(self.conv(x)))))


class RankFiveTokens(Odd):
    """Windows of windows of tokens: [N, 2, 3, 4, C], the units last."""

    expected_sites = [(":relu#1", 7)]
    input_shape = (2, 3, 4, 5)
    unit_axes = {":relu#1": 4}

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(5, 7)
        self.down = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(x)))


class Integers(Odd):
    """Token ids are kept from falling below 0 by a ReLU; integers have no gradient, and nothing is dead."""

    expected_sites = [(":relu#2", 6)]
    input_shape = (3,)
    unit_axes = {":relu#2": 2}
    unresolved = {":relu#1": "int64"}

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 4)
        self.fc = nn.Linear(4, 6)
        self.head = nn.Linear(6, 2)

    @classmethod
    def inputs(cls, samples: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return (torch.randint(-5, 20, (samples, *cls.input_shape), generator=generator),)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(self.embed(F.relu(tokens.clamp(max=19))))))


class EmptyPart(Odd):
    """No sample reaches one of the ReLUs, as where a detector has found no box: what reads the units cannot be told."""

    expected_sites = [(":relu#1", 5)]
    input_shape = (4,)
    unresolved = {":relu#2": "empty batch"}
    protected = [":relu#1"]

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.boxes = nn.Linear(5, 7)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc(x))
        boxes = F.relu(self.boxes(x[:0]))
        return self.head(x) + boxes.sum()


class DoublePrecision(Odd):
    """float64 all through."""

    expected_sites = [("act", 5)]
    input_shape = (4,)
    dtype = torch.float64

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.act = nn.ReLU()
        self.head = nn.Linear(5, 2)
        self.to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(x)))


class BrainHalf(Odd):
    """bfloat16 weights and inputs; one site a module, one a function."""

    expected_sites = [("act", 5), (":relu#1", 6)]
    input_shape = (4,)
    dtype = torch.bfloat16

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 5)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(5, 6)
        self.head = nn.Linear(6, 2)
        self.to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc2(self.act(self.fc1(x)))))


class Half(BrainHalf):
    """The same in float16."""

    dtype = torch.float16


class MixedPrecision(Odd):
    """Half of the model is bfloat16, half of it float32: a slope has the type of what it multiplies."""

    expected_sites = [(":relu#1", 5), (":relu#2", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 5).bfloat16()
        self.fc2 = nn.Linear(5, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x.bfloat16()))
        return self.head(F.relu(self.fc2(x.float())))


class Autocast(Odd):
    """float32 weights; the forward runs its layers in bfloat16 under autocast, its head in float32."""

    expected_sites = [(":relu#1", 5), ("act", 6)]
    input_shape = (4,)
    protected = [":relu#1"]

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 5)
        self.fc2 = nn.Linear(5, 6)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = F.relu(self.fc1(x))
            x = self.act(self.fc2(x))
        return self.head(x.float())


class AutocastDecorator(Autocast):
    """The same with autocast as a decorator of the whole forward."""

    protected = [":relu#1", "act"]

    @torch.autocast("cpu", dtype=torch.bfloat16)
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x))
        x = self.act(self.fc2(x))
        return self.head(x).float()

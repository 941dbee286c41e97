"""What a site may lie inside of: wrappers, compilers, scripts, recomputation, parents that share it."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import copy
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from .odd import Odd


class _Block(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x))


class ReluInTwoSequentials(Odd):
    """One nn.ReLU instance stands in two nn.Sequentials."""

    expected_sites = [("a.1", 5), ("b.1", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.a = nn.Sequential(nn.Linear(4, 5), act)
        self.b = nn.Sequential(nn.Linear(5, 6), act)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x)))


class ReluTwiceInSequential(Odd):
    """One nn.ReLU instance stands twice in the same nn.Sequential."""

    expected_sites = [("body.1#1", 5), ("body.1#2", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.body = nn.Sequential(nn.Linear(4, 5), act, nn.Linear(5, 6), act, nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class InsideDataParallel(Odd):
    """An nn.DataParallel round a block: on a CPU it passes everything on."""

    expected_sites = [("parallel.module:relu#1", 5), ("act", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.parallel = nn.DataParallel(_Block(4, 5))
        self.fc = nn.Linear(5, 6)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(self.parallel(x))))


class InsideCheckpoint(Odd):
    """Activation checkpointing: in training a forward runs again on the way back; a mere method does so on its own."""

    expected_sites = [("block:relu#1", 5), ("body.1", 6), (":relu#1", 7)]
    input_shape = (4,)
    declines = {":relu#1": "under checkpoint"}

    def __init__(self) -> None:
        super().__init__()
        self.block = _Block(4, 5)
        self.body = nn.Sequential(nn.Linear(5, 6), nn.ReLU())
        self.fc = nn.Linear(6, 7)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.block, x, use_reentrant=False)
        x = checkpoint_sequential(self.body, 1, x, use_reentrant=False)
        x = checkpoint(self._last, x, use_reentrant=False)
        return self.head(x)

    def _last(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x))


class InsideCompiled(Odd):
    """A compiled block: what runs inside is seen, and named as if it were not compiled."""

    expected_sites = [("block._orig_mod:relu#1", 5), ("act", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.block = torch.compile(_Block(4, 5), backend="eager")
        self.fc = nn.Linear(5, 6)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(self.block(x))))

    def in_plain_python(self) -> nn.Module:
        plain = copy.deepcopy(self)
        plain.block = _PassesOn(plain.block._orig_mod)
        return plain


class _PassesOn(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._orig_mod = inner

    def forward(self, x: Tensor) -> Tensor:
        return self._orig_mod(x)


class CompiledInPlace(Odd):
    """`block.compile()`: the same class, compiled from within."""

    expected_sites = [("block:relu#1", 5), ("act", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.block = _Block(4, 5)
        self.block.compile(backend="eager")
        self.fc = nn.Linear(5, 6)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(self.block(x))))

    def in_plain_python(self) -> nn.Module:
        return copy.deepcopy(self)  # a copy is no longer compiled


class InsideScript(Odd):
    """A scripted block: its ReLU is seen and counted, but there is no Python to rewrite."""

    expected_sites = [("block:relu#1", 5), ("act", 6)]
    input_shape = (4,)
    declines = {"block:relu#1": "TorchScript"}

    def __init__(self) -> None:
        super().__init__()
        self.plain = [_Block(4, 5)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.block = self._compiled(self.plain[0])
        self.fc = nn.Linear(5, 6)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 2)

    @staticmethod
    def _compiled(block: nn.Module) -> nn.Module:
        return torch.jit.script(block)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(self.block(x))))

    def in_plain_python(self) -> nn.Module:
        plain = copy.deepcopy(self)
        plain.block = _Block(4, 5)
        plain.block.load_state_dict(self.block.state_dict())
        return plain


class InsideTrace(InsideScript):
    """The same of a block that was traced by torch.jit.trace."""

    @staticmethod
    def _compiled(block: nn.Module) -> nn.Module:
        return torch.jit.trace(block, torch.zeros(2, 4))


class InsideGraphModule(Odd):
    """A block that torch.fx has traced before, as feature extractors do."""

    expected_sites = [("body:relu#1", 5), ("body.act", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.body = fx.symbolic_trace(_TwoRelus())
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class _TwoRelus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 5)
        self.fc2 = nn.Linear(5, 6)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc2(F.relu(self.fc1(x))))


class InsideTransformer(Odd):
    """nn.TransformerEncoder: its fused fast path in eval mode hides the ReLUs."""

    expected_sites = [("encoder.layers.0:relu#1", 10), ("encoder.layers.1:relu#1", 10)]
    input_shape = (5, 8)
    unit_axes = {"encoder.layers.0:relu#1": 2, "encoder.layers.1:relu#1": 2}

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 10, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[:, 0])

"""Forwards that loop, recurse and unroll: how many calls there are is known when they run."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .odd import Odd


class ModuleListLoop(Odd):
    """One F.relu in a loop over a ModuleList: one line of code, three sites."""

    expected_sites = [(":relu#1", 5), (":relu#2", 6), (":relu#3", 7)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 7)])
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x)


class ModuleDictLoop(Odd):
    """A ModuleDict of branches, each with an activation module of its own."""

    expected_sites = [("branches.left.act", 5), ("branches.right.act", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"left": _Rectified(4, 5), "right": _Rectified(4, 6)})
        self.head = nn.Linear(11, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([branch(x) for branch in self.branches.values()], dim=1))


class _Rectified(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width_in, width_out)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))


class ReluInComprehension(Odd):
    """F.relu inside a list comprehension."""

    expected_sites = [(":relu#1", 3), (":relu#2", 5)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 5)])
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([F.relu(branch(x)) for branch in self.branches], dim=1))


class ReluInGenerator(Odd):
    """F.relu inside a generator method, run only while somebody sums it up."""

    expected_sites = [(":relu#1", 5), (":relu#2", 5)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(4, 5), nn.Linear(4, 5)])
        self.heads = nn.ModuleList([nn.Linear(5, 2), nn.Linear(5, 2)])

    def forward(self, x: Tensor) -> Tensor:
        return sum(self._votes(x), start=torch.zeros(()))

    def _votes(self, x: Tensor) -> Iterator[Tensor]:
        for branch, head in zip(self.branches, self.heads, strict=True):
            yield head(F.relu(branch(x)))


class TimeLoopOfTwoLayers(Odd):
    """Two recurrent layers in one loop: the calls of the two sites alternate."""

    expected_sites = [(":relu#1", 6), (":relu#2", 7)]
    input_shape = (3, 4)
    merged_calls = {":relu#1": 3, ":relu#2": 3}
    call_order = [":relu#1", ":relu#2"] * 3

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.Linear(4 + 6, 6)
        self.upper = nn.Linear(6 + 7, 7)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        low, high = x.new_zeros(len(x), 6), x.new_zeros(len(x), 7)
        for step in x.unbind(1):
            low = F.relu(self.lower(torch.cat([step, low], dim=1)))
            high = F.relu(self.upper(torch.cat([low, high], dim=1)))
        return self.head(high)


class TimeLoopOverCell(Odd):
    """The loop is the parent's, the F.relu the cell's."""

    expected_sites = [("cell:relu#1", 6)]
    input_shape = (3, 4)
    merged_calls = {"cell:relu#1": 3}

    def __init__(self) -> None:
        super().__init__()
        self.cell = _Cell(4, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state)


class _Cell(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width + hidden, hidden)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return F.relu(self.fc(torch.cat([x, state], dim=1)))


class LoopOverShape(Odd):
    """As many steps as the input is long, by `range`; another length is another number of calls."""

    expected_sites = [(":relu#1", 6), (":relu#4", 7)]
    input_shape = (3, 4)
    merged_calls = {":relu#1": 3}

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.last = nn.Linear(6, 7)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.stack([F.relu(self.fc(x[:, step])) for step in range(x.shape[1])], 1).sum(1)
        return self.head(F.relu(self.last(total)))


class LoopUntilDataSays(Odd):
    """As many steps as the longest sample of the batch asks for: two here, whoever is in the batch."""

    expected_sites = [(":relu#1", 4)]
    input_shape = (4,)
    merged_calls = {":relu#1": 2}
    protected = [":relu#1"]

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        steps = int(x.isfinite().sum(1).max()) // 2
        for _ in range(steps):
            x = F.relu(self.fc(x - 1))
        return self.head(x)


class LoopUntilSettled(Odd):
    """A `while` that asks the activations themselves whether to go on."""

    expected_sites = [(":relu#1", 4)]
    input_shape = (4,)
    merged_calls = {":relu#1": 3}
    protected = [":relu#1"]

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        steps = 0
        while steps < 3 and bool(x.abs().max() < 1e6):
            x = F.relu(self.fc(x - 1))
            steps += 1
        return self.head(x)


class TreeRecursion(Odd):
    """A tree net: the method calls itself on both halves of the sequence and joins them."""

    expected_sites = [(":relu#1", 6)]
    input_shape = (4, 6)
    merged_calls = {":relu#1": 3}
    protected = [":relu#1"]

    def __init__(self) -> None:
        super().__init__()
        self.join = nn.Linear(12, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._folded(x))

    def _folded(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            return x[:, 0]
        half = x.shape[1] // 2
        left, right = self._folded(x[:, :half]), self._folded(x[:, half:])
        return F.relu(self.join(torch.cat([left, right], dim=1)))


class BlockCalledTwice(Odd):
    """One block behind itself: the same weights, two inputs, one site."""

    expected_sites = [("block.act", 5), (":relu#1", 6)]
    input_shape = (4,)
    merged_calls = {"block.act": 2}
    protected = ["block.act"]

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 5)
        self.block = _Rectified(5, 5)
        self.last = nn.Linear(5, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.last(self.block(self.block(self.up(x))))))


class RnnRelu(Odd):
    """nn.RNN with ReLUs: one fused operation to Python, four calls of one site inside."""

    expected_sites = [("rnn:relu#1", 6)]
    input_shape = (4, 3)
    merged_calls = {"rnn:relu#1": 4}

    options: dict[str, object] = {}
    unit_axes = {"rnn:relu#1": 2}

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 6, nonlinearity="relu", batch_first=True, **self.options)
        self.head = nn.Linear(6 * (1 + self.rnn.bidirectional), 2)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(x)
        return self.head(states[:, -1])

    def in_plain_python(self) -> nn.Module:
        plain = copy.deepcopy(self)
        plain.rnn = _UnrolledRnn(plain.rnn)
        return plain


class RnnReluOfTwoLayers(RnnRelu):
    """Two layers: all the steps of the first, then all those of the second."""

    expected_sites = [("rnn:relu#1", 6), ("rnn:relu#5", 6)]
    merged_calls = {"rnn:relu#1": 4, "rnn:relu#5": 4}
    options = {"num_layers": 2}
    unit_axes = {"rnn:relu#1": 2, "rnn:relu#5": 2}


class RnnReluBothWays(RnnRelu):
    """Bidirectional: forwards, then backwards, each with weights of its own."""

    expected_sites = [("rnn:relu#1", 6), ("rnn:relu#5", 6)]
    merged_calls = {"rnn:relu#1": 4, "rnn:relu#5": 4}
    options = {"bidirectional": True}
    unit_axes = {"rnn:relu#1": 2, "rnn:relu#5": 2}


class _UnrolledRnn(nn.Module):
    """nn.RNN in plain Python, batch first."""

    def __init__(self, rnn: nn.RNN) -> None:
        super().__init__()
        self.rnn = [rnn]  # hidden from the modules

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        (rnn,) = self.rnn
        for layer in range(rnn.num_layers):
            x = torch.cat([self._one_way(rnn, x, f"l{layer}{way}") for way in self._ways(rnn)], dim=2)
        return x, None

    @staticmethod
    def _ways(rnn: nn.RNN) -> list[str]:
        return ["", "_reverse"] if rnn.bidirectional else [""]

    @staticmethod
    def _one_way(rnn: nn.RNN, x: Tensor, name: str) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = (
            getattr(rnn, f"{kind}_{name}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        backwards = name.endswith("reverse")
        state, states = x.new_zeros(len(x), rnn.hidden_size), []
        for step in x.flip(1).unbind(1) if backwards else x.unbind(1):
            total = F.linear(step, w_ih, b_ih) + F.linear(state, w_hh, b_hh)
            state = F.relu(total.unsqueeze(0)).squeeze(0)
            states.append(state)
        return torch.stack(states[::-1] if backwards else states, dim=1)


class RnnCellRelu(Odd):
    """nn.RNNCell with ReLUs, in a loop of the parent."""

    expected_sites = [("cell:relu#1", 6)]
    input_shape = (4, 3)
    merged_calls = {"cell:relu#1": 4}

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(3, 6, nonlinearity="relu")
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state)

    def in_plain_python(self) -> nn.Module:
        plain = copy.deepcopy(self)
        plain.cell = _UnrolledCell(plain.cell)
        return plain


class _UnrolledCell(nn.Module):
    def __init__(self, cell: nn.RNNCell) -> None:
        super().__init__()
        self.cell = [cell]

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        (cell,) = self.cell
        return F.relu(F.linear(x, cell.weight_ih, cell.bias_ih) + F.linear(state, cell.weight_hh, cell.bias_hh))

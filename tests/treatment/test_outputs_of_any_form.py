"""A promise about the output holds for all of it, or is not given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from treated import UNTRAINED, dataset_of, gaussian

from prelu_doctor.errors import ForwardError
from prelu_doctor.treatment.conversion import Treated, Treatment, treat

X = gaussian(400, 4)


@dataclass
class Answer:
    features: Tensor
    logits: Tensor


class Opaque:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Net(nn.Module):
    """Two dead units, whatever `answer` does with the features."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.act, self.head = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)
        self.answer = answer
        with torch.no_grad():
            self.fc.bias[[2, 5]] = -50.0

    def forward(self, x: Tensor) -> object:
        features = self.act(self.fc(x))
        return self.answer(features, self.head(features))  # type: ignore[operator]


def treated(model: nn.Module, x: Tensor = X) -> Treated:
    return treat(model.eval(), dataset_of(x), Treatment(training=UNTRAINED))


def test_a_unit_that_a_dataclass_returns_is_declined() -> None:
    result = treated(Net(Answer))
    assert result.changes[0].revived == []
    assert "reaches the model's output" in result.changes[0].declined_units[0].reason
    assert result.preservation.scale > 0


def test_an_object_that_holds_tensors_is_looked_into() -> None:
    result = treated(Net(lambda features, logits: Opaque(features)))
    assert result.changes[0].revived == []
    assert "reaches the model's output" in result.changes[0].declined_units[0].reason


def test_an_object_that_cannot_be_looked_into_is_no_output_to_promise_anything_of() -> None:
    with pytest.raises(ForwardError, match="function, which cannot be looked into"):
        treated(Net(lambda features, logits: lambda: features))


def test_every_output_is_held_against_its_own_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    from prelu_doctor.treatment import revival_plan

    monkeypatch.setattr(revival_plan, "_cut", lambda columns, graph: iter(()))
    result = treated(Net(lambda features, logits: (logits, 1e7 * features.detach().new_ones(1))))
    assert result.changes[0].revived == []


class FromNoise(nn.Module):
    """An activation on random numbers, and one on what came through NumPy."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.noise, self.act, self.fc, self.act2 = nn.Linear(4, 6), nn.ReLU(), nn.Linear(4, 6), nn.ReLU()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        drawn = self.act(self.noise(torch.randn(len(x), 4)))
        foreign = self.act2(self.fc(torch.from_numpy(np.asarray(x.detach()).copy())))
        return self.head(foreign) + 0 * drawn.sum()


def test_what_is_drawn_or_comes_past_torch_is_not_certain() -> None:
    result = treated(FromNoise(), gaussian(3, 4))
    assert [site.input_independent for site in result.before.sites] == [False, False]
    assert all(change.revived == [] for change in result.changes)


def test_the_indices_of_a_maximum_carry_the_signal_too() -> None:
    class Unpooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.act, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)
            with torch.no_grad():
                self.conv.bias[1] = -50.0

        def forward(self, x: Tensor) -> Tensor:
            values, places = F.max_pool2d(self.act(self.conv(x)), 2, return_indices=True)
            return F.max_unpool2d(self.head(values), places[:, :2], 2)

    result = treated(Unpooling(), gaussian(400, 1, 4, 4))
    assert result.changes[0].revived == []
    assert result.preservation.equal

"""What a forward takes and gives back: keywords, dicts, dataclasses, nests, None."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .odd import Odd


class _Net(Odd):
    expected_sites = [(":relu#1", 5)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.head = nn.Linear(5, 2)


@dataclasses.dataclass
class Detection:
    """Two tensors, and one that may be missing."""

    logits: Tensor
    features: Tensor
    loss: Tensor | None = None


class DataclassOutput(_Net):
    """A dataclass, one of its fields None."""

    protected = [":relu#1"]

    def forward(self, x: Tensor) -> Detection:
        features = F.relu(self.fc(x))
        return Detection(logits=self.head(features), features=features)


class Pair(NamedTuple):
    """Logits and nothing."""

    logits: Tensor
    state: None


class NamedTupleOutput(_Net):
    """A named tuple, one of its fields None."""

    def forward(self, x: Tensor) -> Pair:
        return Pair(self.head(F.relu(self.fc(x))), None)


class NestedOutput(_Net):
    """Tuples in lists in dicts, with None, a number and a string between them."""

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        logits = self.head(F.relu(self.fc(x)))
        return ((logits, [logits + 1, None]), OrderedDict(a={"b": logits * 2}, name="odd", steps=3), None)


class ReturnsEveryStage(Odd):
    """A backbone that returns the activations of every stage: none of them may be isolated."""

    expected_sites = [(":relu#1", 5), (":relu#2", 6)]
    input_shape = (4,)
    protected = [":relu#1", ":relu#2"]

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 6)])

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.stages:
            x = F.relu(stage(x))
            outputs.append(x)
        return outputs


class KeywordOnly(Odd):
    """Two inputs that are taken by keyword alone."""

    expected_sites = [(":relu#1", 5), (":relu#2", 6)]
    keyword_shapes = {"image": (4,), "context": (3,)}

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.join = nn.Linear(8, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, *, image: Tensor, context: Tensor) -> Tensor:
        image = F.relu(self.fc(image))
        return self.head(F.relu(self.join(torch.cat([image, context], dim=1))))


class OneByKeyword(KeywordOnly):
    """One input by position, one by keyword."""

    input_shape = (4,)
    keyword_shapes = {"context": (3,)}

    def forward(self, image: Tensor, *, context: Tensor) -> Tensor:
        return super().forward(image=image, context=context)


class AnyNumberOfInputs(Odd):
    """`*inputs` and `**options`."""

    expected_sites = [(":relu#1", 5)]
    input_shapes = ((4,), (4,), (4,))

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, *inputs: Tensor, **options: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(torch.cat([*inputs, *options.values()], dim=1))))

"""What a forward returns, taken apart to its tensors, whatever holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from prelu_doctor.leaves import leaves_of, opaque_leaf, path_text, tensors_of

A, B = torch.zeros(1), torch.ones(2)


@dataclass
class Answer:
    logits: Tensor
    loss: float | None = None


class Pair(NamedTuple):
    one: Tensor
    other: Tensor


class Layer:
    """One of a cache's layers: tensors beside what the object needs for its work."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.is_ready, self.dtype, self.update = True, keys.dtype, lambda: None


class Cache:
    def __init__(self, *layers: Layer) -> None:
        self.layers = list(layers)
        self.owner = self


def named(output: object) -> list[tuple[str, object]]:
    return [(path_text(path), leaf) for path, leaf in leaves_of(output)]


def test_containers_are_taken_apart_in_order() -> None:
    output = {"a": A, "rest": (Pair(A, B), [Answer(B, 0.5)])}
    assert named(output) == [
        ("a", A),
        ("rest_0_one", A),
        ("rest_0_other", B),
        ("rest_1_0_logits", B),
        ("rest_1_0_loss", 0.5),
    ]
    assert tensors_of(A) == [A]


def test_an_object_gives_its_tensors_and_keeps_what_it_works_with() -> None:
    assert named({"cache": Cache(Layer(A, B), Layer(B, A))}) == [
        ("cache_layers_0_keys", A),
        ("cache_layers_0_values", B),
        ("cache_layers_1_keys", B),
        ("cache_layers_1_values", A),
    ]
    assert opaque_leaf(Cache(Layer(A, B))) == ""


def test_what_holds_nothing_cannot_be_looked_into() -> None:
    assert opaque_leaf({"a": A, "b": object()}) == "object"
    assert opaque_leaf([lambda: A]) == "function"
    assert opaque_leaf(Cache) == "type"

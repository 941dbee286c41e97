"""Arguments may be tuples, lists and dictionaries of tensors, and plain values beside them."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from prelu_doctor.data.batches import Batch, joined
from prelu_doctor.data.shapes import named_inputs
from prelu_doctor.errors import DataError
from prelu_doctor.samples import samples_for

A, B, C, Y = torch.arange(12.0).reshape(6, 2), torch.arange(6.0) + 1, torch.ones(6, 3), torch.arange(6)
Pair = namedtuple("Pair", "left right")


class TakesTuple(nn.Module):
    def forward(self, inputs):
        left, right = inputs
        return left, right


class TakesState(nn.Module):
    def forward(self, x, state=None):
        return x


class TakesRate(nn.Module):
    def forward(self, x, sr=16000):
        return x


class NeedsRate(nn.Module):
    def forward(self, x, sr):
        return x


class KeywordsOnly(nn.Module):
    def forward(self, *, left, right):
        return left


def form(value):
    """The batch's inputs with tensors replaced by the letter of the tensor that they equal."""
    letters = {"A": A, "B": B, "C": C, "Y": Y}
    if isinstance(value, torch.Tensor):
        return next(name for name, tensor in letters.items() if torch.equal(value, tensor))
    if isinstance(value, dict):
        return {name: form(part) for name, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(form, value))
    return type(value)(map(form, value)) if isinstance(value, tuple | list) else value


def read(item, model=None):
    (batch,) = samples_for(model, [item]).scanned()
    return form(tuple(batch.args)), form(dict(batch.kwargs)), None if batch.target is None else form(batch.target)


@pytest.mark.parametrize(
    ("item", "model", "args", "kwargs", "target"),
    [
        (((A, B), Y), TakesTuple(), (("A", "B"),), {}, "Y"),
        (([A, B], Y), TakesTuple(), (["A", "B"],), {}, "Y"),
        (((A, B),), TakesTuple(), (("A", "B"),), {}, None),
        ((((A, B),), Y), TakesTuple(), (("A", "B"),), {}, "Y"),
        ({"inputs": (A, B), "labels": Y}, TakesTuple(), (), {"inputs": ("A", "B")}, "Y"),
        ({"inputs": {"a": A, "b": [B, C]}}, TakesTuple(), (), {"inputs": {"a": "A", "b": ["B", "C"]}}, None),
        ((A, (B, C)), TakesState(), ("A", ("B", "C")), {}, None),
        (((A, (B, C)), Y), TakesState(), ("A", ("B", "C")), {}, "Y"),
        ((A, (B, C), Y), TakesState(), ("A", ("B", "C")), {}, "Y"),
        ({"x": A, "sr": 8000}, TakesRate(), (), {"x": "A", "sr": 8000}, None),
        ({"x": A, "sr": 8000, "y": Y}, TakesRate(), (), {"x": "A", "sr": 8000}, "Y"),
        ((A, 8000), NeedsRate(), ("A", 8000), {}, None),
        ((A, 8000, Y), NeedsRate(), ("A", 8000), {}, "Y"),
        ((A, None), NeedsRate(), ("A", None), {}, None),
        ({"left": A, "right": Pair(B, C)}, KeywordsOnly(), (), {"left": "A", "right": Pair("B", "C")}, None),
        ((Pair(A, B), Y), TakesTuple(), (Pair("A", "B"),), {}, "Y"),
        (({"a": A, "b": B},), TakesTuple(), ({"a": "A", "b": "B"},), {}, None),
        ((A, (A.numpy(), B.numpy())), TakesState(), ("A", ("A", "B")), {}, None),
    ],
)  # fmt: skip
def test_structures_reach_the_forward_as_they_are(item, model, args, kwargs, target):
    assert read(item, model) == (args, kwargs, target)


@pytest.mark.parametrize(
    ("item", "model", "told"),
    [
        ((A, ["a", "b"]), NeedsRate(), r"yielded \(Tensor, list\)"),
        ({"x": A, "sr": [1, 2, 3, 4, 5, 6]}, TakesRate(), "'sr' is no tensor"),
        ({"x": A, "sr": object()}, TakesRate(), "'sr' is no tensor"),
        ((A, "photo.png"), TakesState(), r"yielded \(Tensor, str\)"),
        (((A, object()), Y), TakesState(), "more than tensors"),
        ((A, (torch.zeros(2, 6, 3), torch.zeros(2, 6, 3))), TakesState(), r"(?s)x2.0: 2.*prelu_doctor.Call"),
        ({"x": A, "sr": torch.tensor(16000)}, TakesRate(), r"(?s)'sr' is a single number.*prelu_doctor.Call"),
        ((1, 2), NeedsRate(), r"yielded \(int, int\)"),
    ],
)
def test_what_cannot_be_cut_into_samples_is_told_and_whole_calls_are_named(item, model, told):
    with pytest.raises(DataError, match=told):
        read(item, model)


NESTED = Batch(args=((A, [B, 7]), None), kwargs={"more": OrderedDict(c=C), "rate": 3}, target=Y)


def test_samples_are_taken_from_every_tensor_wherever_it_stands():
    part = NESTED.take(torch.tensor([4, 1]))
    assert (part.size, part.args[0][1][1], part.args[1], part.kwargs["rate"]) == (2, 7, None, 3)
    assert torch.equal(part.args[0][0], A[[4, 1]])
    assert torch.equal(part.args[0][1][0], B[[4, 1]])
    assert torch.equal(part.kwargs["more"]["c"], C[[4, 1]])
    assert torch.equal(part.target, Y[[4, 1]])
    assert isinstance(part.kwargs["more"], OrderedDict)


def test_a_clone_shares_no_memory():
    clone = NESTED.clone()
    for tensor in (*clone.tensors(), clone.target):
        tensor.zero_()
    assert (A.sum(), B.sum(), C.sum(), Y.sum()) == (66, 21, 18, 15)


def test_tensors_are_named_by_where_they_stand():
    assert list(named_inputs(NESTED)) == ["x.0", "x.1.0", "more.c"]
    assert len(NESTED.tensors()) == 3


def test_batches_of_one_structure_are_joined_and_others_are_not():
    halves = [NESTED.take(slice(2)), NESTED.take(slice(2, 6))]
    whole = joined(halves)
    assert all(torch.equal(one, other) for one, other in zip(whole.tensors(), NESTED.tensors(), strict=True))
    assert torch.equal(whole.target, Y)
    other = Batch(args=NESTED.args, kwargs={**NESTED.kwargs, "rate": 4}, target=Y)
    with pytest.raises(ValueError, match="plain value"):
        joined([NESTED, other])
    with pytest.raises(ValueError, match="mismatch"):
        joined([NESTED, Batch(args=(A, None), kwargs=NESTED.kwargs)])


def test_padding_is_left_behind_when_batches_are_joined():
    filled = Batch(args=(A,), target=Y, only_size=True, padding=2)
    assert joined([filled, filled]).size == 8
    assert np.array_equal(joined([filled, filled]).target, [0, 1, 2, 3, 0, 1, 2, 3])


def test_a_whole_call_is_not_taken_apart():
    call = Batch(args=(torch.zeros(2, 3), torch.zeros(1)), samples=2)
    assert call.few() is call
    with pytest.raises(DataError, match="not taken apart"):
        call.take(slice(1))

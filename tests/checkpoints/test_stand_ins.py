"""Training dictionaries as frameworks write them: harmless classes in them do not stand in the way of the weights."""

import argparse
import collections
import datetime
import os
import pathlib
import sys
import types

import numpy as np
import pytest
import torch
from crafted_pickles import EMPTY_DICT, dict_of, made, named, number, pickle_of, saved_zip, tensor, text
from torch import nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.errors import CheckpointError


def saved(tmp_path, content, **options):
    torch.save(content, tmp_path / "model.pt", **options)
    return tmp_path / "model.pt"


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, Reading(**options))
    return caught.value


class AttributeDict(dict):
    """As Lightning writes hyper-parameters: the test gives it Lightning's name."""


@pytest.fixture
def lightning(monkeypatch):
    """AttributeDict under Lightning's name, for pickling."""
    name = "pytorch_lightning.utilities.parsing"
    module = types.ModuleType(name)
    module.AttributeDict = AttributeDict
    monkeypatch.setattr(AttributeDict, "__module__", name)
    for part in ("pytorch_lightning", "pytorch_lightning.utilities"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setitem(sys.modules, name, module)


def training_dictionary():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {
        "state_dict": model.state_dict(),
        "hyper_parameters": AttributeDict(lr=0.1, net=AttributeDict(depth=3)),
        "args": argparse.Namespace(out=pathlib.PurePosixPath("runs/1"), steps=[1, 2]),
        "more": types.SimpleNamespace(when=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
                                      took=datetime.timedelta(3)),
        "by name": collections.defaultdict(list, {"a": [1]}),
        "last": collections.deque([1, 2], 3),
        "seen": collections.Counter("abba"),
        "numpy": {"array": np.arange(6.0).reshape(2, 3), "number": np.float32(3), "type": np.dtype("f8"),
                  "class": np.int64},
        "optimizer": optimizer,
        "optimizer state": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3),
        "named": [torch.optim.SGD, nn.Conv2d, nn.functional.gelu, int, torch.bfloat16],
        "loss": nn.CrossEntropyLoss(),
        "version": torch.__version__,
        "odds": [{1, 2}, frozenset({3}), 1j, b"abc", bytearray(b"d"), range(3), slice(1, 2), torch.Size([3])],
        "device": torch.device("cuda:1"),
        "random": torch.get_rng_state(),
        "numpy's random": np.random.get_state(),
    }  # fmt: skip


def test_harmless_classes_are_read_as_stand_ins_and_told(tmp_path, lightning):
    content = training_dictionary()
    stored = read_checkpoint(saved(tmp_path, content))
    assert all(torch.equal(tensor, content["state_dict"][name]) for name, tensor in stored.state.items())
    assert stored.note.startswith("taken from key 'state_dict', read as inert stand-ins: ")
    assert "'pytorch_lightning.utilities.parsing.AttributeDict', 'argparse.Namespace'" in stored.note


def test_harmless_classes_in_the_old_format_too(tmp_path, lightning):
    content = {key: value for key, value in training_dictionary().items() if key not in ("named", "loss")}
    del (
        content["optimizer"],
        content["scheduler"],
    )  # they hold parameters, whose class the old format keeps the source of
    stored = read_checkpoint(saved(tmp_path, content, _use_new_zipfile_serialization=False))
    assert stored.state.keys() == {"weight", "bias"}
    assert "'argparse.Namespace'" in stored.note


def test_nothing_is_imported_for_a_harmless_class(tmp_path):
    body = dict_of(
        state_dict=dict_of(w=tensor()),
        config=made("omegaconf.dictconfig.DictConfig") + dict_of(_content=EMPTY_DICT, kind=named("typing.Any")) + b"b",
        hyper_parameters=made("lightning_fabric.utilities.data.AttributeDict") + b"(" + text("lr") + number(1) + b"u",
        other=made("yacs.config.CfgNode"),
    )
    stored = read_checkpoint(saved_zip(tmp_path / "m.pt", pickle_of(body)))
    assert list(stored.state) == ["w"]
    assert "'omegaconf.dictconfig.DictConfig'" in stored.note
    assert not {"omegaconf", "lightning_fabric", "yacs"} & sys.modules.keys()


def test_the_readers_own_list_is_as_it_was_afterwards(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals([nn.Linear]):
        read_checkpoint(saved(tmp_path, nn.Linear(1, 1)))
        assert nn.Linear in torch.serialization.get_safe_globals()
    refusal(saved(tmp_path, {"w": torch.zeros(1), "x": os.mkdir}))
    assert set(torch.serialization.get_safe_globals()) == before


def test_numpy_arrays_in_place_of_weights_are_told(tmp_path):
    error = refusal(saved(tmp_path, {"0.weight": np.zeros((2, 2)), "0.bias": np.zeros(2)}))
    assert "keys '0.weight', '0.bias' (objects that are no tensors: '0.weight', '0.bias')" in error.found
    assert "torch.from_numpy(array)" in error.remedy
    assert "no module" in refusal(saved(tmp_path, argparse.Namespace())).found


def test_another_pickle_protocol_is_told(tmp_path):
    error = refusal(saved(tmp_path, {"w": torch.zeros(2)}, pickle_protocol=4))
    assert "it is written in pickle protocol 4: torch's safe reader knows pickle protocol 2" in error.found


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_transformer_layer_keeps_its_activation_function(tmp_path, activation):
    layer = nn.TransformerEncoderLayer(8, 2, activation=activation, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    assert torch.equal(read_checkpoint(saved(tmp_path, layer)).module(x), layer(x))

"""A pickle is a program. Nothing of it runs, whatever it calls what it asks for and wherever it hides that."""

import copyreg
import os
import pathlib
import pickle
import textwrap

import pytest
import torch
from crafted_pickles import (
    EMPTY_DICT,
    FALSE,
    NONE,
    call,
    dict_of,
    made,
    named,
    number,
    pickle_of,
    saved_legacy,
    saved_zip,
    tensor,
    text,
    tuple_of,
)
from torch import nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.data.arrays import read_arrays
from prelu_doctor.errors import CheckpointError, DataError


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "the-code-ran"


@pytest.fixture
def mkdir(marker):
    """Opcodes that make a folder, where anybody runs them."""
    return call("posix.mkdir", text(str(marker)))


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, Reading(**options))
    return caught.value


def saved(tmp_path, content, **options):
    torch.save(content, tmp_path / "model.pt", **options)
    return tmp_path / "model.pt"


# Ways to ask -----------------------------------------------------------------------------------------------------


def test_the_attack_would_run_in_a_careless_reader(mkdir, marker):
    pickle.loads(pickle_of(mkdir))  # noqa: S301 - what a careless reader does
    assert marker.is_dir()


def ways(mkdir, marker):
    path = text(str(marker))
    return {
        "reduce": mkdir,
        "inst": b"(" + path + b"iposix\nmkdir\n",
        "obj": b"(" + named("posix.mkdir") + path + b"o",
        "stack global": text("posix") + text("mkdir") + b"\x93" + tuple_of(path) + b"R",
        "memo": named("posix.mkdir") + b"q\x07" + b"0" + b"h\x07" + tuple_of(path) + b"R",
        "duplicate": named("posix.mkdir") + b"2" + tuple_of(path) + b"R" + b"0" + tuple_of() + b"0",
        "newobj": named("posix.mkdir") + tuple_of(path) + b"\x81",
        "newobj with names": named("posix.mkdir") + tuple_of(path) + EMPTY_DICT + b"\x92",
        "named alone": named("posix.mkdir"),
        "build": made("posix.mkdir") + dict_of(a=path) + b"b",
        "key of a dictionary": b"}" + mkdir + b"Ns",
        "argument of a harmless class": call("argparse.Namespace", mkdir),
        "state of a harmless class": made("argparse.Namespace") + dict_of(x=mkdir) + b"b",
        "argument of a torch function": call("torch._utils._rebuild_tensor", mkdir),
        "element of a set": call("builtins.set", b"](" + mkdir + b"e"),
        "attribute of a module": made("torch.nn.modules.linear.Linear") + dict_of(forward=mkdir) + b"b",
        "python 2's name": call("__builtin__.eval", text(f"__import__('os').mkdir({str(marker)!r})")),
        "a torch function that loads": call("torch.serialization.load", path),
        "a torch function by another way": call("torch.hub._import_module", text("os"), path),
        "a name that looks safe": call("torch.nn.modules.linear.os.mkdir", path),
        "a module that looks safe": call("torch._utils.posix.mkdir", path),
        "getattr": call("builtins.getattr", named("torch.nn.modules.linear.Linear"), text("__init__")),
    }


NAMES_OF_WAYS = list(ways(b"", pathlib.Path()))


@pytest.mark.parametrize("way", NAMES_OF_WAYS)
@pytest.mark.parametrize("place", ["bare", "in a training dictionary", "in hyper_parameters", "legacy"])
def test_every_way_to_ask_is_refused_by_name(tmp_path, mkdir, marker, way, place):
    body = ways(mkdir, marker)[way]
    if place == "in a training dictionary":
        body = dict_of(state_dict=dict_of(w=tensor()), extra=body)
    elif place == "in hyper_parameters":
        body = dict_of(state_dict=dict_of(w=tensor()), hyper_parameters=dict_of(deep=b"](" + body + b"e"))
    path = tmp_path / "model.pt"
    error = refusal((saved_legacy if place == "legacy" else saved_zip)(path, pickle_of(body)))
    assert "refused, because reading it would run the code of" in error.found
    assert any(name in error.found for name in ("mkdir", "eval", "load", "_import_module", "getattr"))
    assert "--trust" in error.remedy
    assert "--allow-class" not in error.remedy
    assert not marker.exists()


def test_a_number_of_the_copyreg_registry_is_refused(tmp_path, monkeypatch, marker):
    monkeypatch.setitem(copyreg._inverted_registry, 77, ("posix", "mkdir"))
    body = b"\x82\x4d" + tuple_of(text(str(marker))) + b"R"
    assert "copyreg extension.77" in refusal(saved_zip(tmp_path / "m.pt", pickle_of(body))).found
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [1, 3, 4, 5])
def test_an_attack_in_another_protocol_is_refused_by_name(tmp_path, marker, protocol):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    path = saved(tmp_path, {"w": torch.zeros(2), "x": Attack()}, pickle_protocol=protocol)
    assert "mkdir" in refusal(path).found
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore")
def test_a_module_in_the_old_format_is_refused_with_its_reason(tmp_path):
    error = refusal(saved(tmp_path, nn.Sequential(nn.ReLU()), _use_new_zipfile_serialization=False))
    assert "a module in the old format of torch.save, together with its classes' source code" in error.found


def test_a_data_file_is_refused_alike(tmp_path, mkdir, marker):
    with pytest.raises(DataError, match=r"would run the code of 'posix\.mkdir'"):
        read_arrays(saved_zip(tmp_path / "data.pt", pickle_of(dict_of(x=tensor(), y=mkdir))))
    assert not marker.exists()


# What is granted, misused ----------------------------------------------------------------------------------------

LINEAR = "torch.nn.modules.linear.Linear"
MISUSES = {
    "a module made with arguments": (made(LINEAR, number(30000), number(30000)), f"it calls '{LINEAR}' with arg"),
    "a module called": (call(LINEAR, number(30000), number(30000)), f"it calls '{LINEAR}'"),
    "a function of torch.nn called": (
        call("torch.nn.functional.relu", tensor()),
        "it calls 'torch.nn.functional.relu'",
    ),
    "a tensor class called": (call("torch.Tensor", number(10**9)), "it calls 'torch.Tensor'"),
    "a storage class called": (call("torch.FloatStorage", number(10**9)), "it calls 'torch.FloatStorage'"),
    "a result called": (call("collections.OrderedDict") + tuple_of() + b"R", "calls something that it did not ask for"),
    "a text made": (text("x") + tuple_of() + b"\x81", "makes something that it did not ask for"),
    "a bytearray of a size": (call("builtins.bytearray", number(10**10)), "a bytearray of any size"),
    "a bytearray by its opcode": (b"\x96" + (10**10).to_bytes(8, "little"), "a bytearray of any size"),
    "a slow encoding": (call("_codecs.encode", text("a"), text("punycode")), "encodes a text as 'punycode'"),
    "a parameter of a number": (made("torch.nn.parameter.Parameter", number(3)), "a parameter in it is no tensor"),
    "a method hidden on a dictionary": (
        call("collections.OrderedDict") + dict_of(items=named(LINEAR)) + b"b",
        "puts 'items' on a OrderedDict",
    ),
    "a method hidden on a tensor": (
        call("torch._utils._rebuild_parameter_with_state", tensor(), FALSE, EMPTY_DICT, dict_of(detach=named(LINEAR))),
        "puts 'detach' on a Tensor",
    ),
    "a hook on a tensor": (
        call("torch._utils._rebuild_parameter", tensor(), FALSE, dict_of(hook=named(LINEAR))),
        "carries hooks",
    ),
    "a tensor of a class": (
        call(
            "torch._tensor._rebuild_from_type_v2",
            named("torch._utils._rebuild_tensor"),
            named(LINEAR),
            tuple_of(),
            EMPTY_DICT,
        ),
        f"a tensor in it is of the class '{LINEAR}'",
    ),
    "a tensor that no function builds": (
        call("torch._tensor._rebuild_from_type_v2", named(LINEAR), named("torch.Tensor"), tuple_of(), EMPTY_DICT),
        "on what builds no tensor",
    ),
    "a function with too few arguments": (call("torch._utils._rebuild_tensor"), "arguments that do not fit"),
    "layers without end": (
        made("torch.nn.modules.rnn.RNN") + dict_of(num_layers=number(10**9)) + b"b",
        "has 1000000000 layers",
    ),
    "something that is no storage": (tuple_of(text("file"), text("/etc/passwd")) + b"Q", "refers to something that is"),
    "attributes of a list": (b"]" + dict_of(a=b"N") + b"b", "puts attributes on something that has none"),
}


@pytest.mark.parametrize("name", MISUSES)
@pytest.mark.parametrize("save", [saved_zip, saved_legacy])
def test_what_is_granted_cannot_be_misused(tmp_path, monkeypatch, name, save):
    monkeypatch.setattr(torch, "load", lambda *_a, **_k: pytest.fail("the survey let it through"))
    body, told = MISUSES[name]
    error = refusal(save(tmp_path / "m.pt", pickle_of(body)))
    assert "refused, because" in error.found
    assert told in error.found


def nested(levels):
    return b")" + b"\x85" * levels


def doubled(levels):
    return b")" + b"q\x01h\x01\x86" * levels


@pytest.mark.parametrize("key", [nested(200_000), doubled(60), number(2**61 - 1)], ids=["deep", "doubled", "huge"])
@pytest.mark.parametrize(
    "use",
    [
        lambda key: b"}" + key + b"Ns",
        lambda key: b"}(" + key + b"Nu",
        lambda key: b"(" + key + b"Nd",
        lambda key: call("builtins.set", b"](" + key + b"e"),
        lambda key: call("collections.OrderedDict", b"](" + b"](" + key + b"Ne" + b"e"),
        lambda key: b"\x8f(" + key + b"\x90",
        lambda key: b"(" + key + b"\x91",
    ],
    ids=["item", "items", "dict", "set", "pairs", "added", "frozenset"],
)
def test_keys_that_take_forever_to_hash_are_refused(tmp_path, key, use):
    assert (
        "a key of a dictionary in it is nested or huge"
        in refusal(saved_zip(tmp_path / "m.pt", pickle_of(use(key)))).found
    )


@pytest.mark.parametrize("key", [nested(1_000_000), doubled(60)], ids=["deep", "doubled"])
@pytest.mark.parametrize(
    "use", [lambda key: b"}" + key + b"Ns", lambda key: b"}(" + key + b"Nu"], ids=["item", "items"]
)
def test_such_keys_in_the_metadata_of_a_distributed_checkpoint_are_refused(tmp_path, key, use):
    (tmp_path / ".metadata").write_bytes(pickle_of(use(key)))
    assert ".metadata" in refusal(tmp_path).found


def test_a_pickle_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("prelu_doctor.untrusted.pickle_survey._MOST_STEPS", 1000)
    error = refusal(saved_zip(tmp_path / "m.pt", pickle_of(b"]" * 2000)))
    assert "it takes more than 1000 steps to unpickle" in error.found


def test_what_the_calling_program_allows_torch_is_not_allowed_here(tmp_path):
    with torch.serialization.safe_globals([textwrap.TextWrapper]):
        assert (
            "textwrap.TextWrapper" in refusal(saved(tmp_path, {"w": torch.zeros(1), "x": textwrap.TextWrapper()})).found
        )


# Classes that the user allows ------------------------------------------------------------------------------------


def test_a_class_that_acts_by_itself_is_not_allowed(tmp_path):
    """Its `__del__` deletes the file that its state names; the state is the file's choice."""
    victim = tmp_path / "victim.txt"
    victim.write_text("still there")
    state = dict_of(name=text(str(victim)), delete=b"\x88", close_called=b"\x89", file=NONE, unlink=NONE)
    body = dict_of(a=made("tempfile._TemporaryFileCloser") + state + b"b", state_dict=dict_of(w=tensor()))
    path = saved_zip(tmp_path / "m.pt", pickle_of(body))
    error = refusal(path, allow_classes=("tempfile._TemporaryFileCloser",))
    assert "could do something with what the file puts into them" in str(error)
    assert victim.read_text() == "still there"

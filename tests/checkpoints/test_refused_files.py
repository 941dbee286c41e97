import email.message
import io
import os
import pickle
import struct
import sys
import zipfile
import zoneinfo
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.errors import CheckpointError


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, Reading(**options))
    assert caught.value.expected
    assert caught.value.remedy
    return str(caught.value)


# Hostile pickles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda bad: bad,
        lambda bad: {"w": torch.zeros(1), "x": bad},
        lambda bad: {"model": nn.Linear(1, 1), "epoch": bad},
        lambda bad: {"state_dict": {"w": bad}},
    ],
    ids=["bare", "in a state dict", "in a training dict", "nested in a training dict"],
)
@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_code_in_a_pickle_does_not_run(saved, attack, marker, wrap, new_format):
    message = refusal(saved(wrap(attack), _use_new_zipfile_serialization=new_format))
    assert "mkdir" in message or "torch.nn.modules" in message
    assert "--arch module:callable" in message
    assert "--trust" in message
    assert not marker.exists()


def test_the_attack_would_have_run_unguarded(saved, attack, marker):
    read = refusal(saved({"x": attack}), trust=True)
    assert "holds a dictionary" in read
    assert marker.exists()


def test_code_among_a_modules_attributes_does_not_run(saved, attack, marker, net):
    net.extra = attack
    refusal(saved(net))
    assert not marker.exists()


def test_a_hostile_plain_pickle_does_not_run(tmp_path, attack, marker):
    (tmp_path / "model.pt").write_bytes(pickle.dumps(attack))
    assert "a plain pickle" in refusal(tmp_path / "model.pt")
    assert not marker.exists()


def test_all_classes_that_are_not_torchs_are_named(saved):
    content = {"model": nn.Linear(1, 1), "pool": email.message.Message(), "when": zoneinfo.ZoneInfo("UTC")}
    message = refusal(saved(content))
    assert "'email.message.Message', " in message
    assert "'zoneinfo.ZoneInfo._unpickle'" in message or "'builtins.getattr'" in message
    assert "torch.nn.modules" not in message


def test_names_of_classes_are_escaped(tmp_path):
    body = b"\x80\x02cevil\x1b[2Jmodule\nNa\x07me\n."
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", body)
        archive.writestr("m/version", b"3\n")
    message = refusal(tmp_path / "m.pt")
    assert "evil\\x1b[2Jmodule.Na\\x07me" in message
    assert "\x1b" not in message


@pytest.mark.parametrize(
    "name",
    [
        b"torch.nn.modules.module\n_WrappedHook",  # a class, but no module
        b"torch.nn.modules.linear\nmath.sqrt",
        b"torch.nn.modules.module\nregister_module_forward_hook",  # a function
        b"torch.nn.modules.linear\nModule",  # a module, but not under its own name
        b"torch.nn.modules.os\nsystem",
        b"torch.nn\nLinear",
        b"torch.jit._script\nScriptModule",
        b"builtins\neval",
    ],
)
def test_only_torch_nn_module_classes_under_their_own_names_are_allowed(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02c" + name + b"\n.")
        archive.writestr("m/version", b"3\n")
    assert "refused, because reading it would run the code of" in refusal(tmp_path / "m.pt")


def hollow(**attributes):
    """A module that never saw __init__, as a hand-built pickle makes it."""
    module = nn.Sequential.__new__(nn.Sequential)
    module.__dict__.update(attributes)
    return module


def with_attribute(name, value):
    module = nn.Sequential(nn.Linear(2, 2))
    module.__dict__[name] = value
    return module


def containing_itself():
    outer = nn.Sequential(nn.Sequential())
    outer[0]._modules["loop"] = outer
    return outer


def doubling(levels):
    module = nn.Linear(1, 1)
    for _ in range(levels):
        module = nn.Sequential(OrderedDict(a=module, b=module))
    return module


def chain(levels):
    module = nn.Identity()
    for _ in range(levels):
        module = nn.Sequential(module)
    return module


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (hollow(), "lacks its attributes"),
        (hollow(training=True), "_parameters"),
        (hollow(training=True, _parameters={"w": 3}, _buffers={}, _modules={}), "_parameters"),
        (hollow(training=True, _parameters={}, _buffers={}, _modules={"a": torch.zeros(1)}), "_modules"),
        (hollow(training=True, _parameters={}, _buffers={}, _modules={"a.b": nn.ReLU()}), "_modules"),
        (with_attribute("forward", nn.Linear(2, 2)), "'forward'"),
        (with_attribute("forward", 3), "'forward'"),
        (with_attribute("eval", 3), "'eval'"),
        (with_attribute("hidden", nn.Linear(2, 2)), "'hidden'"),
        (with_attribute("kind", torch.relu_), "builtins.getattr"),
        (with_attribute("register_buffer", nn.Linear), "'register_buffer'"),
        (with_attribute("_forward_hooks", OrderedDict({0: nn.ReLU()})), "'_forward_hooks'"),
        (with_attribute("_forward_pre_hooks", OrderedDict({0: nn.ReLU()})), "'_forward_pre_hooks'"),
        (with_attribute("_state_dict_hooks", [nn.ReLU()]), "'_state_dict_hooks'"),
        (with_attribute("_forward_hooks", OrderedDict({0: nn.functional.relu})), "'_forward_hooks'"),
        (with_attribute("forward", nn.functional.relu), "'forward'"),
        (containing_itself(), "contains itself"),
        (doubling(40), "too many times"),
    ],
)
def test_a_module_that_is_not_sound_or_carries_code_is_refused(saved, module, told):
    assert told in refusal(saved(module))


def test_a_module_nested_too_deep_is_refused(saved):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)  # for pickling it; reading it takes no recursion
    try:
        path = saved(chain(250))
    finally:
        sys.setrecursionlimit(limit)
    assert "nested too deep" in refusal(path)


class Hooked:
    """Pickled as a tensor with a backward hook, which torch.save itself drops."""

    def __reduce__(self):
        storage = torch.zeros(1)._typed_storage()
        hooks = OrderedDict({0: nn.ReLU()})
        return torch._utils._rebuild_tensor_v2, (storage, 0, (1,), (1,), True, hooks)


def test_a_tensor_with_a_hook_is_refused(saved):
    module = nn.Linear(2, 2)
    module._buffers["b"] = Hooked()
    assert "carries hooks" in refusal(saved(module))


def test_a_lazy_module_is_refused_even_when_trusted(saved):
    path = saved(nn.Sequential(nn.LazyLinear(3)))
    refusal(path)
    assert "lazy" in refusal(path, trust=True)


# Not a checkpoint -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(2, 3), r"holds a bare tensor of shape (2, 3)"),
        ({}, "holds an empty dictionary"),
        ({"state": {}, "param_groups": []}, "keys 'state', 'param_groups'"),
        ({"epoch": 3, "weight": torch.zeros(1)}, "keys 'epoch', 'weight'"),
        ({"state_dict": 3, "model": {}}, "keys 'state_dict', 'model'"),
        ({0: torch.zeros(1)}, "keys '0'"),
        ({"\x1b[31mred": 1}, "\\x1b[31mred"),
        (3, "holds a int"),
    ],
)
def test_other_contents_are_named(saved, content, told):
    assert told in refusal(saved(content))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file"),
        (b"weights: 1\n", "a text file"),
        ("gr\u00fc\u00dfe\n".encode(), "a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x08\x0a\x12\x07pytorch", "ONNX"),
        (b"PK\x03\x04 and then nothing", "truncated or damaged"),
        (bytes(range(128, 256)), "unknown format"),
        (struct.pack("<Q", 10**6) + b'{"a": 1}', "safetensors"),
        (struct.pack("<Q", 2) + b"{}", "holds no tensors"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, content, told):
    (tmp_path / "model.pt").write_bytes(content)
    assert told in refusal(tmp_path / "model.pt")


def test_a_safetensors_header_that_lies_about_its_tensors_is_refused(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}'
    (tmp_path / "m").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    assert "not a sound safetensors file" in refusal(tmp_path / "m")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["m/.data/extern_modules", "m/data.pkl"], "torch.package"),
    ],
)
def test_archives_of_later_work_are_recognised(tmp_path, names, told):
    zipped(tmp_path / "m.pt", *names)
    message = refusal(tmp_path / "m.pt")
    assert told in message
    assert "expected: a torch.save, safetensors" in message


@pytest.mark.parametrize(
    "names",
    [
        ["m/data.pkl", "m/code/__torch__/net.py", "m/constants.pkl"],
        ["m/models/model.json", "m/data/weights/model_weights_config.json"],
    ],
    ids=["TorchScript", "torch.export"],
)
def test_archives_that_only_look_like_programs_are_told(tmp_path, names):
    zipped(tmp_path / "m.pt", *names)
    assert "m.pt: " in refusal(tmp_path / "m.pt")


def test_numpy_archives_are_pointed_to_data(tmp_path):
    np.savez(tmp_path / "m.npz", x=np.zeros(3))
    assert "give it to --data" in refusal(tmp_path / "m.npz")


def test_other_zips_are_no_checkpoints(tmp_path):
    zipped(tmp_path / "m.zip", "readme.txt")
    assert "a zip archive that torch.save did not write" in refusal(tmp_path / "m.zip")


def test_folders_are_no_checkpoints(tmp_path):
    assert "a folder" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "a folder without a file of weights" in refusal(tmp_path)


def test_a_missing_file_is_told(tmp_path):
    assert "no such file" in refusal(tmp_path / "nowhere.pt")
    assert "a\\x00b: no such file" in refusal("a\0b")


def test_a_file_without_permission_is_told(saved, monkeypatch):
    path = saved({"w": torch.zeros(1)})

    def denied(*_args, **_options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(path), "open", denied)  # chmod does not stop root, as whom tests may run
    assert "Permission denied" in refusal(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_told(saved, tmp_path, net, share, new_format, trust):
    whole = saved(net.state_dict(), _use_new_zipfile_serialization=new_format).read_bytes()
    (tmp_path / "short.pt").write_bytes(whole[: int(len(whole) * share)])
    refusal(tmp_path / "short.pt", trust=trust)


@pytest.mark.parametrize(
    "body", [b"", b"\x80\x02", b"\x80\x02(((.", b"\x80\x02h\x05.", b"\x80\x02}q\x00(X\xff\xff\xff\xff."]
)
def test_a_broken_pickle_inside_a_sound_archive_is_told(tmp_path, body):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", body)
        archive.writestr("m/version", b"3\n")
    (tmp_path / "m.pt").write_bytes(buffer.getvalue())
    refusal(tmp_path / "m.pt")


def test_a_protocol_that_the_safe_reader_does_not_know_is_told(saved, net):
    assert "pickle protocol 2" in refusal(saved(net, pickle_protocol=4))

import hashlib
import json
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.errors import CheckpointError, UsageError

RECIPE = "prelu_doctor.recipe"


def equal_states(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_state_dict_is_read_with_the_sha256_of_its_bytes(saved, net):
    path = saved(net.state_dict())
    stored = read_checkpoint(path)
    assert (stored.kind, stored.module, stored.recipe_text, stored.note) == ("state-dict", None, None, "")
    assert equal_states(stored.state, net.state_dict())
    assert stored.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert stored.path == path


def test_the_ending_of_the_name_does_not_matter(saved, net, tmp_path):
    save_file(net.state_dict(), tmp_path / "weights.pt")
    assert read_checkpoint(tmp_path / "weights.pt").kind == "safetensors"
    assert read_checkpoint(saved(net.state_dict(), "weights.safetensors")).kind == "state-dict"


def test_a_file_of_the_old_format_is_read(saved, net):
    stored = read_checkpoint(saved(net.state_dict(), _use_new_zipfile_serialization=False))
    assert equal_states(stored.state, net.state_dict())


def test_a_recompressed_file_is_read_with_its_true_values(saved, tmp_path):
    path = saved({"w": torch.arange(1000.0)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert torch.equal(read_checkpoint(tmp_path / "packed.pt").state["w"], torch.arange(1000.0))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_training_dictionary_yields_its_weights_and_says_from_where(saved, net, key):
    stored = read_checkpoint(saved({"epoch": 3, key: net.state_dict(), "optimizer": {"state": {}, "param_groups": []}}))
    assert equal_states(stored.state, net.state_dict())
    assert stored.note == f"taken from key '{key}'"


def test_a_training_dictionary_may_hold_a_module(saved, net):
    stored = read_checkpoint(saved({"epoch": 3, "model": net}))
    assert stored.kind == "torch-module"
    assert stored.note == "taken from key 'model'"
    assert equal_states(stored.module.state_dict(), net.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed_where_every_name_has_them(saved, net, prefix):
    stored = read_checkpoint(saved({prefix + name: tensor for name, tensor in net.state_dict().items()}))
    assert equal_states(stored.state, net.state_dict())
    assert all(f"prefix '{part}.' removed" in stored.note for part in prefix.rstrip(".").split("."))


def test_a_prefix_that_only_some_names_have_stays(saved):
    state = {"module.weight": torch.zeros(1), "other.weight": torch.ones(1)}
    stored = read_checkpoint(saved(state))
    assert equal_states(stored.state, state)
    assert stored.note == ""


def test_the_mark_of_a_compiled_part_is_removed_within_names(saved):
    state = {"stem.weight": torch.zeros(1), "blocks.0._orig_mod.conv.weight": torch.ones(1)}
    stored = read_checkpoint(saved(state))
    assert list(stored.state) == ["stem.weight", "blocks.0.conv.weight"]
    assert stored.note == "'_orig_mod.' removed from within 1 names"


def test_names_that_would_collide_are_left_alone(saved):
    state = {"a.weight": torch.zeros(1), "a._orig_mod.weight": torch.ones(1)}
    assert equal_states(read_checkpoint(saved(state)).state, state)


def test_a_pickled_module_of_torch_nn_classes_computes_as_before(saved, net):
    stored = read_checkpoint(saved(net))
    x = torch.randn(5, 4)
    assert (stored.kind, stored.state) == ("torch-module", None)
    assert torch.equal(stored.module(x), net(x))


@pytest.mark.parametrize(
    "module",
    [
        nn.LSTM(3, 4, 2, bidirectional=True),
        nn.MultiheadAttention(8, 2),
        nn.TransformerEncoderLayer(8, 2, activation=nn.ReLU()),
        nn.ModuleDict({"a": nn.PReLU(), "b": nn.Upsample(scale_factor=2)}),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_torch_nn_modules_of_many_kinds_are_sound(saved, module):
    assert equal_states(read_checkpoint(saved(module)).module.state_dict(), module.state_dict())


def test_extra_state_is_left_out_and_told(saved):
    stored = read_checkpoint(saved({"w": torch.zeros(1), "layer._extra_state": {"scale": 1}}))
    assert list(stored.state) == ["w"]
    assert stored.note == "1 entries of extra state left out"


def test_converted_safetensors_carry_their_recipe_and_keep_their_names(tmp_path):
    save_file({"module.weight": torch.zeros(2)}, tmp_path / "healed.safetensors", metadata={RECIPE: '{"sites": []}'})
    stored = read_checkpoint(tmp_path / "healed.safetensors")
    assert (stored.kind, stored.recipe_text) == ("converted", '{"sites": []}')
    assert list(stored.state) == ["module.weight"]


def test_a_converted_pt_file_takes_its_recipe_from_beside_it(saved, net, tmp_path):
    path = saved(net.state_dict(), "healed.pt")
    text = json.dumps({"weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    (tmp_path / "healed.pt.recipe.json").write_text(text)
    stored = read_checkpoint(path)
    assert (stored.kind, stored.recipe_text) == ("converted", text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"weights_sha256": "00"}', "not that of healed.pt"),
        ("{}", "no weights_sha256"),
        ("[1]", "no weights_sha256"),
        ("{", "not a recipe"),
        ("[" * 100_000, "not a recipe"),
        (b"\xff\xfe", "not a recipe"),
    ],
)
def test_a_recipe_that_does_not_belong_to_the_weights_is_an_error(saved, net, tmp_path, text, told):
    path = saved(net.state_dict(), "healed.pt")
    (tmp_path / "healed.pt.recipe.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=told):
        read_checkpoint(path)


def test_trusted_files_may_hold_hooks_and_other_classes(saved, net):
    net.register_forward_hook(print)
    assert read_checkpoint(saved(net), trust=True).kind == "torch-module"


def test_a_trusted_file_whose_class_is_gone_says_so(tmp_path, saved, monkeypatch):
    (tmp_path / "gone_net.py").write_text("from torch import nn\nclass Net(nn.Sequential): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import gone_net

    path = saved(gone_net.Net())
    monkeypatch.delitem(__import__("sys").modules, "gone_net")
    (tmp_path / "gone_net.py").unlink()
    with pytest.raises(CheckpointError, match="needs code that is not here: No module named 'gone_net'"):
        read_checkpoint(path, trust=True)


def test_a_trusted_file_finds_its_classes_in_the_current_directory(tmp_path, saved, monkeypatch):
    (tmp_path / "near_net.py").write_text("from torch import nn\nclass Net(nn.Sequential): pass\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        import near_net

        path = saved(near_net.Net(nn.Linear(1, 1)))
        patch.delitem(__import__("sys").modules, "near_net")
    monkeypatch.chdir(tmp_path)
    assert type(read_checkpoint(path, trust=True).module).__name__ == "Net"


def test_a_device_that_is_not_there_is_a_usage_error(saved, net):
    with pytest.raises(UsageError, match="warp"):
        read_checkpoint(saved(net.state_dict()), device="warp")


def test_tensors_come_to_lie_on_the_device(saved, net):
    assert all(t.is_meta for t in read_checkpoint(saved(net.state_dict()), device="meta").state.values())

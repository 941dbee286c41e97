import hashlib
import json
import zipfile

import pytest
import torch
from crafted_pickles import call, dict_of, made, named, number, pickle_of, saved_legacy, saved_zip, text, tuple_of
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from prelu_doctor.checkpoints import contents
from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.checkpoints.reading import Reading
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


@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "module"]
)
def test_a_training_dictionary_yields_its_weights_and_says_from_where(saved, net, key):
    stored = read_checkpoint(saved({"epoch": 3, key: net.state_dict(), "optimizer": {"state": {}, "param_groups": []}}))
    assert equal_states(stored.state, net.state_dict())
    assert stored.note == f"taken from key '{key}'"


def ones(net):
    return {name: torch.ones_like(tensor) for name, tensor in net.state_dict().items()}


def test_weights_that_could_be_taken_too_are_told(saved, net):
    stored = read_checkpoint(saved({"model": net.state_dict(), "ema": {"decay": 0.9, "shadow": ones(net)}}))
    assert equal_states(stored.state, net.state_dict())
    assert stored.note == "taken from key 'model' (--weights-key could take 'ema.shadow')"


@pytest.mark.parametrize(
    ("key", "nest"),
    [
        ("ema", lambda weights: {"ema": weights}),
        ("ema.shadow", lambda weights: {"ema": {"decay": 0.9, "shadow": weights}}),
        ("a.b", lambda weights: {"a.b": weights}),
        ("a.b.c", lambda weights: {"a.b": {"c": weights}, "a": {"b": {"d": 3}}}),
        (
            "all.teacher",
            lambda weights: {"all": {f"teacher.{n}": t for n, t in weights.items()} | {"x": torch.ones(1)}},
        ),
    ],
)
def test_the_weights_key_says_which_are_taken(saved, net, key, nest):
    stored = read_checkpoint(saved({"state_dict": net.state_dict(), **nest(ones(net))}), Reading(weights_key=key))
    assert equal_states(stored.state, ones(net))
    assert stored.note == f"taken from key '{key}'"


@pytest.mark.parametrize(
    ("key", "meant"),
    [("mode", "model"), ("ema", "ema.shadow"), ("model.x", "model"), ("model.0.weight.x", "model"), ("", "model")],
)
def test_a_wrong_weights_key_is_told_with_those_that_are_there(saved, net, key, meant):
    path = saved({"model": net.state_dict(), "epoch": 3, "ema": {"decay": 0.9, "shadow": ones(net)}})
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, Reading(weights_key=key))
    assert f"under the key '{key}'" in caught.value.found
    assert "'model', 'ema.shadow'" in caught.value.expected
    assert caught.value.remedy == f"--weights-key {meant}"


@pytest.mark.parametrize("keys", [("encoder", "decoder"), ("net", "params"), ("ema", "state_dict_ema")])
def test_which_of_several_is_asked_for(saved, net, keys):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(saved({key: ones(net) for key in keys} | {"epoch": 3}))
    assert f"weights stand under '{keys[0]}', '{keys[1]}'" in caught.value.found
    assert caught.value.remedy == f"--weights-key {keys[0]}"


def test_averaged_weights_alone_are_taken_only_on_request(saved, net):
    path = saved({"ema_state_dict": ones(net), "epoch": 3})
    with pytest.raises(CheckpointError, match="--weights-key ema_state_dict"):
        read_checkpoint(path)
    assert equal_states(read_checkpoint(path, Reading(weights_key="ema_state_dict")).state, ones(net))


def test_an_averaged_model_is_the_model(saved, net):
    averaged = AveragedModel(net)
    stored = read_checkpoint(saved(averaged.state_dict()))
    assert equal_states(stored.state, net.state_dict())
    assert stored.note == "'n_averaged' of an averaged model left out, prefix 'module.' removed"
    whole = read_checkpoint(saved(averaged))
    assert whole.note == "taken out of its AveragedModel"
    assert equal_states(whole.module.state_dict(), net.state_dict())


def test_a_pickled_data_parallel_model_is_the_model(saved, net):
    stored = read_checkpoint(saved({"model": nn.DataParallel(net)}))
    assert stored.note == "taken from key 'model', taken out of its DataParallel"
    assert type(stored.module) is nn.Sequential


def test_plain_values_among_many_tensors_are_left_out_and_told(saved, net):
    stored = read_checkpoint(saved({**net.state_dict(), "epoch": 3, "name": "best"}))
    assert equal_states(stored.state, net.state_dict())
    assert stored.note == "left out, because no tensors: 'epoch', 'name'"


def test_one_dictionary_in_many_places_is_looked_into_once(saved, monkeypatch):
    inner = {str(k): {"x": 1} for k in range(300)}
    content = {str(k): {str(j): inner for j in range(300)} for k in range(300)}
    looked = []
    real = contents._holds_weights
    monkeypatch.setattr(contents, "_holds_weights", lambda content: looked.append(1) or real(content))
    with pytest.raises(CheckpointError, match="holds a dictionary with the keys '0', '1'"):
        read_checkpoint(saved(content))
    assert len(looked) < 2000


@pytest.mark.parametrize("new_format", [True, False])
def test_tensors_that_share_a_storage_share_it_still(saved, new_format):
    whole = torch.arange(12.0)
    stored = read_checkpoint(
        saved({"a": whole[:6], "b": whole.view(3, 4).t()}, _use_new_zipfile_serialization=new_format)
    )
    assert torch.equal(stored.state["a"], whole[:6])
    assert torch.equal(stored.state["b"], whole.view(3, 4).t())
    assert stored.state["a"].untyped_storage().data_ptr() == stored.state["b"].untyped_storage().data_ptr()


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("place", [b"cuda:0", b"mps:0", b"xpu:1"])
def test_a_file_that_was_saved_on_an_accelerator_is_read_on_the_cpu(saved, tmp_path, place, new_format):
    path = saved({"w": torch.arange(4.0)}, _use_new_zipfile_serialization=new_format)
    text = b"X" + len(place).to_bytes(4, "little") + place
    if new_format:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "gpu.pt", "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name).replace(b"X\x03\x00\x00\x00cpu", text))
    else:
        (tmp_path / "gpu.pt").write_bytes(path.read_bytes().replace(b"X\x03\x00\x00\x00cpu", text))
    tensor = read_checkpoint(tmp_path / "gpu.pt").state["w"]
    assert tensor.tolist() == [0, 1, 2, 3]
    assert tensor.device.type == "cpu"


@pytest.mark.parametrize("new_format", [True, False])
def test_storages_of_older_torch_are_read(tmp_path, new_format):
    """`_rebuild_tensor` of torch 0.2, and the storage types of GPUs."""
    parts = tuple_of(text("storage"), named("torch.cuda.HalfStorage"), text("0"), text("cuda:0"), number(2))
    pid = parts if new_format else parts[:-1] + b"Nt"
    view = tuple_of(number(2)), tuple_of(number(1))
    body = pickle_of(dict_of(w=call("torch._utils._rebuild_tensor", pid + b"Q", number(0), *view)))
    content = torch.tensor([1.5, -2.0]).half().numpy().tobytes()
    if new_format:
        path = saved_zip(tmp_path / "old.pt", body, {"0": content})
    else:
        path = saved_legacy(tmp_path / "old.pt", body, b"](" + text("0") + b"e", (2).to_bytes(8, "little") + content)
    tensor = read_checkpoint(path).state["w"]
    assert (tensor.dtype, tensor.tolist()) == (torch.float16, [1.5, -2.0])


def test_tensors_of_every_kind_that_torch_saves_are_read(saved):
    parameter = nn.Parameter(torch.ones(2))
    parameter.note = "an attribute"
    state = {
        "float8": torch.ones(2, dtype=torch.float8_e4m3fn),
        "unsigned": torch.ones(2, dtype=torch.uint16),
        "complex": torch.ones(2, dtype=torch.complex64).conj(),
        "bool": torch.ones(2, dtype=torch.bool),
        "parameter": parameter,
        "buffer": nn.Buffer(torch.ones(2)),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "sparse": torch.eye(2).to_sparse(),
        "strided": torch.arange(6.0).view(2, 3).t(),
    }
    stored = read_checkpoint(saved(state))
    assert all(type(tensor) is torch.Tensor and not tensor.requires_grad for tensor in stored.state.values())
    assert not hasattr(stored.state["parameter"], "note")
    assert all(torch.equal(stored.state[name].to_dense(), state[name].detach().to_dense()) for name in state)


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
    assert read_checkpoint(saved(net), Reading(trust=True)).kind == "torch-module"


def test_a_trusted_file_whose_class_is_gone_says_so(tmp_path, saved, monkeypatch):
    (tmp_path / "gone_net.py").write_text("from torch import nn\nclass Net(nn.Sequential): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import gone_net

    path = saved(gone_net.Net())
    monkeypatch.delitem(__import__("sys").modules, "gone_net")
    (tmp_path / "gone_net.py").unlink()
    with pytest.raises(CheckpointError, match="needs code that is not here: No module named 'gone_net'"):
        read_checkpoint(path, Reading(trust=True))


def test_a_trusted_file_of_a_script_is_told_how_to_name_its_class(saved, tmp_path):
    path = saved_zip(tmp_path / "m.pt", pickle_of(made("__main__.NetOfAScript")))
    with pytest.raises(CheckpointError, match=r"--allow-class __main__.NetOfAScript=path/to/script.py:NetOfAScript"):
        read_checkpoint(path, Reading(trust=True))


def test_a_trusted_file_finds_its_classes_in_the_current_directory(tmp_path, saved, monkeypatch):
    (tmp_path / "near_net.py").write_text("from torch import nn\nclass Net(nn.Sequential): pass\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        import near_net

        path = saved(near_net.Net(nn.Linear(1, 1)))
        patch.delitem(__import__("sys").modules, "near_net")
    monkeypatch.chdir(tmp_path)
    assert type(read_checkpoint(path, Reading(trust=True)).module).__name__ == "Net"


def test_a_device_that_is_not_there_is_a_usage_error(saved, net):
    with pytest.raises(UsageError, match="warp"):
        read_checkpoint(saved(net.state_dict()), device="warp")


def test_tensors_come_to_lie_on_the_device(saved, net):
    assert all(t.is_meta for t in read_checkpoint(saved(net.state_dict()), device="meta").state.values())

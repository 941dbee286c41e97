"""Folders of Hugging Face models, built by transformers from local files alone."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.cli.inputs import Inputs
from prelu_doctor.doctor import convert, scan
from prelu_doctor.errors import CheckpointError, DataError
from prelu_doctor.patient import open_patient

transformers = pytest.importorskip("transformers")

TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def opt() -> nn.Module:
    config = transformers.OPTConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2, word_embed_proj_dim=16,
        max_position_embeddings=32, **TOKENS,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config)


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0, **TOKENS
    )
    return transformers.T5ForConditionalGeneration(config)


def resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    return transformers.ResNetForImageClassification(config)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, tuple[nn.Module, Path]]:
    """Each model with the folder that it was saved to."""
    transformers.utils.logging.disable_progress_bar()
    made = {}
    for build in (opt, t5, resnet):
        torch.manual_seed(0)
        model, folder = build().eval(), tmp_path_factory.mktemp(build.__name__)
        model.save_pretrained(folder)
        made[build.__name__] = model, folder
    return made


@pytest.fixture
def folder(models, tmp_path) -> Path:
    """A folder of the OPT that a test may change."""
    shutil.copytree(models["opt"][1], tmp_path / "opt")
    return tmp_path / "opt"


@pytest.fixture
def no_network(monkeypatch):
    def refused(*_args, **_options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refused)


def set_config(folder: Path, **values: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder)
    return str(caught.value)


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if name == "resnet":
        return {"pixel_values": torch.randn(4, 3, 32, 32, generator=generator)}
    tokens = torch.randint(3, 50, (4, 6), generator=generator)
    return {"input_ids": tokens} | ({"decoder_input_ids": tokens.flip(0)} if name == "t5" else {})


def data_file(name: str, folder: Path) -> Path:
    save_file(inputs_of(name), folder / "data.safetensors")
    return folder / "data.safetensors"


@pytest.mark.parametrize("name", ["opt", "t5", "resnet"])
def test_the_model_computes_what_the_saved_one_does(models, name, no_network):
    model, folder = models[name]
    stored = read_checkpoint(folder)
    assert stored.kind == "hugging-face"
    assert stored.state is None
    assert not any(module.training for module in stored.module.modules())
    assert type(stored.module) is type(model)
    with torch.inference_mode():
        expected, found = model(**inputs_of(name)).logits, stored.module(**inputs_of(name)).logits
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["opt", "t5", "resnet"])
def test_scan_and_convert_and_the_way_back(models, name, tmp_path):
    _, folder = models[name]
    data = data_file(name, tmp_path)
    report = scan(open_patient(folder), data)
    assert len(report.sites) == {"opt": 2, "t5": 4, "resnet": 5}[name]
    conversion = convert(open_patient(folder), data)
    conversion.save(tmp_path / "healed.safetensors")
    healed = open_patient(tmp_path / "healed.safetensors", arch=str(folder))
    assert healed.record.kind == "converted"
    with torch.inference_mode():
        inputs = inputs_of(name)
        assert torch.equal(healed.module(**inputs).logits, conversion.model.eval()(**inputs).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_floating_type_is_that_of_the_weights_and_not_of_the_configuration(models, tmp_path, dtype):
    model, folder = models["resnet"]
    shutil.copytree(folder, tmp_path / "cast")
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in model.state_dict().items()}
    save_file(state, tmp_path / "cast" / "model.safetensors")
    read = read_checkpoint(tmp_path / "cast").module.state_dict()
    assert all(torch.equal(read[name], state[name]) and read[name].dtype == state[name].dtype for name in state)


@pytest.mark.parametrize("form", ["sharded", "bin", "bin, sharded"])
def test_weights_of_every_form_are_read(models, tmp_path, form):
    model, folder = models["t5"]
    shutil.copy(folder / "config.json", tmp_path)
    state = load_file(folder / "model.safetensors")
    if form == "sharded":
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        assert (tmp_path / "model.safetensors.index.json").is_file()
    elif form == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        names = list(state)
        parts = {"a.bin": names[::2], "b.bin": names[1::2]}
        for part, inside in parts.items():
            torch.save({name: state[name] for name in inside}, tmp_path / part)
        index = {"weight_map": {name: part for part, inside in parts.items() for name in inside}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    read = read_checkpoint(tmp_path).module.state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items())


def test_tied_weights_are_tied_and_not_missed(models):
    model, folder = models["opt"]
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    module = read_checkpoint(folder).module
    assert module.lm_head.weight is module.model.decoder.embed_tokens.weight
    assert torch.equal(module.lm_head.weight, model.lm_head.weight)


def test_weights_that_are_missing_are_an_error(folder):
    state = load_file(folder / "model.safetensors")
    del state["model.decoder.layers.1.fc1.weight"]
    save_file(state, folder / "model.safetensors")
    message = refusal(folder)
    assert "OPTForCausalLM has 1 weights that are not there: 'model.decoder.layers.1.fc1.weight'" in message


def test_weights_that_are_left_over_are_a_note(folder):
    state = load_file(folder / "model.safetensors")
    save_file(state | {"extra.weight": torch.zeros(3)}, folder / "model.safetensors")
    assert read_checkpoint(folder).note == "1 weights left over: 'extra.weight'"


def test_weights_of_other_shapes_are_an_error(folder):
    assert "config.json and the weights do not make a model" in refusal(set_config(folder, ffn_dim=16))


def test_with_an_architecture_the_weights_go_there_and_the_configuration_does_not_matter(folder, tmp_path, monkeypatch):
    (folder / "config.json").write_text("{")
    state = {"0.weight": torch.ones(3, 4), "0.bias": torch.zeros(3)}
    save_file(state, folder / "model.safetensors")
    torch.save(nn.Sequential(nn.Linear(4, 3)), tmp_path / "arch.pt")
    patient = open_patient(folder, arch=str(tmp_path / "arch.pt"))
    assert torch.equal(patient.module[0].weight, state["0.weight"])


def test_inputs_that_cannot_be_guessed_are_asked_for(models):
    with pytest.raises(DataError) as caught:
        scan(open_patient(models["opt"][1]))
    assert "--data" in caught.value.remedy


def test_what_was_there_before_is_there_after(models, monkeypatch):
    from huggingface_hub import constants
    from torch.nn.modules import module as registration
    from transformers.utils import logging

    hooks = (
        registration._global_parameter_registration_hooks,
        registration._global_buffer_registration_hooks,
        registration._global_module_registration_hooks,
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    level = logging.get_verbosity()
    logging.enable_progress_bar()
    state = torch.get_rng_state()
    read_checkpoint(models["opt"][1])
    assert (constants.HF_HUB_OFFLINE, logging.get_verbosity()) == (False, level)
    assert logging.is_progress_bar_enabled()
    assert not any(hooks)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_transformers_the_remedy_is_told(models, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = refusal(models["opt"][1])
    assert "transformers is not installed" in message
    assert "pip install transformers, or pass --arch module:callable" in message


@pytest.mark.parametrize("architectures", [None, [], "x", [1], ["pipeline"], ["NoSuchModel"], ["OPTConfig"], ["a.b"]])
def test_a_class_that_is_no_model_of_transformers_is_told(folder, architectures):
    message = refusal(set_config(folder, architectures=architectures))
    assert "names the architecture" in message or "names no architecture" in message


def test_a_configuration_that_is_none_is_told(folder):
    for text in ("", "[]", "{", "[" * 100_000):
        (folder / "config.json").write_text(text)
        assert "config.json: not a sound configuration" in refusal(folder)


def test_nonsense_in_a_configuration_is_one_error(folder):
    for values in ({"hidden_size": "x"}, {"num_attention_heads": 0}, {"activation_function": "nope"}, {"dropout": []}):
        shutil.copytree(folder, folder.parent / "bad", dirs_exist_ok=True)
        assert "do not make a model: OPTForCausalLM" in refusal(set_config(folder.parent / "bad", **values))


def test_the_cache_of_the_hub_is_read_through_its_links(models, tmp_path):
    blobs, snapshot = tmp_path / "models--a" / "blobs", tmp_path / "models--a" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(models["resnet"][1] / name, blobs / f"{name}-blob")
        (snapshot / name).symlink_to(Path("..", "..", "blobs", f"{name}-blob"))
    assert read_checkpoint(snapshot).kind == "hugging-face"


def test_the_hash_covers_the_configuration_and_the_weights(folder):
    first = read_checkpoint(folder).sha256
    (folder / "README.md").write_text("x")
    assert read_checkpoint(folder).sha256 == first
    assert read_checkpoint(set_config(folder, dropout=0.2)).sha256 != first


def test_no_file_of_the_folder_may_be_an_output(folder):
    assert {folder / "config.json", folder / "model.safetensors"} <= set(Inputs().files(folder))
    assert {folder / "config.json", folder / "model.safetensors"} <= set(Inputs(arch=str(folder)).files())

"""Folders and files of several parts that try to run code, to read elsewhere, or to take all memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import socket
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.checkpoint.metadata import MetadataIndex

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

MEGABYTE = 2**20


class Attack:
    """Unpickling it makes a folder: the trace of code that ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path):
    yield (marker := tmp_path / "the-code-ran")
    assert not marker.exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoint").mkdir()
    return tmp_path / "checkpoint"


@pytest.fixture
def no_network(monkeypatch):
    def refused(*_args, **_options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refused)


@pytest.fixture
def hugging_face(folder: Path) -> Path:
    """The folder of a small model that reads well."""
    transformers = pytest.importorskip("transformers")
    config = transformers.OPTConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, ffn_dim=16, num_attention_heads=2, word_embed_proj_dim=16,
        max_position_embeddings=16,
    )  # fmt: skip
    transformers.utils.logging.disable_progress_bar()
    transformers.OPTForCausalLM(config).save_pretrained(folder)
    assert read_checkpoint(folder).module is not None
    return folder


def refusal(path: Path) -> str:
    """The message of the refusal; nothing in the folder changes over it."""
    around = path if path.is_dir() else path.parent
    before = {file: file.read_bytes() for file in around.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert {file: file.read_bytes() for file in around.rglob("*") if file.is_file()} == before
    assert "\x1b" not in str(caught.value)
    return str(caught.value)


def index_of(folder: Path, weight_map: dict[str, str]) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder / "model.safetensors.index.json"


def set_config(folder: Path, **values: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


# --- indexes


@pytest.mark.parametrize(
    "name",
    [
        "{outside}/weights.bin",
        "../weights.bin",
        "sub/../../weights.bin",
        "sub/weights.bin",
        "..\\weights.bin",
        "",
        "..",
    ],
)
def test_an_index_that_names_a_file_elsewhere(folder, marker, name):
    torch.save({"w": torch.zeros(1), "x": Attack(marker)}, folder.parent / "weights.bin")
    (folder / "sub").mkdir()
    save_file({"w": torch.zeros(1)}, folder / "sub" / "weights.bin")
    message = refusal(index_of(folder, {"w": name.format(outside=folder.parent)}))
    assert "refused, because it names" in message
    assert "is not the name of a file in its folder" in message


def test_an_index_with_a_link_that_leads_out_of_the_folder(folder):
    save_file({"w": torch.zeros(1)}, folder.parent / "secret.safetensors")
    (folder / "part.safetensors").symlink_to(folder.parent / "secret.safetensors")
    assert "is a link that leads out of the folder" in refusal(index_of(folder, {"w": "part.safetensors"}))
    (folder / "model.safetensors").symlink_to(folder.parent / "secret.safetensors")
    assert "is a link that leads out of the folder" in refusal(folder)


def test_an_index_that_names_a_pipe(folder):
    os.mkfifo(folder / "part")
    assert "names the file 'part', which is not there" in refusal(index_of(folder, {"w": "part"}))


def test_a_part_that_asks_for_a_callable(folder, marker):
    torch.save({"w": torch.zeros(1), "x": Attack(marker)}, folder / "part.bin")
    assert "mkdir" in refusal(index_of(folder, {"w": "part.bin"}))


def test_names_in_an_index_that_would_paint_the_terminal(folder):
    (folder / "part\x1b[31m").write_text("x")
    assert "\\x1b[31m" in refusal(index_of(folder, {"w": "part\x1b[31m"}))
    save_file({"v": torch.zeros(1)}, folder / "part")
    assert "\\x1b[31m" in refusal(index_of(folder, {"w\x1b[31m": "part"}))


# --- Hugging Face


def test_a_configuration_that_is_a_link_to_a_file_elsewhere(hugging_face, tmp_path):
    outside = tmp_path / "outside.json"
    (hugging_face / "config.json").rename(outside)
    (hugging_face / "config.json").symlink_to(outside)
    assert "link that leads out of the folder" in refusal(hugging_face)


@pytest.mark.parametrize("place", [(), ("text_config",), ("sub_configs", 0, "deeper")])
def test_a_configuration_that_brings_its_own_code(hugging_face, marker, no_network, place):
    code = f"import os\nos.mkdir({str(marker)!r})\nclass Config: ...\nclass Model: ...\n"
    (hugging_face / "modeling.py").write_text(code)
    (hugging_face / "configuration.py").write_text(code)
    values: Any = {"auto_map": {"AutoConfig": "configuration.Config", "AutoModelForCausalLM": "modeling.Model"}}
    for step in reversed(place):
        values = [values] if step == 0 else {step: values}
    message = refusal(set_config(hugging_face, **values))
    assert "refused, because it asks for 'auto_map', which is code that comes with the model" in message
    assert "--arch module:callable" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_config", {"quant_method": "bitsandbytes"}),
        ("compression_config", {"quant_method": "compressed-tensors"}),
        ("custom_pipelines", {"x": {"impl": "a.B"}}),
        ("fusion_config", {"patch_embeddings": True}),
        ("kernel_config", {"RMSNorm": "somebody/kernel"}),
        ("distributed_config", {"tp_size": 2}),
        ("transformers_weights", "../other.safetensors"),
        ("backbone", "somebody/model"),
        ("use_timm_backbone", True),
        ("vision_config", {"model_type": "timm_wrapper", "architecture": "hf-hub:somebody/model"}),
    ],
)
def test_a_configuration_that_would_import_or_fetch_something(hugging_face, no_network, key, value):
    assert "refused, because it asks for" in refusal(set_config(hugging_face, **{key: value}))


def test_a_configuration_that_names_compiled_code_on_the_hub(hugging_face, no_network):
    kernel = "somebody/kernel:run"
    names = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
    set_config(hugging_face, **dict.fromkeys(names, kernel), _name_or_path="somebody/model", _commit_hash="0" * 40)
    module: Any = read_checkpoint(hugging_face).module
    assert kernel not in json.dumps(module.config.to_dict(), default=str)
    assert module.config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize("value", ["load", "hub.load", "os.system", "__dict__", "uint8", ["float32"], {"a": 1}, 3])
def test_a_configuration_whose_type_is_a_name_of_something_else(hugging_face, value):
    for key in ("dtype", "torch_dtype"):
        assert "is not a floating type of weights" in refusal(set_config(hugging_face, **{key: value}))
        set_config(hugging_face, **{key: None})


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 10**9},
        {"num_hidden_layers": 10**9},
        {"vocab_size": 10**12},
        {"num_labels": 10**8},
        {"text_config": {"layers": [10**9]}},
        {"hidden_size": -(10**9)},
        {"hidden_size": 2**19, "word_embed_proj_dim": 2**19},
        {"num_hidden_layers": 2**19},
        {"ffn_dim": 2**20},
        {"max_position_embeddings": 2**20},
    ],
)
def test_a_configuration_of_a_model_far_larger_than_its_weights(hugging_face, values):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refusal(set_config(hugging_face, **values))
    assert "more than the weights have bytes" in message or "a model of far more" in message
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 100 * MEGABYTE


def test_a_configuration_of_a_million_labels(hugging_face):
    message = refusal(set_config(hugging_face, num_labels=2**20 - 1))
    assert "'num_labels' is 1048575, and transformers would name that many labels" in message


def test_a_configuration_that_is_endless(hugging_face):
    (hugging_face / "config.json").write_text(json.dumps({"a": "x" * (9 * MEGABYTE)}))
    assert "longer than" in refusal(hugging_face)
    nested = "[" * 60 + "]" * 60
    (hugging_face / "config.json").write_text(f'{{"a": {nested}}}')
    assert "nested too deep" in refusal(hugging_face)


def test_weights_of_a_hugging_face_model_that_ask_for_a_callable(hugging_face, marker):
    (hugging_face / "model.safetensors").unlink()
    torch.save({"w": torch.zeros(1), "x": Attack(marker)}, hugging_face / "pytorch_model.bin")
    assert "mkdir" in refusal(hugging_face)


def test_files_beside_the_weights_are_not_opened(hugging_face, marker):
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "tokenizer.pkl"):
        torch.save(Attack(marker), hugging_face / name)
    (hugging_face / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/model"}')
    (hugging_face / "generation_config.json").write_text('{"custom_generate": "somebody/code"}')
    assert read_checkpoint(hugging_face).module is not None


# --- torch.distributed.checkpoint


def distributed(folder: Path, state: dict[str, Any] | None = None) -> Path:
    dcp.save(state or {"w": torch.ones(4, 4)}, checkpoint_id=folder, no_dist=True)
    return folder


def edited(folder: Path, edit: Callable[[Any], None]) -> Path:
    metadata = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 - written by this test
    edit(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def metadata_of(folder: Path, content: bytes) -> Path:
    distributed(folder)
    (folder / ".metadata").write_bytes(content)
    return folder


def mkdir(marker: Path, call: bytes) -> bytes:
    path = str(marker).encode()
    return b"\x80\x02" + call.replace(b"PATH", b"X" + len(path).to_bytes(4, "little") + path) + b"."


@pytest.mark.parametrize(
    "call",
    [
        b"cos\nmkdir\nPATH\x85R",  # GLOBAL, REDUCE
        b"\x8c\x02os\x8c\x05mkdir\x93PATH\x85R",  # STACK_GLOBAL
        b"(PATHios\nmkdir\n",  # INST
        b"(cos\nmkdir\nPATHo",  # OBJ
        b"cos\nmkdir\nPATH\x85}\x92",  # NEWOBJ_EX
        b"ctorch.serialization\nos.mkdir\nPATH\x85R",  # through an allowed module
        b"ctorch.distributed.checkpoint.filesystem\nos.mkdir\nPATH\x85R",
        b"ctorch.hub\nload\nPATH\x85R",
        b"PATHQ",  # a persistent id
    ],
)
def test_metadata_that_asks_for_a_callable(folder, marker, call):
    message = refusal(metadata_of(folder, mkdir(marker, call)))
    assert "would run the code of" in message or "cannot be read" in message


def test_metadata_with_an_attack_where_it_is_never_looked_at(folder, marker):
    def planted(metadata):
        metadata.planner_data = {"x": Attack(marker)}

    assert "would run the code of 'posix.mkdir'" in refusal(edited(distributed(folder), planted))


@pytest.mark.parametrize(
    "content",
    [
        b"ctorch\nSize\n}X\x04\x00\x00\x00evilK\x01sb",  # attributes for a class
        b"X\x01\x00\x00\x00a)R",  # a call of a string
        b"X\x01\x00\x00\x00a)\x81",
        b"ctorch\nSize\n(R",
        b"]}X\x06\x00\x00\x00appendK\x01sb",
    ],
)
def test_metadata_that_changes_what_it_may_name(folder, content):
    before = dict(vars(torch.Size))
    assert "cannot be read" in refusal(metadata_of(folder, b"\x80\x02" + content + b"."))
    assert dict(vars(torch.Size)) == before


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",  # BYTEARRAY8
        b"\x80\x05\x8e" + (2**40).to_bytes(8, "little") + b".",  # BINBYTES8
        b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b".",  # FRAME
        b"\x80\x02Nr" + (2**32 - 1).to_bytes(4, "little") + b".",  # LONG_BINPUT: the C reader makes a table for it
        b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b".",  # LONG4
    ],
)
def test_metadata_that_claims_memory(folder, content):
    metadata_of(folder, content)
    tracemalloc.start()
    try:
        assert "not a sound distributed checkpoint" in refusal(folder)
        assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    finally:
        tracemalloc.stop()


def test_entries_of_a_distributed_checkpoint_that_are_pickles(folder, marker):
    stored = read_checkpoint(distributed(folder, {"w": torch.ones(2), "x": Attack(marker)}))
    assert stored.note == "1 entries that are no tensors left out"


def replaced_item(folder: Path, content: bytes) -> Path:
    """The folder with these bytes as the only item of its file."""

    def whole(metadata) -> None:
        info = next(iter(metadata.storage_data.values()))
        info.offset, info.length = 0, len(content)

    edited(distributed(folder), whole)
    (folder / "__0_0.distcp").write_bytes(content)
    return folder


def test_a_tensor_of_a_distributed_checkpoint_that_is_an_attack(folder, marker):
    buffer = io.BytesIO()
    torch.save(Attack(marker), buffer)
    assert "would run the code of 'posix.mkdir'" in refusal(replaced_item(folder, buffer.getvalue()))
    shutil.rmtree(folder)
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(4, 4), "x": Attack(marker)}, buffer)
    assert "would run the code of 'posix.mkdir'" in refusal(replaced_item(folder, buffer.getvalue()))


def test_a_tensor_of_a_distributed_checkpoint_that_unpacks_to_far_more(folder):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200 * MEGABYTE))
    replaced_item(folder, buffer.getvalue())
    tracemalloc.start()
    try:
        assert "compressed entries" in refusal(folder)
        assert tracemalloc.get_traced_memory()[1] < 10 * MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["{outside}/secret", "../secret", "sub/secret", "link"])
def test_a_distributed_checkpoint_with_a_file_elsewhere(folder, name):
    def moved(metadata):
        next(iter(metadata.storage_data.values())).relative_path = name.format(outside=folder.parent)

    distributed(folder)
    (folder / "sub").mkdir()
    for place in (folder.parent, folder / "sub"):
        shutil.copy(folder / "__0_0.distcp", place / "secret")
    (folder / "link").symlink_to(folder.parent / "secret")
    message = refusal(edited(folder, moved))
    assert "refused, because it names" in message


def huge_tensor(metadata):
    record = metadata.state_dict_metadata["w"]
    record.size = record.chunks[0].sizes = torch.Size([2**40, 4])


def huge_type(metadata):
    metadata.state_dict_metadata["w"].properties.dtype = torch.complex128


def huge_place(metadata):
    next(iter(metadata.storage_data.values())).length = 2**60


def negative_place(metadata):
    next(iter(metadata.storage_data.values())).offset = -5


def many_names_of_one_place(metadata):
    record, info = metadata.state_dict_metadata["w"], next(iter(metadata.storage_data.values()))
    for k in range(1000):
        metadata.state_dict_metadata[f"w{k}"] = record
        metadata.storage_data[MetadataIndex(f"w{k}", torch.Size([0, 0]))] = info


@pytest.mark.parametrize("edit", [huge_tensor, huge_type, huge_place, negative_place, many_names_of_one_place])
def test_a_distributed_checkpoint_that_claims_more_than_its_files(folder, edit):
    distributed(folder, {"w": torch.ones(64, 4)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refusal(edited(folder, edit))
    assert "claim" in message or "no part of a file" in message
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 100 * MEGABYTE

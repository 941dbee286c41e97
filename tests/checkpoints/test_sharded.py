"""Weights in several files: an index names the file of each tensor."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prelu_doctor import Training, Treatment, convert
from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.cli.inputs import Inputs
from prelu_doctor.errors import CheckpointError, UsageError
from prelu_doctor.patient import open_patient


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoint").mkdir()
    return tmp_path / "checkpoint"


def write_index(folder: Path, weight_map: object, name: str = "model.safetensors.index.json") -> Path:
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return folder / name


def sharded(folder: Path, state: dict[str, torch.Tensor], save=save_file, ending="safetensors") -> Path:
    """Every tensor of the state in one of two files, in turn."""
    weight_map = {name: f"part-{k % 2}.{ending}" for k, name in enumerate(state)}
    for part in set(weight_map.values()):
        save({name: state[name] for name, file in weight_map.items() if file == part}, folder / part)
    return write_index(folder, weight_map)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    return str(caught.value)


def assert_same(read: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> None:
    assert list(read) == list(state)
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_an_index_is_read_with_all_its_files(folder, net):
    stored = read_checkpoint(sharded(folder, net.state_dict()))
    assert stored.kind == "safetensors"
    assert_same(stored.state, net.state_dict())


def test_files_of_torch_save_are_read_too(folder, net):
    stored = read_checkpoint(sharded(folder, net.state_dict(), torch.save, "bin"))
    assert stored.kind == "state-dict"
    assert_same(stored.state, net.state_dict())


def test_an_index_is_told_by_its_content_wherever_the_weight_map_stands(folder, net):
    index = sharded(folder, net.state_dict())
    content = {"metadata": {"long": "x" * 10_000}} | {"weight_map": json.loads(index.read_text())["weight_map"]}
    (folder / "no-ending").write_text(json.dumps(content, indent=2))
    assert_same(read_checkpoint(folder / "no-ending").state, net.state_dict())
    (folder / "other.json").write_text(json.dumps({"weights": {"weight_map": 1}}))
    assert "a text file" in refusal(folder / "other.json")


def test_a_folder_with_an_index_is_read(folder, net):
    sharded(folder, net.state_dict())
    assert_same(read_checkpoint(folder).state, net.state_dict())


def test_a_folder_with_one_file_of_weights_is_read(folder, net):
    torch.save(net.state_dict(), folder / "epoch=3.ckpt")
    (folder / "notes.txt").write_text("nothing")
    torch.save({"lr": 0.1}, folder / "training_args.bin")
    assert_same(read_checkpoint(folder).state, net.state_dict())


def test_a_folder_with_several_files_of_weights_asks_for_one_of_them(folder, net):
    for name in ("a.pt", "b.pt"):
        torch.save(net.state_dict(), folder / name)
    message = refusal(folder)
    assert "a folder with 2 files of weights: 'a.pt', 'b.pt'" in message
    assert f"name one of them: {folder / 'a.pt'}" in message


def test_the_usual_names_come_before_others(folder, net):
    torch.save({"w": torch.zeros(1)}, folder / "a.pt")
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    assert_same(read_checkpoint(folder).state, net.state_dict())


def test_weights_go_into_the_architecture(folder, net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "arch.pt")
    patient = open_patient(sharded(folder, net.state_dict()), arch="arch.pt")
    assert_same(patient.module.state_dict(), net.state_dict())


def test_the_hash_is_that_of_what_sha256sum_prints_for_all_files_by_name(folder, net):
    sharded(folder, net.state_dict())
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["model.safetensors.index.json", "part-0.safetensors", "part-1.safetensors"]
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert read_checkpoint(folder).sha256 == expected
    (folder / "unrelated.txt").write_text("x")
    assert read_checkpoint(folder).sha256 == expected
    save_file({name: tensor + 1 for name, tensor in net.state_dict().items()}, folder / "part-1.safetensors")
    assert "has no tensor" not in refusal(folder)
    save_file({name: t + 1 for name, t in list(net.state_dict().items())[1::2]}, folder / "part-1.safetensors")
    assert read_checkpoint(folder).sha256 != expected


def test_a_file_that_is_not_there_is_named(folder, net):
    index = sharded(folder, net.state_dict())
    (folder / "part-1.safetensors").unlink()
    assert "names the file 'part-1.safetensors', which is not there" in refusal(index)


def test_a_tensor_that_is_not_where_the_index_says_is_named(folder, net):
    index = sharded(folder, net.state_dict())
    save_file({"0.weight": net[0].weight.detach()}, folder / "part-0.safetensors")
    assert "'part-0.safetensors' has no tensor '2.weight'" in refusal(index)


def test_a_tensor_in_two_files_is_an_error(folder, net):
    index = sharded(folder, net.state_dict())
    save_file(net.state_dict(), folder / "part-1.safetensors")
    assert "stands in 'part-1.safetensors' and in a file before it" in refusal(index)
    index.write_text('{"weight_map": {"a": "x", "a": "y"}}')
    assert "a name stands in it twice" in refusal(index)


def test_tensors_that_the_index_does_not_name_are_left_out_with_a_note(folder, net):
    index = sharded(folder, net.state_dict())
    weight_map = json.loads(index.read_text())["weight_map"]
    del weight_map["2.bias"]
    stored = read_checkpoint(write_index(folder, weight_map))
    assert "2.bias" not in stored.state
    assert stored.note == "1 tensors that the index does not name left out"


@pytest.mark.parametrize("weight_map", [{}, [], {"a": 1}, "x", None])
def test_an_index_without_files_is_an_error(folder, weight_map):
    assert "names no file for each tensor" in refusal(write_index(folder, weight_map))


def test_a_file_that_is_no_weights_is_told(folder):
    (folder / "part").write_text("hello")
    assert "a text file" in refusal(write_index(folder, {"a": "part"}))
    write_index(folder, {"a": "model.safetensors.index.json"})
    assert "an index, named by an index" in refusal(folder)


def test_none_of_the_files_may_be_an_output(folder, net):
    index = sharded(folder, net.state_dict())
    parts = {folder / "part-0.safetensors", folder / "part-1.safetensors"}
    assert parts <= set(Inputs().files(index))
    assert {*parts, index} <= set(Inputs().files(folder))
    index.rename(folder / "renamed")
    assert parts <= set(Inputs().files(folder / "renamed"))
    assert set(read_checkpoint(folder / "renamed").files) == {*parts, folder / "renamed"}


def test_the_library_does_not_write_over_a_part_that_it_has_read(folder):
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    torch.save(net, folder / "net.pt")
    patient = open_patient(sharded(folder, net.state_dict()), arch=str(folder / "net.pt"))
    conversion = convert(patient, x, Treatment(training=Training(steps=0)))
    part = folder / "part-0.safetensors"
    held = part.read_bytes()
    with pytest.raises(UsageError, match="is also an input"):
        conversion.save(part, force=True)
    assert part.read_bytes() == held

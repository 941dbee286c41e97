"""The input options, the same for every command: architecture, data, shapes, batches, device, seed, trust."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from prelu_doctor.cli.inputs import Inputs, parse_shape
from prelu_doctor.errors import UsageError


@pytest.fixture(autouse=True)
def _own_modules() -> Iterator[None]:
    yield
    sys.modules.pop("arch", None)


@pytest.fixture
def scan(command):
    def run(*arguments: object) -> dict:
        result = command("scan", *arguments, "--format", "json")
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    return run


def test_an_architecture_is_a_callable_of_a_file_or_a_module_or_a_stored_module(scan, ward: Path, monkeypatch):
    monkeypatch.chdir(ward)
    for arch in (f"{ward / 'arch.py'}:Mlp", "arch.py:Mlp", "arch:Mlp", "arch:MODULE", ward / "mlp.pt", "mlp.pt"):
        report = scan(ward / "mlp.safetensors", "--arch", arch, "--data", ward / "data.safetensors")
        assert report["sites"][0]["dead_units"] == [2, 5]
        assert report["model"]["arch"] == str(arch)


def test_arch_args_are_json_values(command, ward: Path, tmp_path: Path):
    shapes = {"fc1.weight": (5, 4), "fc1.bias": (5,), "fc2.weight": (2, 5), "fc2.bias": (2,)}
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "five.safetensors")
    arch = ("--arch", f"{ward / 'arch.py'}:Mlp")
    fits = command("scan", tmp_path / "five.safetensors", *arch, "--arch-arg", "hidden=5", "--arch-arg", "outputs=2")
    assert fits.exit_code == 0, fits.stderr
    text = command("scan", tmp_path / "five.safetensors", *arch, "--arch-arg", 'hidden="5"')
    assert text.exit_code == 2
    assert "TypeError" in text.stderr


@pytest.mark.parametrize("name", ["data.safetensors", "data.npz", "data.npy", "data.pt"])
def test_array_files_of_every_kind_give_the_same_scan(scan, ward: Path, name: str):
    report = scan(ward / "mlp.pt", "--data", ward / name)
    assert (report["data"]["samples"], report["data"]["synthetic"]) == (400, False)
    assert report["sites"] == scan(ward / "mlp.pt", "--data", ward / "data.safetensors")["sites"]


@pytest.mark.parametrize("name", ["batches", "dataset"])
def test_data_may_come_from_the_users_code(scan, ward: Path, name: str):
    report = scan(ward / "mlp.pt", "--data", f"{ward / 'arch.py'}:{name}")
    assert (report["data"]["samples"], report["sites"][0]["dead_units"]) == (400, [2, 5])


def test_a_folder_of_images_is_data(scan, tmp_path: Path):
    from PIL import Image
    from torch import nn

    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        Image.fromarray(np.full((8, 8), 80 * index, dtype=np.uint8)).save(images / f"{index}.png")
    torch.save(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval(), tmp_path / "conv.pt")
    report = scan(tmp_path / "conv.pt", "--data", images)
    assert (report["data"]["samples"], report["sites"][0]["units"]) == (3, 4)


def test_an_input_shape_makes_noise_of_that_shape(scan, ward: Path):
    report = scan(ward / "mlp.pt", "--input-shape", "4")
    assert (report["data"]["synthetic"], report["data"]["samples"]) == (True, 512)
    assert scan(ward / "mlp.pt", "--input-shape", "7,4")["data"]["contents"] == "512 x 7x4"


def test_several_input_shapes_are_several_inputs(scan, ward: Path, tmp_path: Path):
    shapes = {"left.weight": (8, 4), "left.bias": (8,), "right.weight": (8, 2), "right.bias": (8,)}
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "two.safetensors")
    arch = ("--arch", f"{ward / 'arch.py'}:TwoInputs")
    report = scan(tmp_path / "two.safetensors", *arch, "--input-shape", "4", "--input-shape", "2")
    assert report["totals"]["units"] == 8


@pytest.mark.parametrize("batch_size", [1, 7, 400, 10**6])
def test_the_batch_size_changes_no_count(scan, ward: Path, batch_size: int):
    arguments = (ward / "mlp.pt", "--data", ward / "data.safetensors", "--max-samples", 150)
    whole, split = scan(*arguments)["sites"][0], scan(*arguments, "--batch-size", batch_size)["sites"][0]
    counts = ("samples", "dead_units", "rare", "always_on", "dormant", "firing_rate", "positive_rate")
    assert {name: whole[name] for name in counts} == {name: split[name] for name in counts}
    assert whole["samples"] == 150


def test_max_samples_are_the_first_ones_and_the_bound_follows(scan, ward: Path):
    report = scan(ward / "mlp.pt", "--data", ward / "data.safetensors", "--max-samples", 1)
    assert report["totals"]["firing_rate_bound"] == pytest.approx(0.95)
    assert report["totals"]["dead"] > 2
    assert scan(ward / "mlp.pt", "--max-samples", 9)["data"]["samples"] == 9


def test_the_seed_draws_the_noise(scan, ward: Path):
    rates = [scan(ward / "mlp.pt", "--seed", seed)["sites"][0]["firing_rate"] for seed in (1, 1, 2)]
    assert rates[0] == rates[1]
    assert rates[0] != rates[2]


def test_the_device_is_chosen_or_refused(command, ward: Path):
    assert command("scan", ward / "mlp.pt", "--device", "cpu").exit_code == 0
    for name in ("nonsense", "cuda:99"):
        result = command("scan", ward / "mlp.pt", "--device", name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert name in result.stderr


def test_a_foreign_class_is_refused_by_name_and_read_with_trust(command, ward: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(ward)
    monkeypatch.syspath_prepend(str(ward))
    import arch

    torch.save(arch.MyOwn(torch.nn.Linear(4, 8), torch.nn.ReLU()), tmp_path / "own.pt")
    refused = command("scan", tmp_path / "own.pt")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "arch.MyOwn" in refused.stderr
    assert "--trust" in refused.stderr
    assert command("scan", tmp_path / "own.pt", "--trust").exit_code == 0


def test_sizes_of_a_shape_are_separated_by_commas_or_crosses():
    assert parse_shape("3,224,224") == parse_shape("3x224x224") == (3, 224, 224)
    for text in ("", "3,", "0", "-1", "1.5", "a"):
        with pytest.raises(UsageError):
            parse_shape(text)


def test_everything_that_is_read_counts_as_input(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").touch()
    inputs = Inputs(arch=f"{tmp_path}/arch.py:Mlp", data=str(tmp_path / "images"))
    names = {path.name for path in inputs.files(tmp_path / "model.pt")}
    assert {"model.pt", "model.pt.recipe.json", "arch.py", "0.png"} <= names
    assert tmp_path / "code.py" in Inputs(data=f"{tmp_path}/code.py:batches").files()


@pytest.mark.parametrize("name", ["data.safetensors", "arch.py"])
def test_neither_data_nor_architecture_is_ever_written(command, ward: Path, tmp_path: Path, name: str):
    for file in ("data.safetensors", "arch.py"):
        (tmp_path / file).write_bytes((ward / file).read_bytes())
    arguments = (ward / "mlp.safetensors", "--arch", f"{tmp_path}/arch.py:Mlp", "--data", tmp_path / "data.safetensors")
    for command_name in ("scan", "check", "convert", "export"):
        result = command(command_name, *arguments, "-o", tmp_path / name, "--force")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "is also an input" in result.stderr
    assert (tmp_path / name).read_bytes() == (ward / name).read_bytes()


def test_an_empty_data_spec_is_not_the_current_folder(command, ward: Path):
    result = command("scan", ward / "mlp.pt", "--data", "")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--data ''" in result.stderr

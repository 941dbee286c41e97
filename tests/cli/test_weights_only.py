"""`scan` and `check` of a state dict without `--arch`: what weights alone tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import prelu_doctor
from prelu_doctor.errors import UsageError


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of state dicts that are wrong, each named after what is wrong with it."""
    folder = tmp_path_factory.mktemp("sick")
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        model[1].weight[:], model[1].bias[:] = 1, 0
        model[1].weight[2], model[1].bias[2] = 0, -1
        model[3].weight[1] = 0
        model[3].bias[1] = -1
    torch.save(model.state_dict(), folder / "zeros.pt")
    save_file(model.state_dict(), folder / "zeros.safetensors")
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, folder / "run.ckpt"
    )
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    torch.save(model.state_dict(), folder / "nan.pt")
    torch.save({"attn.mask": torch.full((3, 3), -torch.inf).triu(1)}, folder / "mask.pt")
    torch.save({"[red]\x1b[2Jfc.weight": torch.zeros(3, 4)}, folder / "evil.pt")
    return folder


def report_of(command, *arguments) -> dict:
    result = command("scan", *arguments, "--format", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout, parse_constant=pytest.fail)


@pytest.mark.parametrize("name", ["zeros.pt", "zeros.safetensors", "run.ckpt"])
def test_a_scan_of_weights_alone_says_what_they_tell_and_decides_nothing(command, sick: Path, name: str):
    report = report_of(command, sick / name)
    assert (report["basis"], report["verdict"], report["sites"]) == ("weights-only", "undecided", [])
    assert (report["data"]["source"], report["data"]["samples"]) == ("weights-only", 0)
    told = {finding["code"]: finding["evidence"] for finding in report["findings"]}
    assert list(told) == ["PD502", "PD503", "PD501"]
    assert (told["PD502"]["tensor"], told["PD502"]["indices"], told["PD502"]["dead"]) == ("3.weight", [1], 1)
    assert (told["PD503"]["tensor"], told["PD503"]["indices"]) == ("1.weight", [2])


def test_a_scan_with_an_architecture_is_told_apart(command, ward: Path):
    report = report_of(command, ward / "weights.pt", "--arch", f"{ward / 'arch.py'}:Mlp")
    assert (report["basis"], report["weights"]) == ("forward", None)


def test_the_page_says_weights_only_and_what_to_add(command, ward: Path):
    result = command("scan", ward / "weights.pt")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "scan  weights-only" in result.stdout.splitlines()[0]
    assert "--arch module:callable" in result.stdout


def test_a_converted_file_s_slopes_are_known_from_its_recipe(command, healed: Path):
    for name in ("healed.safetensors", "healed.pt"):
        report = report_of(command, healed / name)
        assert [(slopes["tensor"], slopes["surety"]) for slopes in report["weights"]["slopes"]] == [
            ("relu.weight", "recipe")
        ]


def test_names_in_a_file_do_not_steer_the_terminal(command, sick: Path):
    result = command("scan", sick / "evil.pt")
    assert "\x1b" not in result.stdout
    assert "[red]\\x1b[2Jfc.weight" in result.stdout


@pytest.mark.parametrize(
    "options",
    [
        ["--data", "x.npz"],
        ["--data", ""],
        ["--input-shape", "4"],
        ["--max-samples", "4"],
        ["--arch-arg", "hidden=8"],
        ["--method", "encode"],
    ],
)
@pytest.mark.parametrize("name", ["scan", "check"])
def test_options_that_only_a_forward_heeds_are_refused(command, ward: Path, name: str, options: list[str]):
    result = command(name, ward / "weights.pt", *options)
    assert result.exit_code == 2
    assert options[0] in result.stdout + result.stderr
    assert "--arch" in result.stdout + result.stderr


def test_the_gate_cannot_tell_by_weights_alone_unless_one_is_not_finite(command, sick: Path):
    result = command("check", sick / "zeros.pt")
    assert result.exit_code == 2
    assert "weights alone do not tell" in result.stdout
    result = command("check", sick / "nan.pt", "--format", "json")
    assert result.exit_code == 1
    (judged,) = json.loads(result.stdout, parse_constant=pytest.fail)["models"]
    assert [breach["limit"] for breach in judged["breaches"]] == ["non-finite", "no-evidence"]
    assert command("check", sick / "nan.pt", sick / "zeros.pt").exit_code == 1
    report = report_of(command, sick / "mask.pt")
    assert (report["model"]["non_finite"], report["verdict"]) == ([], "undecided")
    assert command("check", sick / "mask.pt").exit_code == 2
    assert 'failures="1"' in command("check", sick / "nan.pt", "--format", "junit").stdout


def test_convert_export_and_parity_ask_for_the_architecture(command, ward: Path, tmp_path: Path):
    (tmp_path / "model.onnx").touch()
    for name, rest in (
        ("convert", ("-o", tmp_path / "x.safetensors")),
        ("export", ("-o", tmp_path / "x.onnx")),
        ("parity", (tmp_path / "model.onnx",)),
    ):
        result = command(name, ward / "weights.pt", *rest)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "holds weights alone" in result.stderr
        assert "--arch module:callable" in result.stderr


def test_the_library_tells_the_same_and_refuses_data(ward: Path):
    report = prelu_doctor.scan(ward / "weights.pt")
    assert report.basis == "weights-only"
    with pytest.raises(UsageError, match="weights alone"):
        prelu_doctor.scan(ward / "weights.pt", torch.zeros(3, 4))
    with pytest.raises(UsageError, match="holds weights alone"):
        prelu_doctor.open_patient(ward / "weights.pt")


@pytest.mark.parametrize("name", ["scan", "check"])
def test_nothing_heavy_but_torch_is_imported_for_it(ward: Path, name: str):
    heavy = ("onnx", "onnxruntime", "onnxscript", "torchvision", "transformers", "timm", "PIL", "torch._dynamo")
    code = (
        "import sys\nfrom prelu_doctor.cli.app import app\n"
        f"app(['{name}', {str(ward / 'weights.pt')!r}], standalone_mode=False)\n"
        f"print([module for module in {heavy!r} if module in sys.modules], file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603 - our own code
    assert ran.stderr.splitlines()[-1:] == ["[]"], ran.stderr

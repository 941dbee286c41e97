"""`prelu-doctor check`: exit code 0 healthy, 1 over a limit, 2 could not tell."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn


def test_exit_codes_follow_the_limits(command, ward: Path):
    sick = ("check", ward / "mlp.pt", "--data", ward / "data.safetensors")
    assert command(*sick).exit_code == 1
    assert command(*sick, "--max-dead", 0.25).exit_code == 0
    assert command(*sick, "--max-dead", 0.24).exit_code == 1
    assert command(*sick, "--max-dead", 1, "--max-dead-site", 0.2).exit_code == 1
    assert command("check", ward / "healthy.pt", "--data", ward / "data.safetensors").exit_code == 0


def test_noise_decides_nothing_unless_allowed(command, ward: Path):
    result = command("check", ward / "mlp.pt")
    assert result.exit_code == 2
    assert "synthetic" in result.stdout
    assert command("check", ward / "mlp.pt", "--allow-synthetic").exit_code == 1
    assert command("check", ward / "healthy.pt", "--allow-synthetic").exit_code == 0


def test_one_bad_file_does_not_stop_the_others(command, ward: Path, tmp_path: Path):
    (tmp_path / "broken.pt").write_text("no checkpoint")
    files = (ward / "healthy.pt", tmp_path / "broken.pt", ward / "mlp.pt")
    result = command("check", *files, "--data", ward / "data.safetensors", "--format", "json")
    report = json.loads(result.stdout)
    assert [model["verdict"] for model in report["models"]] == ["healthy", "undecided", "findings"]
    assert (report["verdict"], result.exit_code) == ("findings", 1)
    result = command("check", *files[:2], "--data", ward / "data.safetensors")
    assert result.exit_code == 2
    assert "a text file" in result.stdout


@pytest.mark.parametrize("options", [[], ["--quiet"], ["--format", "json", "-o", "{folder}/report.json"]])
def test_a_file_that_cannot_be_judged_is_one_line_on_stderr_each(command, ward: Path, tmp_path: Path, options):
    (tmp_path / "broken\n\x1b[31m.pt").write_text("no checkpoint")
    files = (tmp_path / "broken\n\x1b[31m.pt", ward / "mlp.pt", tmp_path / "absent.pt")
    given = (option.replace("{folder}", str(tmp_path)) for option in options)
    broken, absent = command("check", *files, "--data", ward / "data.safetensors", *given).stderr.splitlines()
    assert broken.startswith("error: ")
    assert "broken\\x0a\\x1b[31m.pt: a text file" in broken
    assert absent.startswith(f"error: {tmp_path / 'absent.pt'}: no such file")


def test_an_error_that_does_not_name_its_file_gets_its_name(command, ward: Path):
    (line,) = command("check", ward / "mlp.pt", "--input-shape", "5").stderr.splitlines()
    assert line.startswith(f"error: {ward / 'mlp.pt'}: ")


def test_debug_shows_where_a_file_failed(command, ward: Path, tmp_path: Path):
    (tmp_path / "broken.pt").write_text("no checkpoint")
    assert "Traceback" not in command("check", tmp_path / "broken.pt").stderr
    assert "Traceback" in command("check", tmp_path / "broken.pt", "--debug").stderr


def test_a_nan_weight_is_a_finding_with_and_without_data_and_the_json_stays_valid(command, ward: Path, tmp_path: Path):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    torch.save(model, tmp_path / "nan.pt")
    for data in ((), ("--data", ward / "data.safetensors")):
        result = command("check", tmp_path / "nan.pt", *data, "--format", "json")
        assert result.exit_code == 1
        report = json.loads(result.stdout, parse_constant=pytest.fail)
        assert report["models"][0]["breaches"][0]["limit"] == "non-finite"


def test_a_model_without_activations_cannot_be_judged(command, ward: Path, tmp_path: Path):
    torch.save(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), tmp_path / "tanh.pt")
    assert command("check", tmp_path / "tanh.pt", "--data", ward / "data.safetensors").exit_code == 2


def test_junit_names_the_checkpoint_and_its_failures(command, ward: Path):
    result = command("check", ward / "mlp.pt", "--data", ward / "data.safetensors", "--format", "junit")
    suites = ElementTree.fromstring(result.stdout)  # noqa: S314 - our own text
    assert suites.get("failures") == "1"
    assert suites[0].get("name") == str(ward / "mlp.pt")


def test_a_converted_file_passes_the_gate_that_its_original_fails(command, ward: Path, healed: Path):
    data = ("--data", ward / "data.safetensors")
    assert command("check", ward / "mlp.pt", *data).exit_code == 1
    assert command("check", healed / "healed.safetensors", "--arch", ward / "mlp.pt", *data).exit_code == 0


def test_a_report_goes_to_a_file_and_the_exit_code_stays(command, ward: Path, tmp_path: Path):
    target = tmp_path / "check.json"
    arguments = ("check", ward / "mlp.pt", "--data", ward / "data.safetensors", "--format", "json", "-o", target)
    result = command(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert json.loads(target.read_text())["verdict"] == "findings"
    assert command(*arguments).exit_code == 2


@pytest.mark.parametrize(("option", "value"), [("--max-dead", "nan"), ("--max-dead", "2"), ("--max-dead-site", "-1")])
def test_a_limit_that_is_no_share_is_refused_before_anything_is_scanned(command, ward: Path, option: str, value: str):
    result = command("check", ward / "absent.pt", option, value)
    assert (result.exit_code, result.stdout) == (2, "")
    assert option in result.stderr


def test_no_file_is_bad_usage(command):
    result = command("check")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no checkpoint" in result.stderr

"""`prelu-doctor scan`: the happy path, its options, and what the report holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def report_of(command, *arguments) -> dict:
    result = command("scan", *arguments, "--format", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_dead_units_are_named_and_do_not_change_the_exit_code(command, ward: Path):
    report = report_of(command, ward / "mlp.pt", "--data", ward / "data.safetensors")
    assert report["schema_version"] == 1
    assert [site["id"] for site in report["sites"]] == ["relu"]
    assert report["sites"][0]["dead_units"] == [2, 5]
    assert report["totals"] == {
        "sites": 1, "units": 8, "dead": 2, "dead_fraction": 0.25,
        "firing_rate_bound": pytest.approx(1 - 0.05 ** (1 / 400)),
    }  # fmt: skip
    assert report["verdict"] == "findings"
    assert report["data"] == {
        "source": str(ward / "data.safetensors"), "contents": "x: 400 x 4", "synthetic": False, "samples": 400,
        "seed": 0,
    }  # fmt: skip


def test_the_text_report_is_for_people(command, ward: Path):
    result = command("scan", ward / "mlp.pt", "--data", ward / "data.safetensors")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "2 of 8 units dead (25.0 %)" in result.stdout
    assert "\x1b" not in result.stdout


def test_a_healthy_model_is_called_healthy(command, ward: Path):
    report = report_of(command, ward / "healthy.pt", "--data", ward / "data.safetensors")
    assert (report["totals"]["dead"], report["verdict"]) == (0, "healthy")


def test_without_data_the_report_says_synthetic_and_decides_nothing(command, ward: Path):
    report = report_of(command, ward / "mlp.pt")
    assert report["data"]["synthetic"] is True
    assert report["verdict"] == "undecided"
    assert "synthetic" in command("scan", ward / "mlp.pt").stdout


def test_a_model_without_any_activation_is_undecided(command, tmp_path: Path, ward: Path):
    import torch
    from torch import nn

    torch.save(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), tmp_path / "tanh.pt")
    report = report_of(command, tmp_path / "tanh.pt", "--data", ward / "data.safetensors")
    assert report["sites"] == []
    assert report["verdict"] == "undecided"
    assert "PD" in report["findings"][0]["code"]


def test_rare_and_tau_move_their_limits(command, ward: Path):
    data = ("--data", ward / "data.safetensors")
    site = report_of(command, ward / "mlp.pt", *data, "--rare", 1, "--tau", 1e9)["sites"][0]
    assert (site["rare"], site["dormant"]) == (6, 8)
    site = report_of(command, ward / "mlp.pt", *data, "--rare", 0, "--tau", 0)["sites"][0]
    assert (site["rare"], site["dormant"]) == (0, 2)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_report_written_to_a_file_leaves_stdout_empty(command, ward: Path, tmp_path: Path, form: str):
    arguments = ("scan", ward / "mlp.pt", "--data", ward / "data.safetensors", "--format", form)
    target = tmp_path / "report"
    result = command(*arguments, "-o", target)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert target.read_text() == command(*arguments).stdout
    assert list(tmp_path.iterdir()) == [target]


def test_an_existing_report_needs_force(command, ward: Path, tmp_path: Path):
    target = tmp_path / "report"
    target.write_text("old")
    result = command("scan", ward / "mlp.pt", "-o", target)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert target.read_text() == "old"
    assert command("scan", ward / "mlp.pt", "-o", target, "--force").exit_code == 0
    assert target.read_text() != "old"


def test_a_scan_repeats_itself_to_the_byte(command, ward: Path):
    arguments = ("scan", ward / "mlp.pt", "--format", "json")
    assert command(*arguments).stdout == command(*arguments).stdout


def test_what_was_done_to_open_a_file_is_a_note_on_stderr(command, ward: Path):
    arguments = ("scan", ward / "wrapped.pt", "--arch", f"{ward / 'arch.py'}:Mlp", "--data", ward / "data.npz")
    result = command(*arguments, "--format", "json")
    assert result.stderr.startswith("note: ")
    assert "state_dict" in result.stderr
    assert "module." in result.stderr
    assert json.loads(result.stdout)["totals"]["dead"] == 2
    assert command(*arguments, "--quiet").stderr == ""


def test_a_converted_file_is_scanned_through_its_recipe(command, ward: Path, healed: Path):
    for name in ("healed.safetensors", "healed.pt"):
        report = report_of(command, healed / name, "--arch", ward / "mlp.pt", "--data", ward / "data.safetensors")
        assert report["model"]["kind"] == "converted"
        assert report["sites"][0]["function"] == "prelu"
        assert report["totals"]["dead"] == 0

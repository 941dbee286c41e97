"""Every kind of checkpoint, and what each command makes of it: the table of the README as a test."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from fuzz.seeds import Seed, make_seeds
from typer.testing import CliRunner, Result

from prelu_doctor.cli.app import app

PLANTED = [("relu", [1]), (":relu#1", [0, 3])]
"""Sites of the net in most files, and the dead units that were planted there."""
RELU_BEHIND_THE_NORM = ("2", [])

BY_ARCHITECTURE = ["state-dict", "legacy", "training", "lightning", "ema", "safetensors", "sharded", "distributed"]
PROGRAMS = ["pt2", "torchscript", "onnx", "onnx-with-data"]
CONVERTED = ["converted safetensors", "converted pt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(scope="module")
def seeds(folder: Path) -> dict[str, Seed]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {seed.kind: seed for seed in make_seeds(folder)}


@pytest.fixture
def run(seeds: dict[str, Seed], folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return run


def report(result: Result) -> dict:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("kind", [*BY_ARCHITECTURE, *PROGRAMS])
def test_scan_finds_the_planted_units(kind, seeds, run):
    scanned = report(run(*seeds[kind].command, "--format", "json"))
    assert [(site["id"], site["dead_units"]) for site in scanned["sites"]] == PLANTED
    assert scanned["totals"]["dead"] == 3
    assert scanned["data"]["samples"] == 20


@pytest.mark.parametrize("kind", CONVERTED)
def test_scan_takes_a_converted_file(kind, seeds, run):
    scanned = report(run(*seeds[kind].command, "--format", "json"))
    assert [(site["id"], site["function"]) for site in scanned["sites"]] == [("relu", "prelu"), ("prelu_2", "prelu")]


@pytest.mark.parametrize("kind", [*BY_ARCHITECTURE, "module", "hugging-face", "pt2"])
def test_convert_writes_a_file_that_is_read_back(kind, seeds, run, tmp_path):
    _, path, *options = seeds[kind].command
    healed = tmp_path / "healed.safetensors"
    done = report(run("convert", path, "-o", str(healed), *options, "--epochs", "0", "--format", "json"))
    assert done["preservation"]["equal"]
    assert all(not change["declined"] for change in done["changes"])
    options = [option for option in options if option not in ("--weights-key", "ema")]
    architecture = options if "--arch" in options else ["--arch", path, *options]
    again = report(run("scan", str(healed), *architecture, "--format", "json"))
    assert {site["function"] for site in again["sites"]} == {"prelu"}
    assert len(again["sites"]) == len(done["changes"]) > 0


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("torchscript", "--arch"),
        ("onnx", "PyTorch checkpoint"),
    ],
)
def test_convert_declines_what_it_cannot_rewrite_and_says_what_to_give(kind, told, seeds, run, tmp_path):
    _, path, *options = seeds[kind].command
    done = run("convert", path, "-o", str(tmp_path / "healed.safetensors"), *options)
    assert done.exit_code == 2
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_torchscript_archive_gives_its_weights_to_the_class(seeds, run, tmp_path):
    _, path, *options = seeds["torchscript"].command
    healed = tmp_path / "healed.safetensors"
    architecture = ("--arch", "architecture.py:build")
    done = run("convert", path, "-o", str(healed), *architecture, *options, "--epochs", "0", "--format", "json")
    assert [change["module"] for change in report(done)["changes"]] == ["relu", "prelu_2"]


def test_a_state_dict_without_architecture_is_examined_by_its_weights(seeds, run):
    scanned = report(run("scan", "state-dict.pt", "--format", "json"))
    assert scanned["basis"] == "weights-only"
    assert scanned["sites"] == []


def test_what_to_do_next_repeats_the_options_by_which_the_file_was_opened(seeds, run):
    text = run(*seeds["ema"].command).stdout
    assert "--weights-key ema" in text[text.index("prelu-doctor convert") :]


@pytest.mark.parametrize(("kind", "told"), [("onnx", "CHECKPOINT"), ("torchscript", "--arch module:callable")])
def test_what_to_do_next_names_what_convert_takes(kind, told, seeds, run):
    text = run(*seeds[kind].command).stdout
    assert told in text[text.index("prelu-doctor convert") :]


@pytest.mark.parametrize("kind", ["pt2", "torchscript", "safetensors"])
def test_a_key_of_weights_is_refused_where_there_are_none(kind, seeds, run):
    done = run(*seeds[kind].command, "--weights-key", "ema")
    assert done.exit_code == 2
    assert "which has no keys" in done.stderr


def test_what_was_left_out_stands_in_the_report(seeds, run):
    scanned = report(run(*seeds["lightning"].command, "--format", "json"))
    assert "prefix 'model.' removed" in scanned["model"]["note"]

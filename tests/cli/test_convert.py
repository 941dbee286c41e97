"""`prelu-doctor convert`: what each option does to the result, and what is never written."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn


@pytest.fixture
def convert(command, ward: Path, tmp_path: Path):
    """Converts `mlp.pt` on its data and returns the JSON report with the slopes that were written."""

    def run(*options: object) -> tuple[dict, torch.Tensor]:
        target = tmp_path / "healed.safetensors"
        result = command(
            "convert", ward / "mlp.pt", "--data", ward / "data.safetensors", "-o", target, "--force",
            "--format", "json", *options,
        )  # fmt: skip
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout), load_file(target)["relu.weight"]

    return run


def recipe_of(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["prelu_doctor.recipe"])


def test_dead_units_are_revived_the_output_is_kept_and_the_loss_does_not_rise(convert, tmp_path: Path):
    report, _ = convert("--steps", 20)
    assert (report["before"]["totals"]["dead"], report["after"]["totals"]["dead"]) == (2, 0)
    assert report["changes"][0]["revived"] == [2, 5]
    assert (report["preservation"]["promised"], report["preservation"]["equal"]) == (True, True)
    assert report["preservation"]["samples"] == 440
    assert report["fine_tune"]["objective"] == "cross-entropy"
    assert report["fine_tune"]["best"]["loss"] <= report["fine_tune"]["start"]["loss"]
    assert report["files"] == [str(tmp_path / "healed.safetensors")]


def test_the_recipe_stands_in_the_metadata_with_the_source_and_the_options(convert, ward: Path, tmp_path: Path):
    convert("--steps", 0, "--seed", 7)
    recipe = recipe_of(tmp_path / "healed.safetensors")
    assert recipe["source_sha256"] == hashlib.sha256((ward / "mlp.pt").read_bytes()).hexdigest()
    assert [site["site"] for site in recipe["sites"]] == ["relu"]
    assert (recipe["options"]["seed"], recipe["options"]["steps"]) == (7, 0)


def test_activations_of_other_kinds_are_fitted_where_they_are_named(command, ward: Path, tmp_path: Path):
    gelu = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    torch.save(gelu, tmp_path / "gelu.pt")
    options = [
        "--data",
        ward / "data.safetensors",
        "-o",
        tmp_path / "out.safetensors",
        "--steps",
        0,
        "--format",
        "json",
    ]
    report = json.loads(command("convert", tmp_path / "gelu.pt", "--activations", "relu, gelu", *options).stdout)
    (change,) = report["changes"]
    assert 0 < change["fit"]["residual"] < 1
    assert load_file(tmp_path / "out.safetensors")["1.weight"].tolist() == pytest.approx(
        change["fit"]["slopes"]["values"]
    )
    assert (report["preservation"]["promised"], report["preservation"]["equal"]) == (False, False)
    assert report["preservation"]["rms_change"] > 0
    assert report["before_fitting"]["equal"]
    recipe = recipe_of(tmp_path / "out.safetensors")
    assert recipe["options"]["activations"] == "relu,gelu"
    assert "gelu" in recipe["functions"]


def test_without_a_smooth_activation_nothing_is_fitted(convert):
    report, slopes = convert("--steps", 0, "--activations", "relu")
    assert (report["changes"][0]["fit"], report["before_fitting"], len(slopes)) == (None, None, 8)


@pytest.mark.parametrize("names", ["bogus", "relu,bogus", ""])
def test_an_unknown_activation_is_one_error_with_the_known_ones(command, ward: Path, tmp_path: Path, names: str):
    result = command("convert", ward / "mlp.pt", "-o", tmp_path / "out.safetensors", "--activations", names)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --activations names '")
    assert "relu, relu6, leaky_relu, gelu, silu, hardswish" in result.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_the_keys_are_those_of_a_prelu_written_by_hand(convert, tmp_path: Path):
    convert("--steps", 0)
    by_hand = nn.ModuleDict({"fc1": nn.Linear(4, 8), "relu": nn.PReLU(8), "fc2": nn.Linear(8, 3)})
    by_hand.load_state_dict(load_file(tmp_path / "healed.safetensors"), strict=True)


def test_steps_0_trains_nothing_and_leaves_slopes_where_they_start(convert):
    report, slopes = convert("--steps", 0)
    assert report["fine_tune"] is None
    assert report["not_trained"]
    assert slopes.tolist() == [0.25 if unit in (2, 5) else 0.0 for unit in range(8)]
    assert convert("--epochs", 0)[0]["fine_tune"] is None


def test_alpha_is_where_all_slopes_start_and_no_promise_is_made(convert):
    report, slopes = convert("--steps", 0, "--alpha", 0.25)
    assert slopes.tolist() == [0.25] * 8
    assert report["preservation"]["promised"] is False


@pytest.mark.parametrize(("shape", "slopes"), [("channel", 8), ("site", 1), ("tied", 1)])
def test_alpha_shape_is_the_number_of_slopes(convert, tmp_path: Path, shape: str, slopes: int):
    report, written = convert("--steps", 0, "--alpha-shape", shape)
    assert written.numel() == slopes
    assert recipe_of(tmp_path / "healed.safetensors")["alpha_shape"] == shape
    assert report["preservation"]["equal"] is True


def test_tied_slopes_are_one_parameter_for_the_whole_net(command, ward: Path, tmp_path: Path):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    torch.save(model, tmp_path / "deep.pt")
    data = ("--data", ward / "data.safetensors")
    result = command(
        "convert", tmp_path / "deep.pt", *data, "-o", tmp_path / "tied.safetensors",
        "--alpha-shape", "tied", "--alpha", 0.1, "--steps", 5,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    result = command("scan", tmp_path / "tied.safetensors", "--arch", tmp_path / "deep.pt", *data, "--format", "json")
    first, second = (site["alpha"]["values"] for site in json.loads(result.stdout)["sites"])
    assert first == second


@pytest.mark.parametrize(("reinit", "revived", "promised"), [("dead", 2, True), ("none", 0, True), ("all", 8, False)])
def test_reinit_says_which_units_are_drawn_anew(convert, reinit: str, revived: int, promised: bool):
    report, _ = convert("--steps", 0, "--reinit", reinit)
    assert len(report["changes"][0]["revived"]) == revived
    assert report["preservation"]["promised"] is promised


def test_silence_on_few_samples_is_no_death_unless_the_bound_is_widened(convert):
    report, _ = convert("--steps", 0, "--max-samples", 100)
    assert report["changes"][0]["revived"] == []
    assert "--revive-bound" in report["changes"][0]["declined_units"][0]["reason"]
    report, _ = convert("--steps", 0, "--max-samples", 100, "--revive-bound", 0.05)
    assert report["changes"][0]["revived"] == [2, 5]


def test_every_optimizer_moves_the_slopes_in_its_own_way(convert):
    start, written = torch.full((8,), 0.25), []
    for optimizer in ("adam", "adamw", "sgd"):
        report, slopes = convert("--steps", 10, "--optimizer", optimizer, "--alpha", 0.25)
        assert report["fine_tune"]["steps"] == 10
        assert report["fine_tune"]["best_step"] > 0
        written.append(slopes)
    assert len({tuple(slopes.tolist()) for slopes in (start, *written)}) == 4


def test_epochs_are_passes_over_the_data(convert):
    assert convert("--epochs", 2, "--batch-size", 100)[0]["fine_tune"]["steps"] == 8


def test_slopes_stay_within_alpha_range(convert):
    wide = convert("--steps", 20, "--alpha", 0.25, "--alpha-lr", 0.5)[1]
    assert not ((wide >= 0.2) & (wide <= 0.3)).all()
    narrow = convert("--steps", 20, "--alpha", 0.25, "--alpha-lr", 0.5, "--alpha-range", "0.2,0.3")[1]
    assert ((narrow >= 0.2) & (narrow <= 0.3)).all()


def test_frozen_slopes_stay_where_they_start(convert):
    report, slopes = convert("--steps", 20, "--alpha", 0.25, "--freeze-alpha-after", 0)
    assert report["fine_tune"]["best_step"] > 0
    assert slopes.tolist() == [0.25] * 8


def test_alpha_lr_and_alpha_weight_decay_reach_the_slopes(convert):
    still = convert("--steps", 20, "--alpha", 0.25, "--alpha-lr", 0)[1]
    assert still.tolist() == [0.25] * 8
    plain = ("--steps", 20, "--alpha", 0.25, "--optimizer", "sgd", "--alpha-lr", 0.01)
    assert not torch.equal(convert(*plain)[1], convert(*plain, "--alpha-weight-decay", 1)[1])


def test_the_seed_draws_the_weights(convert, tmp_path: Path):
    def weights(seed: int) -> bytes:
        convert("--steps", 0, "--seed", seed)
        return load_file(tmp_path / "healed.safetensors")["fc1.weight"].numpy().tobytes()

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)


@pytest.mark.parametrize(
    "bad",
    [
        ("--alpha", "nan"), ("--alpha", "inf"), ("--alpha", "1,0"), ("--lr", "nan"), ("--lr", "inf"), ("--lr", "-1"),
        ("--epochs", "nan"), ("--epochs", "inf"), ("--epochs", "-1"), ("--steps", "-1"), ("--steps", "1.5"),
        ("--alpha-lr", "nan"), ("--alpha-lr", "-1"), ("--alpha-lr", "inf"), ("--alpha-weight-decay", "inf"),
        ("--alpha-range", "1,0"), ("--alpha-range", "nan,1"), ("--alpha-range", "0,inf"), ("--alpha-range", "0,1,2"),
        ("--alpha-range", "x"), ("--revive-bound", "nan"), ("--revive-bound", "2"), ("--freeze-alpha-after", "-1"),
        ("--optimizer", "x"), ("--reinit", "x"), ("--alpha-shape", "x"), ("--seed", "-1"), ("--seed", str(2**64)),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_bad_value_is_refused_by_name_and_nothing_is_written(command, ward: Path, tmp_path: Path, bad):
    arguments = ("convert", ward / "mlp.pt", "--data", ward / "data.safetensors", "-o", tmp_path / "x.safetensors")
    result = command(*arguments, *bad)
    assert (result.exit_code, result.stdout) == (2, "")
    assert bad[0] in result.stderr
    assert "internal error" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_noise_revives_nothing_trains_nothing_and_says_so(command, ward: Path, tmp_path: Path):
    arguments = ("convert", ward / "mlp.pt", "-o", tmp_path / "x.safetensors", "--force")
    report = json.loads(command(*arguments, "--format", "json").stdout)
    assert report["changes"][0]["module"] == "relu"
    assert report["changes"][0]["revived"] == []
    assert "synthetic" in report["changes"][0]["declined_units"][0]["reason"]
    assert (report["fine_tune"], report["not_trained"]) == (None, "the data is synthetic")
    assert report["preservation"]["equal"] is True
    assert "synthetic" in command(*arguments).stdout


def test_a_plain_state_dict_has_its_recipe_beside_it(healed: Path):
    state = torch.load(healed / "healed.pt", weights_only=True)
    assert state["relu.weight"].shape == (8,)
    recipe = json.loads((healed / "healed.pt.recipe.json").read_text())
    assert recipe["weights_sha256"] == hashlib.sha256((healed / "healed.pt").read_bytes()).hexdigest()


def test_onnx_is_written_beside_and_proved(command, ward: Path, healed: Path):
    files = (healed / "healed.safetensors", healed / "healed.onnx")
    assert command("parity", *files, "--arch", ward / "mlp.pt", "--data", ward / "data.safetensors").exit_code == 0
    assert command("parity", ward / "mlp.pt", files[1], "--data", ward / "data.safetensors").exit_code == 1


def test_nothing_to_convert_leaves_an_equal_model(command, ward: Path, tmp_path: Path):
    torch.save(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), tmp_path / "tanh.pt")
    result = command(
        "convert", tmp_path / "tanh.pt", "--data", ward / "data.safetensors", "-o", tmp_path / "x.safetensors",
        "--format", "json",
    )  # fmt: skip
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["changes"], report["fine_tune"]) == ([], None)
    assert report["not_trained"]
    before = torch.load(tmp_path / "tanh.pt", weights_only=False).state_dict()
    after = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_checkpoint_is_not_written_under_a_name_for_onnx(command, ward: Path, tmp_path: Path):
    result = command("convert", ward / "mlp.pt", "-o", tmp_path / "healed.onnx")
    assert result.exit_code == 2
    assert f"-o healed.safetensors --onnx {tmp_path / 'healed.onnx'}" in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["healed.safetensors", "healed.pt"])
def test_a_converted_file_is_converted_again(command, ward: Path, healed: Path, tmp_path: Path, name: str):
    twice = tmp_path / "twice.safetensors"
    inputs = ("--arch", ward / "mlp.pt", "--data", ward / "data.safetensors")
    result = command("convert", healed / name, *inputs, "-o", twice, "--epochs", "1")
    assert result.exit_code == 0, result.stderr
    scanned = command("scan", twice, *inputs, "--format", "json")
    assert [site["function"] for site in json.loads(scanned.stdout)["sites"]] == ["prelu"]


@pytest.mark.parametrize("way", ["itself", "symbolic link", "hard link", "the ONNX file"])
def test_the_checkpoint_is_never_written(command, ward: Path, tmp_path: Path, way: str):
    source = tmp_path / "model.pt"
    source.write_bytes((ward / "mlp.pt").read_bytes())
    other = {"itself": source, "the ONNX file": source}.get(way, tmp_path / "other.pt")
    if way == "symbolic link":
        other.symlink_to(source)
    if way == "hard link":
        os.link(source, other)
    target = ("-o", tmp_path / "x.safetensors", "--onnx", other) if way == "the ONNX file" else ("-o", other)
    result = command("convert", source, *target, "--force")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is also an input" in result.stderr
    assert source.read_bytes() == (ward / "mlp.pt").read_bytes()


def test_existing_files_need_force_also_those_beside_the_named_one(command, ward: Path, tmp_path: Path):
    (tmp_path / "x.pt.recipe.json").write_text("somebody's")
    result = command("convert", ward / "mlp.pt", "-o", tmp_path / "x.pt")
    assert result.exit_code == 2
    assert "x.pt.recipe.json exists" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt.recipe.json"]
    assert command("convert", ward / "mlp.pt", "-o", tmp_path / "x.pt", "--force").exit_code == 0


def test_a_broken_promise_exits_1_and_writes_nothing(command, ward: Path, tmp_path: Path, monkeypatch):
    from prelu_doctor.deployment import onnx_file
    from prelu_doctor.errors import BrokenPromiseError

    def fails(*arguments, **options):
        raise BrokenPromiseError("the file is another function")

    monkeypatch.setattr(onnx_file, "export_onnx", fails)
    result = command(
        "convert", ward / "mlp.pt", "-o", tmp_path / "x.safetensors", "--onnx", tmp_path / "x.onnx"
    )  # fmt: skip
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: the file is another function\n"
    assert list(tmp_path.iterdir()) == []

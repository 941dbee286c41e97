"""Everything that goes wrong for a user is one message: what was found, what was expected, what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

MLP, WEIGHTS, ARCH, DATA = "{ward}/mlp.pt", "{ward}/mlp.safetensors", "{ward}/arch.py", "{ward}/data.safetensors"


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are wrong, each named after what is wrong with it."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.pt").write_text("hello")
    (folder / "empty.pt").touch()
    (folder / "garbage.pt").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "folder").mkdir()
    whole = folder / "whole.pt"
    torch.save(nn.Linear(4, 8), whole)
    (folder / "truncated.pt").write_bytes(whole.read_bytes()[:700])
    torch.save({"fc1.weigth": torch.zeros(8, 4), "fc1.bias": torch.zeros(8)}, folder / "wrong_keys.pt")
    torch.save(nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 8), nn.ReLU()), folder / "embedding.pt")
    torch.save(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), folder / "conv.pt")
    x, y = torch.randn(400, 4), torch.zeros(400, dtype=torch.int64)
    save_file({"x": x, "y": y + 3}, folder / "labels_too_large.safetensors")
    save_file({"x": x, "y": y - 1}, folder / "labels_negative.safetensors")
    save_file({"x": x, "y": y[:7]}, folder / "lengths_differ.safetensors")
    save_file({"x": torch.randn(400, 5)}, folder / "five_wide.safetensors")
    save_file({"x": x[:0]}, folder / "no_samples.safetensors")
    save_file({"x": torch.tensor(1.0)}, folder / "one_number.safetensors")
    save_file({"a": x.clone(), "b": x.clone()}, folder / "no_x.safetensors")
    save_file({"x": torch.randn(20, 1, 8, 8)}, folder / "one_channel.safetensors")
    save_file({"x": torch.full((20, 3), 99)}, folder / "index_too_large.safetensors")
    np.savez(folder / "objects.npz", x=np.array([{}, {}], dtype=object))
    return folder


CHECKPOINTS = [
    ("{bad}/absent.pt", [], "no such file"),
    ("{bad}/text.pt", [], "a text file"),
    ("{bad}/empty.pt", [], "an empty file"),
    ("{bad}/garbage.pt", [], "unknown format"),
    ("{bad}/folder", [], "a folder"),
    ("{bad}/truncated.pt", [], "truncated or damaged"),
    ("", [], "a folder"),
    (WEIGHTS, ["--data", DATA], "holds weights alone"),
    (MLP, ["--arch", f"{ARCH}:Mlp"], "holds a whole module"),
    (MLP, ["--arch-arg", "hidden=9"], "holds a whole module, which is built already"),
    (WEIGHTS, ["--arch", "{bad}/absent.py:Mlp"], "no such file"),
    (WEIGHTS, ["--arch", f"{ARCH}:Mpl"], "nearest: Mlp"),
    (WEIGHTS, ["--arch", f"{ARCH}:broken"], "no such luck"),
    (WEIGHTS, ["--arch", f"{ARCH}:three"], "returned a int"),
    (WEIGHTS, ["--arch", "no_such_module:Mlp"], "no module 'no_such_module'"),
    (WEIGHTS, ["--arch", ARCH], ":"),
    (WEIGHTS, ["--arch", f"{ARCH}:Mlp", "--arch-arg", "hidden"], "--arch-arg hidden"),
    (WEIGHTS, ["--arch", f"{ARCH}:Mlp", "--arch-arg", "hidden=9"], "9x4 in the architecture"),
    (WEIGHTS, ["--arch", f"{ARCH}:Mlp", "--arch-arg", "depth=9"], "depth"),
    ("{bad}/wrong_keys.pt", ["--arch", f"{ARCH}:Mlp"], "nearest in the file: 'fc1.weigth'"),
]
DATA_AND_FORWARD = [
    (MLP, ["--data", "{bad}/absent.npz"], "no such file"),
    (MLP, ["--data", "{bad}/text.pt"], "a text file"),
    (MLP, ["--data", "{bad}/folder"], "no images"),
    (MLP, ["--data", ARCH], "a text file"),
    (MLP, ["--data", f"{ARCH}:broken"], "no such luck"),
    (MLP, ["--data", f"{ARCH}:three"], "returned a int"),
    (MLP, ["--data", "{bad}/objects.npz"], "Python objects"),
    (MLP, ["--data", "{bad}/lengths_differ.safetensors"], "different numbers of samples"),
    (MLP, ["--data", "{bad}/five_wide.safetensors"], "cannot be multiplied"),
    (MLP, ["--data", "{bad}/no_samples.safetensors"], "no samples"),
    (MLP, ["--data", "{bad}/one_number.safetensors"], "a single number"),
    (MLP, ["--data", "{bad}/no_x.safetensors"], "'a'"),
    (MLP, ["--data", DATA, "--input-shape", "5"], "samples of shape 4"),
    (MLP, ["--input-shape", "5"], "cannot be multiplied"),
    (MLP, ["--input-shape", "0"], "--input-shape '0'"),
    (MLP, ["--input-shape", "4", "--input-shape", "4"], "positional arguments"),
    (MLP, ["--device", "nonsense"], "nonsense"),
    ("{bad}/conv.pt", ["--data", "{bad}/one_channel.safetensors"], "channels"),
    ("{bad}/embedding.pt", [], "an int64 array"),
    ("{bad}/embedding.pt", ["--input-shape", "3"], "indices"),
    ("{bad}/embedding.pt", ["--data", "{bad}/index_too_large.safetensors"], "index out of range"),
    (WEIGHTS, ["--arch", f"{ARCH}:Raises", "--data", DATA], "boom \\x1b[31m [red]here"),
]
CONVERSIONS = [
    (WEIGHTS, [], "holds weights alone"),
    (MLP, ["--data", "{bad}/labels_too_large.safetensors"], "labels from 3 to 3 for 3 classes"),
    (MLP, ["--data", "{bad}/labels_negative.safetensors"], "labels from -1 to -1"),
    (WEIGHTS, ["--arch", f"{ARCH}:ReturnsOneNumber", "--data", DATA], "outputs of shape []"),
    (WEIGHTS, ["--arch", f"{ARCH}:ReturnsNothing", "--data", DATA], "no floating-point tensor"),
]


def filled(template: str, ward: Path, bad: Path) -> str:
    return template.replace("{ward}", str(ward)).replace("{bad}", str(bad))


def assert_one_message(stderr: str, words: str) -> None:
    first, *rest = stderr.splitlines()
    assert first.startswith("error: ")
    assert words in stderr
    assert not any(line.startswith("error") for line in rest)
    assert any(line.startswith(("  expected: ", "  try: ")) for line in rest)
    assert "internal error" not in stderr
    assert "Traceback" not in stderr
    assert "\x1b" not in stderr


@pytest.mark.parametrize(("checkpoint", "options", "words"), CHECKPOINTS + DATA_AND_FORWARD)
def test_scan_says_what_is_wrong(command, ward: Path, bad: Path, checkpoint, options, words):
    result = command("scan", *(filled(part, ward, bad) for part in (checkpoint, *options)))
    assert (result.exit_code, result.stdout) == (2, "")
    assert_one_message(result.stderr, words)


@pytest.mark.parametrize(("checkpoint", "options", "words"), CHECKPOINTS + DATA_AND_FORWARD + CONVERSIONS)
def test_convert_says_what_is_wrong_and_writes_nothing(command, ward, bad, tmp_path, checkpoint, options, words):
    parts = (filled(part, ward, bad) for part in (checkpoint, *options))
    result = command("convert", "-o", tmp_path / "x.safetensors", *parts)
    assert (result.exit_code, result.stdout) == (2, "")
    assert_one_message(result.stderr, words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("checkpoint", "options", "words"), CHECKPOINTS[1:4] + DATA_AND_FORWARD[8:12])
def test_export_says_what_is_wrong_and_writes_nothing(command, ward, bad, tmp_path, checkpoint, options, words):
    parts = (filled(part, ward, bad) for part in (checkpoint, *options))
    result = command("export", "-o", tmp_path / "x.onnx", *parts)
    assert (result.exit_code, result.stdout) == (2, "")
    assert_one_message(result.stderr, words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("checkpoint", "options", "words"), CHECKPOINTS + DATA_AND_FORWARD)
def test_check_cannot_tell(command, ward: Path, bad: Path, checkpoint, options, words):
    result = command("check", "--format", "json", *(filled(part, ward, bad) for part in (checkpoint, *options)))
    assert result.exit_code == 2
    assert '"verdict": "undecided"' in result.stdout


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("{bad}/absent.onnx", "no such file"), ("{bad}/text.pt", "a text file"), ("{bad}/folder", "a folder"),
        ("{bad}/garbage.pt", "unknown format"), ("{bad}/empty.pt", "without a graph"), (MLP, "a torch.save file"),
    ],
)  # fmt: skip
def test_parity_refuses_what_is_no_onnx_model(command, ward: Path, bad: Path, file: str, words: str):
    result = command("parity", ward / "mlp.pt", filled(file, ward, bad), "--data", ward / "data.safetensors")
    assert (result.exit_code, result.stdout) == (2, "")
    assert_one_message(result.stderr, words)


@pytest.mark.parametrize("target", ["{bad}/absent/x", "{bad}/folder", "{ward}/mlp.pt", DATA])
def test_an_output_that_must_not_be_written_is_refused_at_once(command, ward: Path, bad: Path, target: str):
    result = command(
        "scan", ward / "mlp.pt", "--data", ward / "data.safetensors", "-o", filled(target, ward, bad), "--force"
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert_one_message(result.stderr, Path(target).name)


ODD_NAMES = [
    "two words.pt",
    "m\u00fcller.pt",
    "line\nbreak.pt",
    "esc\x1b[31m.pt",
    "[red]markup[bold].pt",
    "-dash.pt",
    "a'b\".pt",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_odd_file_names_work_and_steer_no_terminal(command, ward: Path, tmp_path: Path, monkeypatch, name: str):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes((ward / "mlp.pt").read_bytes())
    data = ("--data", ward / "data.safetensors", "--")
    shown = name.replace("\x1b", "\\x1b").replace("\n", "\\x0a")
    for options in (("scan",), ("check",), ("convert", "-o", f"out{name}.safetensors", "--steps", 1)):
        result = command(*options, *data, name)
        assert (result.exit_code, result.stderr) == (1 if options == ("check",) else 0, "")
        assert shown in result.stdout
        assert "\x1b" not in result.stdout
    missing = command("scan", *data, f"no{name}")
    assert missing.exit_code == 2
    assert f"no{shown}" in missing.stderr
    assert "\x1b" not in missing.stderr
    assert sorted(path.name for path in Path().iterdir()) == sorted([name, f"out{name}.safetensors"])


def test_one_sample_is_enough_to_scan_and_too_few_to_revive(command, ward: Path, tmp_path: Path):
    save_file({"x": torch.ones(1, 4), "y": torch.zeros(1, dtype=torch.int64)}, tmp_path / "one.safetensors")
    data = ("--data", tmp_path / "one.safetensors")
    assert command("scan", ward / "mlp.pt", *data).exit_code == 0
    result = command("convert", ward / "mlp.pt", *data, "-o", tmp_path / "x.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "0 dead units revived" in result.stdout


def test_one_held_out_sample_is_enough_to_convert(command, ward: Path, tmp_path: Path):
    x, y = torch.randn(400, 4), torch.zeros(400, dtype=torch.int64)
    save_file({"x": x, "y": y, "x_val": x[:1].clone(), "y_val": y[:1].clone()}, tmp_path / "data.safetensors")
    result = command(
        "convert",
        ward / "mlp.pt",
        "--data",
        tmp_path / "data.safetensors",
        "-o",
        tmp_path / "x.safetensors",
        "--steps",
        3,
    )
    assert result.exit_code == 0, result.stderr
    assert "2 dead units revived" in result.stdout


def test_whole_numbers_are_inputs_of_an_embedding(command, bad: Path, tmp_path: Path):
    save_file({"x": torch.randint(0, 10, (400, 3))}, tmp_path / "words.safetensors")
    data = ("--data", tmp_path / "words.safetensors")
    assert command("scan", bad / "embedding.pt", *data).exit_code == 0
    files = ("-o", tmp_path / "x.safetensors", "--onnx", tmp_path / "x.onnx")
    assert command("convert", bad / "embedding.pt", *data, *files).exit_code == 0


@pytest.mark.parametrize("layers", [[], [nn.Identity()], [nn.ReLU()]], ids=["no layer", "identity", "a lone ReLU"])
def test_a_model_without_parameters_is_scanned_and_converted(command, ward: Path, tmp_path: Path, layers):
    torch.save(nn.Sequential(*layers), tmp_path / "bare.pt")
    data = ("--data", ward / "data.safetensors")
    scan = command("scan", tmp_path / "bare.pt", *data, "--format", "json")
    assert (scan.exit_code, '"parameters": 0' in scan.stdout) == (0, True)
    result = command("convert", tmp_path / "bare.pt", *data, "-o", tmp_path / "x.safetensors", "--steps", 2)
    assert result.exit_code == 0, result.stderr


def test_a_model_that_returns_one_number_is_scanned(command, ward: Path):
    arch = ("--arch", f"{ward / 'arch.py'}:ReturnsOneNumber", "--data", ward / "data.safetensors")
    assert command("scan", ward / "mlp.safetensors", *arch).exit_code == 0


def test_a_nan_model_is_a_finding_and_never_a_crash(command, ward: Path, tmp_path: Path):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    torch.save(model, tmp_path / "nan.pt")
    data = ("--data", ward / "data.safetensors")
    assert '"verdict": "findings"' in command("scan", tmp_path / "nan.pt", *data, "--format", "json").stdout
    result = command("convert", tmp_path / "nan.pt", *data, "-o", tmp_path / "x.safetensors")
    assert "internal error" not in result.stderr
    assert (result.exit_code == 0) == (tmp_path / "x.safetensors").exists()

"""`prelu-doctor parity`: exit code 0 the same function, 1 not, 2 could not tell."""

from __future__ import annotations

import json
from pathlib import Path


def test_the_same_function_is_0_another_1_and_nonsense_2(command, ward: Path, healed: Path, tmp_path: Path):
    data = ("--data", ward / "data.safetensors")
    same = command("parity", healed / "healed.safetensors", healed / "healed.onnx", "--arch", ward / "mlp.pt", *data)
    assert (same.exit_code, same.stderr) == (0, "")
    other = command("parity", ward / "healthy.pt", healed / "healed.onnx", *data)
    assert other.exit_code == 1
    assert "DIFFERS" in other.stdout
    (tmp_path / "text.onnx").write_text("no model")
    nonsense = command("parity", ward / "mlp.pt", tmp_path / "text.onnx", *data)
    assert (nonsense.exit_code, nonsense.stdout) == (2, "")


def test_the_tolerance_decides(command, ward: Path, healed: Path):
    files = (ward / "mlp.pt", healed / "healed.onnx", "--data", ward / "data.safetensors")
    assert command("parity", *files, "--tolerance", 1e-9).exit_code == 1
    assert command("parity", *files, "--tolerance", 1e9).exit_code == 0


def test_the_report_is_json_and_goes_to_a_file(command, ward: Path, healed: Path, tmp_path: Path):
    arguments = (
        "parity", healed / "healed.pt", healed / "healed.onnx", "--arch", ward / "mlp.pt",
        "--data", ward / "data.safetensors", "--format", "json", "-o", tmp_path / "parity.json",
    )  # fmt: skip
    result = command(*arguments)
    # healed.pt and healed.safetensors were made alike, so that either is the function of healed.onnx.
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads((tmp_path / "parity.json").read_text())["verdict"] == "healthy"


def test_the_onnx_file_is_never_written(command, ward: Path, healed: Path):
    before = (healed / "healed.onnx").read_bytes()
    result = command("parity", ward / "mlp.pt", healed / "healed.onnx", "-o", healed / "healed.onnx", "--force")
    assert result.exit_code == 2
    assert "is also an input" in result.stderr
    assert (healed / "healed.onnx").read_bytes() == before


def test_what_was_done_to_open_the_checkpoint_is_a_note(command, ward: Path, healed: Path):
    arch = ("--arch", f"{ward / 'arch.py'}:Mlp")
    result = command("parity", ward / "wrapped.pt", healed / "healed.onnx", *arch, "--data", ward / "data.npz")
    assert result.stderr.startswith("note: ")

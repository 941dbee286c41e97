"""`prelu-doctor export`: an ONNX file, written once it is proved equal."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest


@pytest.fixture(scope="module")
def exported(ward: Path, tmp_path_factory):
    from typer.testing import CliRunner

    from prelu_doctor.cli.app import app

    target = tmp_path_factory.mktemp("exported") / "mlp.onnx"
    arguments = ["export", ward / "mlp.pt", "-o", target, "--data", ward / "data.safetensors", "--format", "json"]
    return target, CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_file_is_a_model_and_the_report_its_proof(exported, ward: Path):
    target, result = exported
    assert (result.exit_code, result.stderr) == (0, "")
    onnx.checker.check_model(onnx.load(target))
    report = json.loads(result.stdout)
    assert report["verdict"] == "healthy"
    assert report["onnx_path"] == str(target)
    assert [path.name for path in target.parent.iterdir()] == ["mlp.onnx"]


def test_an_existing_file_needs_force_and_the_input_is_never_written(command, exported, ward: Path):
    target, _ = exported
    before = target.read_bytes()
    result = command("export", ward / "mlp.pt", "-o", target)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert target.read_bytes() == before
    result = command("export", ward / "mlp.pt", "-o", ward / "mlp.pt", "--force")
    assert result.exit_code == 2
    assert "is also an input" in result.stderr


def test_a_converted_file_is_exported_with_its_slopes(command, ward: Path, healed: Path, tmp_path: Path):
    result = command("export", healed / "healed.pt", "--arch", ward / "mlp.pt", "-o", tmp_path / "healed.onnx")
    assert result.exit_code == 0, result.stderr
    assert "PRelu" in {node.op_type for node in onnx.load(tmp_path / "healed.onnx").graph.node}


def test_a_file_that_is_not_the_same_function_is_not_written(command, ward: Path, tmp_path: Path, monkeypatch):
    from prelu_doctor.deployment import onnx_file

    export = onnx_file.export_onnx

    def wrong(model, example, path, **options):
        made = export(model, example, path, **options)
        graph = onnx.load(path)
        bias = next(tensor for tensor in graph.graph.initializer if tuple(tensor.dims) == (3,))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
        onnx.save(graph, path)
        return made

    monkeypatch.setattr(onnx_file, "export_onnx", wrong)
    result = command("export", ward / "mlp.pt", "-o", tmp_path / "x.onnx", "--data", ward / "data.safetensors")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "differs from the model" in result.stderr
    assert list(tmp_path.iterdir()) == []

"""ONNX files on the command line: scanned and checked; what would rewrite them says why it does not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx_scanning.handmade import graph, node, numbers, saved, value


@pytest.fixture
def model(tmp_path):
    """fc1(4 -> 8)-ReLU-fc2, units 2 and 5 of which are dead."""
    bias = np.zeros(8, np.float32)
    bias[[2, 5]] = -100
    weights = {"fc1.weight": numbers(8, 4), "fc1.bias": bias, "fc2.weight": numbers(3, 8, seed=1)}
    nodes = [
        node("Gemm", "x fc1.weight fc1.bias", "z", transB=1),
        node("Relu", "z", "a", name="act"),
        node("Gemm", "a fc2.weight", "y", transB=1),
    ]
    return saved(tmp_path / "net.onnx", graph(nodes, [value("x", "n", 4)], [value("y", "n", 3)], weights))


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "data.npz", x=numbers(400, 4, seed=2))
    return tmp_path / "data.npz"


def test_scan_reports_as_for_a_checkpoint(command, model, data):
    result = command("scan", model, "--data", data, "--format", "json", "--batch-size", 100)
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    (site,) = report["sites"]
    assert (report["model"]["kind"], report["model"]["parameters"]) == ("onnx", 8 * 4 + 8 + 3 * 8)
    assert (site["id"], site["dead_units"], site["producers"], site["consumers"]) == ("act", [2, 5], ["fc1"], ["fc2"])
    assert (site["samples"], report["data"]["samples"]) == (400, 400)


def test_max_samples_and_the_text_report(command, model, data):
    result = command("scan", model, "--data", data, "--max-samples", 50)
    assert result.exit_code == 0
    assert "act" in result.stdout
    assert "50" in result.stdout


def test_check_judges_it(command, model, data):
    assert command("check", model, "--data", data).exit_code == 1
    assert command("check", model, "--data", data, "--max-dead", 0.25).exit_code == 0
    assert command("check", model).exit_code == 2  # noise, whose shape the file tells, decides nothing


@pytest.mark.parametrize(
    "line",
    [
        ("convert", "-o", "out.safetensors"),
        ("export", "-o", "out.onnx"),
        ("parity",),
    ],
)
def test_what_needs_a_module_says_so(command, model, tmp_path, line):
    name, *rest = line
    arguments = [tmp_path / part if "." in part else part for part in rest] or [model]
    result = command(name, model, *arguments)
    assert result.exit_code == 2
    assert "out of scope" in result.stderr
    assert "the PyTorch checkpoint that it was exported from" in result.stderr
    assert not any((tmp_path / part).exists() for part in ("out.safetensors", "out.onnx"))


def test_options_that_say_nothing_about_such_a_file_are_refused(command, model, data):
    result = command("scan", model, "--data", data, "--arch", "torch.nn:Identity")
    assert result.exit_code == 2
    assert "--arch" in result.stderr


def test_another_device_is_noted(command, model, data):
    result = command("scan", model, "--data", data, "--device", "cuda")
    assert result.exit_code == 0
    assert "on the CPU here, not on cuda" in result.stderr


def test_open_sizes_are_asked_for(command, tmp_path):
    path = saved(tmp_path / "m.onnx", graph([node("Relu", "x", "y")], [value("x", "n", 3, "h", "w")], [value("y", 1)]))
    result = command("scan", path)
    assert result.exit_code == 2
    assert "--input-shape" in result.stderr
    assert command("scan", path, "--input-shape", "3,8,8").exit_code == 0


def test_what_the_runtime_stops_at_is_one_message(command, tmp_path):
    nodes = [node("Reshape", "x seven", "r"), node("Relu", "r", "y")]
    held = {"seven": np.array([7, -1], np.int64)}
    path = saved(tmp_path / "m.onnx", graph(nodes, [value("x", "n", 4)], [value("y", 7, "m")], held))
    np.savez(tmp_path / "d.npz", x=numbers(10, 4))
    result = command("scan", path, "--data", tmp_path / "d.npz")
    assert result.exit_code == 2
    assert "onnxruntime stopped" in result.stderr


def test_non_finite_weights_are_a_finding_and_masks_are_none(command, tmp_path):
    weight = numbers(4, 4)
    weight[1, 2] = np.nan
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    nodes = [node("MatMul", "x w", "m"), node("Add", "m mask", "s"), node("Relu", "s", "y")]
    path = saved(tmp_path / "m.onnx", graph(nodes, [value("x", "n", 4, 4)], [value("y")], {"w": weight, "mask": mask}))
    np.savez(tmp_path / "d.npz", x=numbers(10, 4, 4))
    report = json.loads(command("scan", path, "--data", tmp_path / "d.npz", "--format", "json").stdout)
    assert report["model"]["non_finite"] == ["w"]

"""Samples are told apart wherever they lie: folded into rows, behind time, in batches of one size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_scanning.handmade import INT64, check_counts, graph, node, numbers, saved, scanned, tensors_of, value

from prelu_doctor.data.calls import Call
from prelu_doctor.doctor import scan
from prelu_doctor.errors import DataError
from prelu_doctor.patient import open_checkpoint

W, B = numbers(6, 4, seed=2), np.array([0, -500, 0, 1, -1, 0], np.float32)
HELD = {"fc.weight": W, "fc.bias": B}
GEMM = node("Gemm", "rows fc.weight fc.bias", "z", transB=1)
X = numbers(5, 3, 4, seed=1)


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize("order", ["sample-major", "sample-minor"])
def test_rows_are_folded_back_to_samples(tmp_path, order):
    """As after flattening `[N, T, C]` and `[T, N, C]`."""
    front = [node("Identity", "x", "t")] if order == "sample-major" else [node("Transpose", "x", "t", perm=[1, 0, 2])]
    nodes = [*front, node("Reshape", "t flat", "rows"), GEMM, node("Relu", "z", "a"), node("ReduceSum", "a", "y")]
    held = {**HELD, "flat": np.array([-1, 4], np.int64)}
    path = saved(tmp_path / "m.onnx", graph(nodes, [value("x", "n", 3, 4)], [value("y")], held))
    (site,) = scanned(path, X, size=2).sites
    output = relu(X @ W.T + B).transpose(0, 2, 1)
    check_counts(site, output > 0, output)
    assert (site.unit_axis, site.axis_assumed, site.dead_units) == (1, False, [1])


@pytest.mark.parametrize("perm", [[1, 0, 2], [2, 1, 0], [0, 2, 1], [1, 2, 0]])
def test_samples_and_units_are_found_on_any_axis(tmp_path, perm):
    nodes = [
        node("MatMul", "x w", "m"),
        node("Add", "m fc.bias", "s"),
        node("Transpose", "s", "z", perm=perm),
        node("Relu", "z", "a"),
        node("ReduceSum", "a", "y"),
    ]
    held = {"fc.bias": B, "w": W.T.copy()}
    path = saved(tmp_path / "m.onnx", graph(nodes, [value("x", "n", 3, 4)], [value("y")], held))
    (site,) = scanned(path, X, size=4).sites
    output = relu(X @ W.T + B).transpose(0, 2, 1)
    check_counts(site, output > 0, output)
    assert (site.unit_axis, site.axis_assumed) == (perm.index(2), False)


def test_units_behind_a_flatten_are_its_columns(tmp_path):
    """As the scan of a PyTorch model has it."""
    nodes = [node("Conv", "x conv.weight", "c"), node("Flatten", "c", "f"), node("Relu", "f", "y")]
    held = {"conv.weight": numbers(2, 3, 2, 2)}
    path = saved(tmp_path / "m.onnx", graph(nodes, [value("x", "n", 3, 4, 4)], [value("y")], held))
    (site,) = scanned(path, numbers(4, 3, 4, 4)).sites
    assert (site.units, site.unit_axis, site.axis_assumed, site.producers) == (18, 1, False, ["conv"])


def test_an_axis_that_no_producer_tells_is_assumed(tmp_path):
    path = saved(tmp_path / "m.onnx", graph([node("Relu", "x", "y")], [value("x", "n", 3, 5, 5)], [value("y")]))
    (site,) = scanned(path, numbers(4, 3, 5, 5)).sites
    assert (site.units, site.unit_axis, site.axis_assumed) == (3, 1, True)


def test_calls_that_share_their_weights_are_one_site(tmp_path):
    nodes = [
        node("Gemm", "left fc.weight fc.bias", "z1", transB=1),
        node("Relu", "z1", "a1"),
        node("Gemm", "right fc.weight fc.bias", "z2", transB=1),
        node("Relu", "z2", "a2"),
        node("Sub", "a1 a2", "y"),
    ]
    path = saved(tmp_path / "m.onnx", graph(nodes, [value("left", "n", 4), value("right", "n", 4)], [value("y")], HELD))
    left, right = X[:, 0], X[:, 1]
    (site,) = scanned(path, left, right, size=2).sites
    output = np.stack([relu(left @ W.T + B), relu(right @ W.T + B)], -1)
    check_counts(site, output > 0, output)
    assert site.calls == 2


def test_what_the_input_does_not_reach_is_certain(tmp_path):
    nodes = [
        node("MatMul", "table w", "t"),
        node("Relu", "t", "a", name="constant"),
        node("MatMul", "x w", "m"),
        node("Add", "m a", "s"),
        node("Relu", "s", "y"),
    ]
    held = {"table": numbers(1, 4), "w": W.T.copy()}
    path = saved(tmp_path / "m.onnx", graph(nodes, [value("x", "n", 4)], [value("y")], held))
    certain, estimated = scanned(path, X[:, 0]).sites
    assert (certain.id, certain.input_independent, certain.firing_rate_bound) == ("constant", True, 0)
    assert not estimated.input_independent


def fixed(folder, size):
    nodes = [node("Identity", "x", "rows"), GEMM, node("Relu", "z", "a"), node("ReduceSum", "a", "y")]
    return saved(folder / "m.onnx", graph(nodes, [value("x", size, 4)], [value("y")], HELD))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_fixed_batch_is_filled_up_and_the_filling_not_counted(tmp_path, size):
    path = fixed(tmp_path, size)
    x = numbers(7, 4, seed=8)
    report = scan(open_checkpoint(path), torch.from_numpy(x))
    (site,) = report.sites
    output = relu(x @ W.T + B)[:, :, None]
    check_counts(site, output > 0, output)
    assert report.data.samples == 7


def test_inputs_that_do_not_fit_the_file_are_refused(tmp_path):
    patient = open_checkpoint(fixed(tmp_path, 2))
    with pytest.raises(DataError, match="samples of shape 5"):
        scan(patient, torch.zeros(4, 5))


def test_without_data_the_file_tells_the_shape_of_noise(tmp_path):
    report = scan(open_checkpoint(fixed(tmp_path, 2)))
    assert (report.data.synthetic, report.data.samples) == (True, 512)
    assert report.model.kind == "onnx"
    assert report.model.parameters == 6 * 4 + 6


def test_whole_calls_carry_a_state_and_get_the_files_output_back(tmp_path):
    """Axis 0 of the state is not the batch, and one input is a number."""
    nodes = [
        node("Gemm", "x fc.weight fc.bias", "p", transB=1),
        node("Squeeze", "state axis", "s"),
        node("Add", "p s", "z"),
        node("Relu", "z", "a"),
        node("Unsqueeze", "a axis", "after"),
        node("Cast", "rate", "r", to=1),
        node("Mul", "a r", "y"),
    ]
    inputs = [value("x", 1, 4), value("state", 2, 1, 6), value("rate", kind=INT64)]
    nodes[1] = node("Gather", "state first", "s")
    nodes[4] = node("Concat", "u u", "after", axis=0)
    nodes.insert(4, node("Unsqueeze", "a axis", "u"))
    held = {**HELD, "axis": np.array([0], np.int64), "first": np.array(0, np.int64)}
    inputs[2].type.tensor_type.shape.SetInParent()  # no axes
    path = saved(tmp_path / "m.onnx", graph(nodes, inputs, [value("y", 1, 6), value("after", 2, 1, 6)], held))
    frames = numbers(5, 1, 4, seed=9)
    carried = []

    def stream():
        state = torch.zeros(2, 1, 6)
        for frame in frames:
            output = yield Call(torch.from_numpy(frame), state, torch.tensor(2))
            if output is not None:
                carried.append(output[1].clone())
                state = output[1]

    report = scan(open_checkpoint(path), stream)
    state, seen = np.zeros((1, 6), np.float32), []
    for frame in frames:
        state = relu(frame @ W.T + B + state)
        seen.append(state)
    output = np.concatenate(seen)[:, :, None]
    (site,) = report.sites
    check_counts(site, output > 0, output)
    np.testing.assert_allclose(carried[0][0].numpy(), seen[0], rtol=1e-5)


def test_a_file_without_an_activation_says_so(tmp_path):
    path = saved(tmp_path / "m.onnx", graph([node("Abs", "x", "y")], [value("x", "n", 4)], [value("y")]))
    report = scan(open_checkpoint(path), torch.zeros(3, 4))
    assert "PD303" in {finding.code for finding in report.findings}


def test_the_oracle_sees_what_the_file_computes(tmp_path):
    path = fixed(tmp_path, 5)
    np.testing.assert_allclose(tensors_of(path, X[:, 0])["a"], relu(X[:, 0] @ W.T + B), rtol=1e-5)

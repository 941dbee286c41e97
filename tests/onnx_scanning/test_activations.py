"""Every node that rectifies is a site, however an exporter wrote it; the counts are those of a slow oracle."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from onnx_scanning.handmade import (
    DOUBLE,
    FLOAT,
    check_counts,
    graph,
    node,
    numbers,
    saved,
    scanned,
    tensors_of,
    value,
)

BOUNDS = {"zero": np.float32(0), "six": np.float32(6), "two": np.float32(2), "minus": np.float32(-1)}
X = numbers(7, 3, 6, 6, seed=1) * 2


def behind_a_convolution(folder, *nodes, opset=18, **weights):
    """Conv(3 -> 4), unit 1 of which is dead, then what turns `z` into `y`."""
    bias = np.array([0, -500, 1, 0], np.float32)
    weights = {"conv.weight": numbers(4, 3, 3, 3), "conv.bias": bias, **BOUNDS, **weights}
    nodes = [node("Conv", "x conv.weight conv.bias", "z"), *nodes]
    return saved(folder / "m.onnx", graph(nodes, [value("x", "n", 3, 6, 6)], [value("y")], weights), opset=opset)


FORMS = {
    "Relu": ("relu", np.inf, [node("Relu", "z", "y")]),
    "Clip from 0": ("relu", np.inf, [node("Clip", "z zero", "y")]),
    "Clip from 0 to 6": ("relu6", 6, [node("Clip", "z zero six", "y")]),
    "Clip from 0 to 2": ("clamp", 2, [node("Clip", "z zero two", "y")]),
    "Clip by a Constant": (
        "relu6",
        6,
        [node("Constant", "", "low", value_float=0.0), node("Clip", "z low six", "y")],
    ),
    "Max with 0": ("relu", np.inf, [node("Max", "z zero", "y")]),
    "Max of 0": ("relu", np.inf, [node("Max", "zero z", "y")]),
    "ThresholdedRelu": ("relu", np.inf, [node("ThresholdedRelu", "z", "y", alpha=0.0)]),
    "Where above": ("relu", np.inf, [node("Greater", "z zero", "c"), node("Where", "c z zero", "y")]),
    "Where below": ("relu", np.inf, [node("LessOrEqual", "z zero", "c"), node("Where", "c zero z", "y")]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_rectifier_of_any_form_is_counted(tmp_path, form):
    function, ceiling, nodes = FORMS[form]
    path = behind_a_convolution(tmp_path, *nodes)
    scan = scanned(path, X, size=3)
    (site,) = scan.sites
    output = tensors_of(path, X)["y"].reshape(7, 4, -1)
    assert (site.function, site.unit_axis, site.axis_assumed, site.dead_units) == (function, 1, False, [])
    check_counts(site, (output > 0) & (output < ceiling), output)
    assert scan.unresolved == []


@pytest.mark.parametrize("opset", [8, 9, 10, 11, 12, 13, 17])
def test_old_operator_sets_are_counted_too(tmp_path, opset):
    clip = node("Clip", "a", "b", min=0.0, max=6.0) if opset < 11 else node("Clip", "a zero six", "b")
    path = behind_a_convolution(tmp_path, node("Relu", "z", "a"), clip, node("Flatten", "b", "y"), opset=opset)
    first, second = scanned(path, X, size=4).sites
    values = tensors_of(path, X)
    a, b = (values[name].reshape(7, 4, -1) for name in "ab")
    check_counts(first, a > 0, a)
    check_counts(second, (b > 0) & (b < 6), b)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Clip", "z minus six", "y")],
        [node("Clip", "z _ six", "y")],
        [node("ThresholdedRelu", "z", "y")],
        [node("Max", "z two", "y")],
        [node("Greater", "z two", "c"), node("Where", "c z zero", "y")],
        [node("Greater", "z zero", "c"), node("Abs", "z", "a"), node("Where", "c a zero", "y")],
    ],
)
def test_what_only_looks_like_a_rectifier_is_none(tmp_path, nodes):
    assert scanned(behind_a_convolution(tmp_path, *nodes), X).sites == []


@pytest.mark.parametrize("slopes", [[0.25, 0.0001, 0.25, 0.25], [0.25]])
def test_a_prelu_counts_what_is_positive_before_it(tmp_path, slopes):
    slope = np.array(slopes, np.float32).reshape(-1, 1, 1)
    nodes = [node("PRelu", "z act.weight", "a"), node("GlobalAveragePool", "a", "y")]
    (site,) = scanned(behind_a_convolution(tmp_path, *nodes, **{"act.weight": slope}), X, size=4).sites
    values = tensors_of(tmp_path / "m.onnx", X)
    check_counts(site, values["z"].reshape(7, 4, -1) > 0, values["a"].reshape(7, 4, -1))
    assert (site.alpha.shape, site.alpha.values) == (
        "channel" if len(slopes) > 1 else "site",
        slope.reshape(-1).astype(float).tolist(),
    )
    # Unit 1 is silent; a slope that lets no gradient through makes it dead.
    assert (site.dead_units, site.never_positive) == (([1], 0) if len(slopes) > 1 else ([], 1))


def test_a_leaky_relu_has_the_slope_of_its_attribute(tmp_path):
    path = behind_a_convolution(tmp_path, node("LeakyRelu", "z", "a", alpha=0.2), node("Flatten", "a", "y"))
    (site,) = scanned(path, X).sites
    values = tensors_of(path, X)
    check_counts(site, values["z"].reshape(7, 4, -1) > 0, values["a"].reshape(7, 4, -1))
    assert (site.alpha.shape, site.alpha.values) == ("constant", [float(np.float32(0.2))])
    assert (site.dead, site.never_positive) == (0, 1)


def test_dead_units_are_those_that_never_fire(tmp_path):
    path = behind_a_convolution(tmp_path, node("Relu", "z", "a"), node("GlobalAveragePool", "a", "y"))
    (site,) = scanned(path, X).sites
    assert (site.dead, site.dead_units) == (1, [1])
    assert site.firing_rate_bound == pytest.approx(1 - 0.05 ** (1 / 7))


def test_one_slope_for_several_sites_is_tied(tmp_path):
    nodes = [node("PRelu", "z s", "a"), node("Conv", "a conv2", "b"), node("PRelu", "b s", "y")]
    path = behind_a_convolution(tmp_path, *nodes, s=np.array([[[0.1]]], np.float32), conv2=numbers(5, 4, 1, 1, seed=2))
    assert [site.alpha.shape for site in scanned(path, X).sites] == ["tied", "tied"]


@pytest.mark.parametrize(("kind", "dtype"), [(DOUBLE, np.float64), (TensorProto.FLOAT16, np.float16)])
def test_other_floating_types_are_counted(tmp_path, kind, dtype):
    weight, bias = numbers(4, 5).astype(dtype), np.array([0, -60, 0, 1], dtype)
    nodes = [node("MatMul", "x w", "m"), node("Add", "m b", "z"), node("Relu", "z", "y")]
    weights = {"w": weight.T.copy(), "b": bias}
    path = saved(tmp_path / "m.onnx", graph(nodes, [value("x", "n", 5, kind=kind)], [value("y", kind=kind)], weights))
    x = numbers(9, 5, seed=3).astype(dtype)
    (site,) = scanned(path, x, size=4).sites
    output = tensors_of(path, x)["y"].astype(np.float64)[:, :, None]
    check_counts(site, output > 0, output)
    assert (site.silent_outputs, site.unit_axis, site.axis_assumed) == ([1], 1, False)


def test_positive_doubles_below_the_range_of_float32_fire(tmp_path):
    path = saved(
        tmp_path / "m.onnx",
        graph([node("Relu", "x", "y")], [value("x", "n", 2, kind=DOUBLE)], [value("y", kind=DOUBLE)]),
    )
    (site,) = scanned(path, np.array([[1e-60, -1.0]])).sites
    assert site.firing_rate == [1, 0]


def test_nan_and_minus_infinity_are_seen_and_neither_fires(tmp_path):
    path = saved(
        tmp_path / "m.onnx",
        graph([node("Relu", "x", "a"), node("Flatten", "a", "y")], [value("x", "n", 2, 4)], [value("y")]),
    )
    x = np.full((3, 2, 4), -1, np.float32)
    (clean,) = scanned(path, x).sites
    assert (clean.saw_nan, clean.saw_negative_infinity) == (False, False)
    for place in range(4):  # runtimes lose a NaN at some places of a reduction and not at others
        spoilt = x.copy()
        spoilt[1, 0, place] = np.nan
        (site,) = scanned(path, spoilt).sites
        assert (site.saw_nan, site.saw_negative_infinity, site.firing_rate[0]) == (True, False, 0)
        spoilt[1, 0, 1 - min(place, 1)] = -np.inf
        (site,) = scanned(path, spoilt).sites
        assert (site.saw_nan, site.saw_negative_infinity) == (True, True)


def test_the_lowest_finite_number_is_no_infinity(tmp_path):
    path = saved(tmp_path / "m.onnx", graph([node("Relu", "x", "y")], [value("x", "n", 2)], [value("y")]))
    (site,) = scanned(path, np.full((2, 2), np.finfo(np.float32).min, np.float32)).sites
    assert not site.saw_negative_infinity


def test_rectifiers_inside_of_fused_operators_are_told(tmp_path):
    weights = {"w": numbers(4, 3, 3, 3), "rw": numbers(1, 2, 144), "rr": numbers(1, 2, 2)}
    nodes = [
        node("FusedConv", "x w", "z", domain="com.microsoft", activation="Relu", name="fused"),
        node("Relu", "z", "a"),
        node("Reshape", "a shape", "s"),
        node("RNN", "s rw rr", "y", hidden_size=2, activations=["Relu"], name="recurrent"),
    ]
    weights["shape"] = np.array([0, 1, 64], np.int64)
    weights["rw"] = numbers(1, 2, 64)
    main = graph(nodes, [value("x", "n", 3, 6, 6)], [value("y")], weights)
    scan = scanned(saved(tmp_path / "m.onnx", main, domains=["com.microsoft"]), X)
    assert len(scan.sites) == 1
    assert {entry.id for entry in scan.unresolved} == {"fused", "recurrent"}
    assert all("inside" in entry.reason for entry in scan.unresolved)


def test_a_relu_of_integers_is_told(tmp_path):
    nodes = [node("Relu", "x", "a", name="whole"), node("Cast", "a", "y", to=FLOAT)]
    path = saved(tmp_path / "m.onnx", graph(nodes, [value("x", "n", 3, kind=TensorProto.INT32)], [value("y")]))
    scan = scanned(path, np.ones((2, 3), np.int32))
    assert (scan.sites, [entry.id for entry in scan.unresolved]) == ([], ["whole"])
    assert "no gradient" in scan.unresolved[0].reason


def test_weights_listed_as_inputs_are_weights(tmp_path):
    """As files of before version 4 of the format have them."""
    weights = {"w": numbers(40, 30), "b": np.zeros(40, np.float32)}
    nodes = [node("Gemm", "x w b", "z", transB=1), node("Relu", "z", "y")]
    inputs = [value("x", "n", 30), value("w", 40, 30), value("b", 40)]
    path = saved(tmp_path / "m.onnx", graph(nodes, inputs, [value("y")], weights), opset=8, ir=3)
    (site,) = scanned(path, numbers(5, 30)).sites
    assert (site.units, site.unit_axis, site.axis_assumed) == (40, 1, False)

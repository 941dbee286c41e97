"""Activations inside of If, Loop, Scan and functions are counted where they stand."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from onnx_scanning.handmade import BOOL, FLOAT, INT64, check_counts, graph, node, numbers, saved, scalar, scanned, value

W = numbers(5, 4, seed=2)
U = numbers(5, 5, seed=3) / 2
B = np.array([0, -500, 0, 1, -1], np.float32)
X = numbers(7, 3, 4, seed=1)  # 7 samples of 3 steps


def relu(x):
    return np.maximum(x, 0)


def states():
    """What an unrolled loop over the steps computes: h = relu(W x + U h + b), for each step `[N, 5]`."""
    state, seen = np.zeros((7, 5), np.float32), []
    for step in range(3):
        state = relu(X[:, step] @ W.T + state @ U.T + B)
        seen.append(state)
    return np.stack(seen, -1)  # [N, C, steps]


def cell(prefix=""):
    """One step: from `step` [N, 4] and `state` [N, 5] to `after`."""
    return [
        node("Gemm", "step w b", f"{prefix}p", transB=1, name="cell/in"),
        node("Gemm", "state u", f"{prefix}q", transB=1, name="cell/hidden"),
        node("Add", f"{prefix}p {prefix}q", f"{prefix}sum"),
        node("Relu", f"{prefix}sum", "after", name="cell_relu"),
    ]


def recurrent(folder, loop, *nodes, opset=18, **weights):
    """A loop over the steps of x, and a sum over the outputs."""
    held = {"w": W, "u": U, "b": B, "five": np.array([5], np.int64), "zero": np.array([0], np.int64), **weights}
    shape = [
        node("Shape", "x", "sizes"),
        node("Gather", "sizes zero", "n"),
        node("Concat", "n five", "state_sizes", axis=0),
        node("ConstantOfShape", "state_sizes", "start"),
    ]
    main = graph([*shape, *nodes, loop], [value("x", "n", 3, 4)], [value("last")], held)
    return saved(folder / "m.onnx", main, opset=opset)


def scan_path(folder):
    body = graph(
        [*cell(), node("Identity", "after", "seen")],
        [value("state"), value("step")],
        [value("after"), value("seen")],
        name="body",
    )
    loop = node("Scan", "start x", "last all", body=body, num_scan_inputs=1, scan_input_axes=[1])
    return recurrent(folder, loop)


def loop_path(folder, turns=3, opset=18):
    take = [node("Gather", "x turn", "step", axis=1)]
    body = graph(
        [*take, *cell(), node("Identity", "go", "go_on")],
        [scalar("turn", INT64), scalar("go", BOOL), value("state")],
        [scalar("go_on", BOOL), value("after")],
        name="body",
    )
    loop = node("Loop", "turns _ start", "last", body=body)
    return recurrent(folder, loop, opset=opset, turns=np.array(turns, np.int64))


@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize("made", [scan_path, loop_path])
def test_every_turn_of_a_loop_is_counted_for_its_sample(tmp_path, made, size):
    scan = scanned(made(tmp_path), X, size=size)
    (site,) = scan.sites
    seen = states()
    check_counts(site, seen > 0, seen)
    assert (site.dead_units, site.unit_axis, site.axis_assumed, site.input_independent) == ([1], 1, False, False)
    assert site.producers == ["cell/in", "cell/hidden"] or site.producers == ["cell"]
    assert scan.unresolved == []


def test_a_loop_of_an_old_operator_set_is_counted(tmp_path):
    (site,) = scanned(loop_path(tmp_path, opset=11), X, size=3).sites
    seen = states()
    check_counts(site, seen > 0, seen)


def test_a_loop_without_a_turn_is_told(tmp_path):
    scan = scanned(loop_path(tmp_path, turns=0), X)
    assert (scan.sites, [entry.id for entry in scan.unresolved]) == ([], ["cell_relu"])
    assert "no turn" in scan.unresolved[0].reason


def branching(folder):
    """A ReLU behind one of two layers, by the sign of the first number of the batch."""

    def branch(name, bias):
        nodes = [
            node("Gemm", f"x w {bias}", f"z_{name}", transB=1),
            node("Relu", f"z_{name}", f"a_{name}", name=f"relu_{name}"),
        ]
        return graph(nodes, [], [value(f"a_{name}")], name=name)

    held = {"w": W, "b": B, "c": -B, "zero": np.array(0, np.int64), "nought": np.array(0, np.float32)}
    nodes = [
        node("Gather", "x zero", "row"),
        node("Gather", "row zero", "number"),
        node("Greater", "number nought", "positive"),
        node("If", "positive", "a", then_branch=branch("then", "b"), else_branch=branch("else", "c")),
        node("ReduceSum", "a", "y"),
    ]
    return saved(folder / "m.onnx", graph(nodes, [value("x", "n", 4)], [value("y")], held))


def signed(sign, seed):
    x = numbers(3, 4, seed=seed)
    x[0, 0] = sign * abs(x[0, 0])
    x[1, 0], x[2, 0] = x[0, 0], x[0, 0]
    return x


def test_the_branch_that_is_taken_is_counted_and_the_other_one_told(tmp_path):
    x = signed(1, 5)
    scan = scanned(branching(tmp_path), x)
    (site,) = scan.sites
    output = relu(x @ W.T + B)[:, :, None]
    check_counts(site, output > 0, output)
    assert [entry.id for entry in scan.unresolved] == ["relu_else"]
    assert "never taken" in scan.unresolved[0].reason


def test_a_branch_that_a_later_batch_takes_first_is_counted_from_then_on(tmp_path):
    parts = [signed(1, 5), signed(-1, 6), signed(1, 7), signed(-1, 8)]
    scan = scanned(branching(tmp_path), np.concatenate(parts), size=3)
    first, second = scan.sites
    for site, bias, own in ((first, B, parts[::2]), (second, -B, parts[1::2])):
        output = np.concatenate([relu(x @ W.T + bias) for x in own])[:, :, None]
        check_counts(site, output > 0, output)
    assert scan.unresolved == []


def test_a_loop_inside_a_branch_inside_a_loop_is_counted(tmp_path):
    """The inner loop runs in every second turn of the outer one."""
    inner = graph(
        [node("Relu", "held", "lower"), node("Add", "lower offset", "after_inner"), node("Identity", "go2", "go_on2")],
        [scalar("turn2", INT64), scalar("go2", BOOL), value("held")],
        [scalar("go_on2", BOOL), value("after_inner")],
        name="inner",
    )
    then = graph([node("Loop", "two _ state", "t", body=inner)], [], [value("t")], name="then")
    other = graph([node("Identity", "state", "e")], [], [value("e")], name="other")
    outer = graph(
        [
            node("Mod", "turn two", "rest"),
            node("Cast", "rest", "odd", to=BOOL),
            node("If", "odd", "out", then_branch=then, else_branch=other),
            node("Identity", "go", "go_on"),
        ],
        [scalar("turn", INT64), scalar("go", BOOL), value("state")],
        [scalar("go_on", BOOL), value("out")],
        name="outer",
    )
    held = {"two": np.array(2, np.int64), "four": np.array(4, np.int64), "offset": np.float32(-0.3)}
    nodes = [node("Loop", "four _ x", "last", body=outer)]
    path = saved(tmp_path / "m.onnx", graph(nodes, [value("x", "n", 5)], [value("last")], held))
    x = numbers(6, 5, seed=4)
    state, seen = x, []
    for turn in range(4):
        for _ in range(2 * (turn % 2)):
            seen.append(relu(state))
            state = relu(state) + np.float32(-0.3)
    outputs = np.stack(seen, -1)
    # The first turn takes the other branch, the first run of the file the inner loop all the same.
    (site,) = scanned(path, x, size=4).sites
    assert site.axis_assumed
    check_counts(site, outputs > 0, outputs)


def test_functions_of_the_file_are_looked_into(tmp_path):
    nodes = [node("Gemm", "x w b", "z", transB=1), node("Relu", "z", "y")]
    function = helper.make_function("own", "Block", ["x", "w", "b"], ["y"], nodes, [helper.make_opsetid("", 18)])
    held = {"fc.weight": W, "fc.bias": B}
    call = node("Block", "x fc.weight fc.bias", "y", domain="own")
    main = graph([call], [value("x", "n", 4)], [value("y")], held)
    path = saved(tmp_path / "m.onnx", main, functions=[function], domains=["own"])
    x = X[:, 0]
    (site,) = scanned(path, x).sites
    output = relu(x @ W.T + B)[:, :, None]
    check_counts(site, output > 0, output)
    assert site.producers == ["fc"]


def test_sequences_and_optionals_do_no_harm(tmp_path):
    held = {"w": W, "b": B, "zero": np.array(0, np.int64)}
    nodes = [
        node("Gemm", "x w b", "z", transB=1),
        node("SequenceConstruct", "z z", "several"),
        node("SequenceAt", "several zero", "one"),
        node("Optional", "one", "perhaps"),
        node("OptionalGetElement", "perhaps", "surely"),
        node("Relu", "surely", "y"),
    ]
    path = saved(tmp_path / "m.onnx", graph(nodes, [value("x", "n", 4)], [value("y", kind=FLOAT)], held))
    (site,) = scanned(path, X[:, 0]).sites
    assert (site.units, site.axis_assumed, site.silent_outputs) == (5, True, [1, 4])

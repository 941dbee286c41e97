"""Hostile ONNX files: each is refused with its reason, and nothing outside of its folder is read."""

from __future__ import annotations

import contextlib
import os
import shutil
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_scanning.handmade import FLOAT, graph, node, saved, value

from prelu_doctor.doctor import check_parity, scan
from prelu_doctor.errors import CheckpointError, DoctorError
from prelu_doctor.patient import open_checkpoint

SECRET = np.arange(4, dtype=np.float32)


def add(weight: TensorProto, *, initialisers=(), nodes=()):
    main = graph([*nodes, node("Add", "x w", "z"), node("Relu", "z", "y")], [value("x", "n", 4)], [value("y", "n", 4)])
    main.initializer.extend([weight, *initialisers])
    return main


def outside(location="weights.bin", **entries) -> TensorProto:
    """A tensor of 4 floats whose data lies in a second file."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, "offset": "0", "length": "16", **entries}.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret.bin").write_bytes(SECRET.tobytes())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(SECRET.tobytes())
    return tmp_path / "model"


def refusal(path) -> str:
    """Why a file is refused, by scan and by parity alike."""
    before = sorted(path.parent.parent.rglob("*"))
    with pytest.raises(CheckpointError) as by_scan:
        scan(path)
    with pytest.raises(CheckpointError) as by_parity:
        check_parity(helper_model(), path, data=np.zeros((2, 4), np.float32))
    assert sorted(path.parent.parent.rglob("*")) == before
    assert str(by_scan.value) == str(by_parity.value)
    return str(by_scan.value)


def helper_model():
    from torch import nn

    return nn.Identity()


@pytest.mark.parametrize(
    "location", ["/etc/hostname", "../secret.bin", "a/../../secret.bin", "..\\secret.bin", "C:\\x"]
)
def test_external_data_outside_of_the_folder(folder, location):
    path = saved(folder / "m.onnx", add(outside(location)))
    assert "is not a plain path inside the folder" in refusal(path)


def test_external_data_behind_a_symbolic_link(folder):
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to(folder.parent / "secret.bin")
    assert "symbolic link" in refusal(saved(folder / "m.onnx", add(outside())))


def test_external_data_below_a_folder_that_is_a_link(folder):
    (folder / "sub").symlink_to(folder.parent)
    assert "symbolic link" in refusal(saved(folder / "m.onnx", add(outside("sub/secret.bin"))))


def test_external_data_that_is_a_hard_link(folder):
    (folder / "weights.bin").unlink()
    os.link(folder.parent / "secret.bin", folder / "weights.bin")
    assert "hard links" in refusal(saved(folder / "m.onnx", add(outside())))


def test_external_data_that_is_a_pipe(folder):
    (folder / "weights.bin").unlink()
    os.mkfifo(folder / "weights.bin")
    assert "is not a regular file" in refusal(saved(folder / "m.onnx", add(outside())))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"length": "17"}, "too few"),
        ({"offset": "4"}, "too few"),
        ({"offset": "-4"}, "too few"),
        ({"length": "8"}, "its shape and type ask for 16"),
        ({"length": str(2**62)}, "too few"),
        ({"offset": "1e3"}, "not a number"),
    ],
)
def test_external_data_beyond_the_file_or_of_another_size(folder, entries, reason):
    assert reason in refusal(saved(folder / "m.onnx", add(outside(**entries))))


def test_external_data_that_many_tensors_claim(folder):
    """Each of them alone is honest; together they are as large as one likes."""
    others = []
    for number in range(50):
        others.append(outside())
        others[-1].name = f"other{number}"
    assert "claim together" in refusal(saved(folder / "m.onnx", add(outside(), initialisers=others)))


@pytest.mark.parametrize("place", ["constant", "sparse", "subgraph", "function"])
def test_external_data_of_tensors_that_are_no_initialisers(folder, place):
    weight = outside("../secret.bin")
    own = numpy_helper.from_array(SECRET, "w")
    constant = helper.make_node("Constant", [], ["c"], value=weight)
    functions = []
    if place == "constant":
        main = add(own, nodes=[constant])
    elif place == "sparse":
        main = add(own)
        indices = numpy_helper.from_array(np.arange(4), "i")
        main.sparse_initializer.append(helper.make_sparse_tensor(weight, indices, [4]))
    elif place == "subgraph":
        body = graph([constant], [], [value("c")])
        yes = numpy_helper.from_array(np.array(True), "yes")
        main = add(own, initialisers=[yes], nodes=[node("If", "yes", "i", then_branch=body, else_branch=body)])
    else:
        main = add(own)
        functions = [helper.make_function("own", "F", [], ["c"], [constant], [helper.make_opsetid("", 18)])]
    path = saved(folder / "m.onnx", main, functions=functions, domains=["own"])
    assert "is not a plain path inside the folder" in refusal(path)


def test_external_data_swapped_between_check_and_use(folder, monkeypatch):
    """The file that was looked at is the one that is read, whatever its name stands for by then."""
    path = saved(folder / "m.onnx", add(outside()))
    looked = os.fstat

    def swap(descriptor):
        status = looked(descriptor)
        if (folder / "weights.bin").exists() and not (folder / "weights.bin").is_symlink():
            shutil.move(folder / "weights.bin", folder / "moved.bin")
            (folder / "weights.bin").symlink_to(folder.parent / "other.bin")
        return status

    (folder.parent / "other.bin").write_bytes((SECRET + 100).tobytes())
    monkeypatch.setattr("prelu_doctor.checkpoints.external_data.os.fstat", swap)
    from prelu_doctor.checkpoints.onnx_files import read_onnx

    (stored,) = read_onnx(path).model.graph.initializer
    assert (folder / "weights.bin").is_symlink()
    assert np.array_equal(numpy_helper.to_array(stored), SECRET)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (TensorProto(name="w", data_type=FLOAT, dims=[2**40, 2**20], raw_data=b"\0" * 16), "claims"),
        (TensorProto(name="w", data_type=FLOAT, dims=[5], raw_data=b"\0" * 16), "claims 20 bytes and has 16"),
        (TensorProto(name="w", data_type=FLOAT, dims=[4], float_data=[1.0]), "claims 4 numbers and has 1"),
        (TensorProto(name="w", data_type=FLOAT, dims=[-4], raw_data=b"\0" * 16), "has the shape [-4]"),
        (TensorProto(name="w", data_type=99, dims=[4], raw_data=b"\0" * 16), "unknown type 99"),
    ],
)
def test_tensors_that_claim_more_than_the_file_holds(folder, tensor, reason):
    path = saved(folder / "m.onnx", add(tensor))
    tracemalloc.start()
    told = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason in told
    assert peak < 50e6


@pytest.mark.parametrize(
    ("op", "domain"), [("Anything", "nowhere"), ("EPContext", "com.microsoft"), ("PythonOp", "com.microsoft")]
)
def test_operators_of_somebody_else(folder, op, domain):
    """Also deep inside: such an operator needs a library of its own, or reads other files."""
    body = graph([helper.make_node(op, ["x"], ["c"], domain=domain)], [], [value("c")])
    yes = numpy_helper.from_array(np.array(True), "yes")
    nodes = [node("If", "yes", "i", then_branch=body, else_branch=body)]
    main = add(numpy_helper.from_array(SECRET, "w"), initialisers=[yes], nodes=nodes)
    told = refusal(saved(folder / "m.onnx", main, domains=[domain]))
    assert op in told
    assert domain in told


def functions(*calls):
    """Functions `F0`, `F1`, ... each of which calls those of these numbers."""
    made = []
    for number, called in enumerate(calls):
        nodes = [helper.make_node("Identity", ["x"], ["t"])]
        nodes += [
            helper.make_node(f"F{other}", ["x"], [f"u{place}"], domain="own") for place, other in enumerate(called)
        ]
        nodes.append(helper.make_node("Identity", [nodes[-1].output[0]], ["y"]))
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        made.append(helper.make_function("own", f"F{number}", ["x"], ["y"], nodes, imports))
    return made


def calling(folder, *calls):
    call = helper.make_node("F0", ["x"], ["called"], domain="own")
    main = add(numpy_helper.from_array(SECRET, "w"), nodes=[call])
    return saved(folder / "m.onnx", main, functions=functions(*calls), domains=["own"])


@pytest.mark.parametrize("calls", [[[0]], [[1], [0]], [[1], [2], [0]]])
def test_functions_that_call_themselves(folder, calls):
    assert "calls itself" in refusal(calling(folder, *calls))


def test_functions_that_unfold_without_end(folder):
    """Twelve functions, each of which calls the next one ten times."""
    calls = [[number + 1] * 10 for number in range(12)] + [[]]
    assert "nodes (at most" in refusal(calling(folder, *calls))


def test_graphs_inside_graphs_without_end(folder):
    yes = numpy_helper.from_array(np.array(True), "yes")
    inner = graph([node("Identity", "x", "c0")], [], [value("c0")])
    for depth in range(1, 25):
        branch = node("If", "yes", f"c{depth}", then_branch=inner, else_branch=inner)
        if depth > 3:  # twice the same would double the file each time
            branch = node("If", "yes", f"c{depth}", then_branch=inner)
        inner = graph([branch], [], [value(f"c{depth}")])
    main = add(numpy_helper.from_array(SECRET, "w"), initialisers=[yes], nodes=list(inner.node))
    assert "deep" in refusal(saved(folder / "m.onnx", main))


def test_constants_that_a_few_bytes_ask_for(folder):
    """4 GB of zeros, which an optimiser would compute before anything runs."""
    size = numpy_helper.from_array(np.array([2**15, 2**15], np.int64), "size")
    nodes = [node("ConstantOfShape", "size", "huge"), node("ReduceMax", "huge", "most", keepdims=0)]
    main = add(numpy_helper.from_array(SECRET, "w"), initialisers=[size], nodes=nodes)
    main.node[2].input[1] = "most"
    told = refusal(saved(folder / "m.onnx", main))
    assert "ConstantOfShape" in told
    # A small number of the same name in another graph does not hide the large one.
    small = graph([], [], [value("size")])
    small.initializer.append(numpy_helper.from_array(np.array([1]), "size"))
    yes = numpy_helper.from_array(np.array(True), "yes")
    main.node.insert(0, node("If", "yes", "unused", then_branch=small, else_branch=small))
    main.initializer.append(yes)
    assert "ConstantOfShape" in refusal(saved(folder / "m.onnx", main))


def test_names_of_an_onnx_file_are_never_shown_raw(folder):
    hostile = "a\x1b[31mred\x1b]0;t\x07<script>"
    weight = outside(f"../{hostile}")
    weight.name = hostile
    main = add(weight)
    main.node[0].input[1] = hostile
    told = refusal(saved(folder / "m.onnx", main))
    assert "\x1b" not in told
    assert "\x07" not in told
    good = add(numpy_helper.from_array(SECRET, hostile))
    good.node[0].input[1] = hostile
    good.node[1].name = hostile
    report = scan(saved(folder / "m.onnx", good), np.zeros((2, 4), np.float32))
    shown = [report.sites[0].id, report.sites[0].source, *report.sites[0].producers]
    assert not any("\x1b" in text or "\x07" in text for text in shown)


def test_damaged_onnx_files_end_in_one_message(folder):
    """Cut off anywhere, or with a byte changed: refused, or scanned."""
    content = saved(folder / "m.onnx", add(numpy_helper.from_array(SECRET, "w"))).read_bytes()
    random = np.random.default_rng(0)
    for number in range(120):
        mutated = bytearray(content)
        if number % 2:
            mutated = mutated[: random.integers(len(content))]
        else:
            mutated[random.integers(len(content))] = random.integers(256)
        path = folder / "mutated.onnx"
        path.write_bytes(bytes(mutated))
        with contextlib.suppress(DoctorError):
            scan(open_checkpoint(path), np.zeros((2, 4), np.float32))


def test_millions_of_empty_nodes(folder):
    """Two bytes each in the file, and a hundred and more in memory."""
    path = saved(folder / "m.onnx", add(numpy_helper.from_array(SECRET, "w")))
    model = onnx.load(path)
    model.graph.node.extend([helper.make_node("", [], [])] * 200_001)
    path.write_bytes(model.SerializeToString())
    assert "nodes (at most 200,000)" in refusal(path)


def test_names_that_are_no_text(folder):
    """Protocol buffers hand such a name over as bytes."""
    path = saved(folder / "m.onnx", add(numpy_helper.from_array(SECRET, "w")))
    path.write_bytes(path.read_bytes().replace(b"\x01w", b"\x01\xff"))
    assert "not UTF-8" in refusal(path)


def test_a_second_file_that_is_in_order_is_read(folder):
    """So that the refusals above are for their reason."""
    report = scan(saved(folder / "m.onnx", add(outside())), np.full((2, 4), -1.5, np.float32))
    assert report.sites[0].firing_rate == [0, 0, 1, 1]
    assert onnx.load(folder / "m.onnx").graph.initializer[0].name == "w"

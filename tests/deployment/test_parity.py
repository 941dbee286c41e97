import math
import os
import shutil

import msgspec
import numpy as np
import onnx
import pytest
import torch
from deployed_models import (
    IMAGES,
    ROWS,
    CountsItsCalls,
    FrozenBatchView,
    LoopsOverSamples,
    TakesThree,
    TwoInputsInPlace,
    gaussian,
)
from onnx import TensorProto, helper
from torch import nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.deployment.onnx_file import export_onnx
from prelu_doctor.deployment.parity import check_parity
from prelu_doctor.errors import CheckpointError, DataError, ForwardError
from prelu_doctor.records import Model, ParityReport

RECORD = Model(path="model.pt", sha256="", kind="in-memory", parameters=0)


def parity(model, path, *batches, **options):
    return check_parity(model, path, batches, model_record=RECORD, **options)


def edited(made, folder, edit):
    model = onnx.load(made.path)
    edit(model)
    path = folder / "edited.onnx"
    onnx.save_model(model, path)
    return path


def slope_tensor(model, node_name):
    node = next(node for node in model.graph.node if node.name == node_name)
    return next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])


def handmade(folder, nodes, *, inputs, outputs, initializers=(), sizes="n"):
    """A float32 model over rows of 4, written by hand; `sizes` is what its inputs declare on axis 0."""
    declared = zip(inputs, [sizes] * len(inputs) if isinstance(sizes, str | int) else sizes, strict=True)
    graph = helper.make_graph(
        nodes,
        "handmade",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, 4]) for name, size in declared],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs],
        initializers,
    )
    path = folder / "handmade.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def identity(folder, name="x", output="output"):
    node = helper.make_node("Identity", [name], [output])
    return handmade(folder, [node], inputs=[name], outputs=[(output, TensorProto.FLOAT, ["n", 4])])


class Returns(nn.Module):
    """Whatever the test wants, of the input."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize("name", ["ConvNormPRelu", "AxesOfEveryKind", "DictOfOutputs"])
def test_a_faithful_export_is_healthy_at_every_batch_size(exports, name):
    made = exports[name]
    report = parity(made.model, made.path, made.batch)
    assert report.verdict == "healthy"
    assert {check.batch_size for check in report.checks} - {0} == {1, 2, 5}
    assert {check.output for check in report.checks if check.batch_size} == set(made.file.outputs)
    assert report.opset == onnx.load(made.path).opset_import[0].version
    assert msgspec.json.decode(msgspec.json.encode(report), type=ParityReport) == report


def test_a_frozen_branch_is_found(exports):
    made = exports["FrozenBatchBranch"]
    report = parity(made.model, made.path, made.batch)
    assert report.verdict == "findings"
    assert {check.batch_size for check in report.checks if not check.passed} == {1}


def test_a_frozen_view_is_found_where_the_model_itself_runs_at_no_other_size(tmp_path):
    model = FrozenBatchView()
    export_onnx(model, ROWS.take(slice(3)), tmp_path / "m.onnx")
    report = parity(model, tmp_path / "m.onnx", ROWS, batch_sizes=(3, 5))
    assert report.verdict == "findings"
    assert all(check.passed for check in report.checks if check.batch_size == 3)
    assert {check.detail for check in report.checks if check.batch_size == 5} == {
        "the model itself does not run: shape '[3, -1]' is invalid for input of size 20"
    }


def test_a_file_that_does_not_run_at_some_size_is_a_finding_and_no_crash(tmp_path):
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2, 4])
    node = helper.make_node("Reshape", ["x", "shape"], ["output"])
    outputs = [("output", TensorProto.FLOAT, ["n", 4])]
    path = handmade(tmp_path, [node], inputs=["x"], outputs=outputs, initializers=[shape])
    report = parity(Returns(lambda x: x), path, ROWS)
    assert {check.batch_size for check in report.checks if not check.passed} == {1, 5}
    assert all("does not run" in check.detail for check in report.checks if not check.passed)


@pytest.mark.parametrize(("model", "size"), [(LoopsOverSamples(), 1), (TakesThree(), 3)])
def test_a_file_for_one_size_is_compared_at_that_size_alone_and_the_report_says_so(tmp_path, model, size):
    export_onnx(model, ROWS.take(slice(3)), tmp_path / "m.onnx")
    report = parity(model, tmp_path / "m.onnx", ROWS)
    assert (report.verdict, report.fixed_batch) == ("healthy", size)
    assert [check.batch_size for check in report.checks if check.batch_size] == [size] * 4


def reshape_to_two_rows(folder, sizes):
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2, 4])
    node = helper.make_node("Reshape", ["x", "shape"], ["output"])
    outputs = [("output", TensorProto.FLOAT, ["n", 4])]
    return handmade(folder, [node], inputs=["x"], outputs=outputs, initializers=[shape], sizes=sizes)


def test_a_size_counts_as_fixed_only_where_the_file_declares_it(tmp_path):
    model = Returns(lambda x: x.clone())
    report = parity(model, reshape_to_two_rows(tmp_path, 2), ROWS)
    assert (report.verdict, report.fixed_batch) == ("healthy", 2)
    report = parity(model, reshape_to_two_rows(tmp_path, "n"), ROWS)
    assert (report.verdict, report.fixed_batch) == ("findings", None)


def test_a_fixed_file_that_computes_something_else_is_found(tmp_path):
    report = parity(Returns(lambda x: x * 2), reshape_to_two_rows(tmp_path, 2), ROWS)
    assert (report.verdict, report.fixed_batch) == ("findings", 2)


@pytest.mark.parametrize("sizes", [("n", 2), (2, "n")])
def test_one_input_that_leaves_its_size_open_leaves_it_open_for_all(tmp_path, sizes):
    node = helper.make_node("Concat", ["left", "right"], ["output"], axis=1)
    outputs = [("output", TensorProto.FLOAT, ["m", 8])]
    path = handmade(tmp_path, [node], inputs=["left", "right"], outputs=outputs, sizes=sizes)

    class Joins(nn.Module):
        def forward(self, left, right):
            return torch.cat([left, right], 1)

    report = parity(Joins(), path, Batch(args=(gaussian(6, 4), gaussian(6, 4))))
    assert (report.verdict, report.fixed_batch) == ("findings", None)


def test_too_few_samples_for_a_fixed_size_are_repeated(tmp_path):
    seen = []
    model = Returns(lambda x: seen.append(x[:, 0].tolist()) or x.clone())
    node = helper.make_node("Identity", ["x"], ["output"])
    path = handmade(tmp_path, [node], inputs=["x"], outputs=[("output", TensorProto.FLOAT, [5, 4])], sizes=5)
    parity(model, path, Batch(args=(torch.arange(8.0).reshape(2, 4),)))
    assert seen == [[0, 4, 0, 4, 0]]


def test_a_file_that_declares_an_absurd_size_is_refused_before_it_is_fed(tmp_path):
    node = helper.make_node("Identity", ["x"], ["output"])
    outputs = [("output", TensorProto.FLOAT, [1 << 40, 4])]
    path = handmade(tmp_path, [node], inputs=["x"], outputs=outputs, sizes=1 << 40)
    with pytest.raises(DataError, match="batches of 1,099,511,627,776 samples alone"):
        parity(Returns(torch.clone), path, ROWS)


@pytest.mark.parametrize("node", ["last/PRelu", "capped/PRelu", "middle/PRelu", "one/PRelu"])
def test_a_wrong_slope_is_found(exports, tmp_path, node):
    made = exports["AxesOfEveryKind"]

    def plant(model):
        tensor = slope_tensor(model, node)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values.flat[0] += 0.01
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    report = parity(made.model, edited(made, tmp_path, plant), made.batch)
    assert report.verdict == "findings"
    assert f"slopes of {node}" in {check.output for check in report.checks if not check.passed}
    assert any(check.batch_size and not check.passed for check in report.checks)


def test_a_wrong_slope_that_no_input_reaches_is_found_all_the_same(exports, tmp_path):
    made = exports["ConvNormPRelu"]
    model = type(made.model)()
    with torch.no_grad():
        model.norm.bias.fill_(100.0)  # nothing is ever negative
    path = tmp_path / "m.onnx"
    export_onnx(model, IMAGES, path)
    proto = onnx.load(path)
    tensor = slope_tensor(proto, "act/PRelu")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 1, tensor.name))
    onnx.save_model(proto, path)
    report = parity(model, path, IMAGES)
    assert [check.output for check in report.checks if not check.passed] == ["slopes of act/PRelu"]


def test_a_slightly_wrong_weight_is_found_whatever_the_scale_of_the_output(tmp_path):
    for scale in (1e-6, 1.0, 1e6):
        factor = helper.make_tensor("factor", TensorProto.FLOAT, [], [scale * 1.001])
        node = helper.make_node("Mul", ["x", "factor"], ["output"])
        outputs = [("output", TensorProto.FLOAT, ["n", 4])]
        path = handmade(tmp_path, [node], inputs=["x"], outputs=outputs, initializers=[factor])
        report = parity(Returns(lambda x, scale=scale: x * scale), path, ROWS)
        assert report.verdict == "findings"
        assert all(check.scaled_error == pytest.approx(1e-3, rel=0.01) for check in report.checks)
        assert parity(Returns(lambda x, scale=scale: x * scale), path, ROWS, tolerance=2e-3).verdict == "healthy"


def test_non_finite_outputs_must_stand_at_the_same_places(tmp_path):
    path = identity(tmp_path)
    same = Batch(args=(torch.tensor([[math.nan, math.inf, -math.inf, 1.0]]),))
    report = parity(Returns(lambda x: x.clone()), path, same)
    assert report.verdict == "healthy"
    assert all(check.non_finite_equal for check in report.checks)
    assert all(check.max_error == 0 and check.scale == 1 for check in report.checks)
    for wrong in (math.inf, 0.0):
        report = parity(Returns(lambda x, wrong=wrong: x.nan_to_num(wrong, math.inf, -math.inf)), path, same)
        assert report.verdict == "findings"
        assert not any(check.non_finite_equal for check in report.checks)
        assert report.checks[0].detail == "NaN or infinity at different places (1 of 4)"
    report = parity(Returns(lambda x: -x), path, same)
    assert not any(check.non_finite_equal for check in report.checks)


def test_nan_weights_and_nan_inputs_pass_where_both_sides_agree(exports, tmp_path):
    made = exports["AxesOfEveryKind"]
    model = type(made.model)()
    with torch.no_grad():
        model.up.weight[2, 3] = math.nan
        model.middle.weight[1] = math.nan
    poisoned = made.batch.args[0].clone()
    poisoned[::2, 0, 1] = math.nan
    poisoned[1::2, 1, 1] = math.inf
    export_onnx(model, made.batch, tmp_path / "m.onnx")
    assert parity(model, tmp_path / "m.onnx", Batch(args=(poisoned,))).verdict == "healthy"
    assert parity(made.model, made.path, Batch(args=(poisoned,))).verdict == "healthy"
    assert parity(made.model, tmp_path / "m.onnx", made.batch).verdict == "findings"


def test_huge_values_overflow_neither_error_nor_report(tmp_path):
    huge = Batch(args=(torch.full((2, 4), 3e38),))
    report = parity(Returns(lambda x: -x), identity(tmp_path), huge)
    assert report.verdict == "findings"
    assert report.checks[0].max_error == pytest.approx(6e38)
    assert report.checks[0].scaled_error == pytest.approx(2)


def test_a_reference_of_zero_is_judged_by_the_error_itself(tmp_path):
    path = identity(tmp_path)
    zero = Returns(lambda x: x * 0)
    assert parity(zero, path, Batch(args=(torch.full((1, 4), 1e-7),))).verdict == "healthy"
    report = parity(zero, path, Batch(args=(torch.full((1, 4), 1e-3),)))
    assert report.verdict == "findings"
    assert report.checks[0].scale == 0
    assert report.checks[0].scaled_error == report.checks[0].max_error == pytest.approx(1e-3)


def test_integers_must_be_equal(tmp_path):
    node = helper.make_node("ArgMax", ["x"], ["output"], axis=1, keepdims=0)
    path = handmade(tmp_path, [node], inputs=["x"], outputs=[("output", TensorProto.INT64, ["n"])])
    assert parity(Returns(lambda x: x.argmax(1)), path, ROWS).verdict == "healthy"
    report = parity(Returns(lambda x: x.argmin(1)), path, ROWS, tolerance=100.0)
    assert report.verdict == "findings"
    assert "elements differ" in report.checks[0].detail


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (lambda x: x[:, :3], "float32 [1, 4], the model float32 [1, 3]"),
        (lambda x: x.double(), "float32 [1, 4], the model float64 [1, 4]"),
        (lambda x: (x, x), "1 outputs, the model 2"),
    ],
)
def test_another_shape_dtype_or_number_of_outputs_is_found(tmp_path, answer, detail):
    report = parity(Returns(answer), identity(tmp_path), ROWS)
    assert report.verdict == "findings"
    assert detail in report.checks[0].detail


def test_samples_come_in_order_and_are_repeated_where_there_are_too_few(tmp_path):
    seen = []
    x = torch.arange(12.0).reshape(3, 4)
    model = Returns(lambda x: seen.append(x[:, 0].tolist()) or x.clone())
    parity(model, identity(tmp_path), Batch(args=(x[:2],)), Batch(args=(x[2:],)))
    assert seen == [[0], [4], [8], [0, 4], [8, 0], [4, 8, 0, 4, 8]]


def test_data_may_be_a_callable_and_only_what_is_needed_is_drawn(tmp_path):
    drawn = []

    def batches():
        for _ in range(1000):
            drawn.append(1)
            yield ROWS

    assert check_parity(Returns(torch.clone), identity(tmp_path), batches, model_record=RECORD).verdict == "healthy"
    assert len(drawn) == 3


def test_inputs_are_matched_by_name_before_position(tmp_path):
    node = helper.make_node("Sub", ["left", "right"], ["output"])
    outputs = [("output", TensorProto.FLOAT, ["n", 4])]
    path = handmade(tmp_path, [node], inputs=["right", "left"], outputs=outputs)
    model = TwoInputsInPlace()
    left, right = gaussian(6, 4).abs(), gaussian(6, 4, seed=1)
    assert parity(model, path, Batch(args=(left, right))).verdict == "healthy"
    assert parity(model, path, Batch(kwargs={"right": right, "left": left})).verdict == "healthy"


def test_inputs_without_a_shared_name_are_matched_by_position(tmp_path):
    assert parity(Returns(torch.clone), identity(tmp_path, name="pixels"), ROWS).verdict == "healthy"


@pytest.mark.parametrize("names", [["left"], ["left", "other"], ["a", "b", "c"]])
def test_other_inputs_than_the_data_has_are_refused_listing_both(tmp_path, names):
    node = helper.make_node("Sum", names, ["output"])
    path = handmade(tmp_path, [node], inputs=names, outputs=[("output", TensorProto.FLOAT, ["n", 4])])
    with pytest.raises(DataError, match=f"'{names[-1]}'; the data has 'left', 'right'"):
        parity(TwoInputsInPlace(), path, Batch(args=(gaussian(6, 4), gaussian(6, 4))))


def test_model_and_data_are_as_before(tmp_path):
    model = CountsItsCalls().train()
    before = ROWS.args[0].clone()
    state = torch.get_rng_state()
    node = helper.make_node("Add", ["x", "x"], ["output"])
    path = handmade(tmp_path, [node], inputs=["x"], outputs=[("output", TensorProto.FLOAT, ["n", 4])])
    assert parity(model, path, ROWS).verdict == "healthy"
    assert model.training
    assert model.calls == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(ROWS.args[0], before)


def test_a_forward_that_overwrites_its_input_is_compared_on_the_input_as_it_was(tmp_path):
    node = helper.make_node("Add", ["x", "x"], ["output"])
    path = handmade(tmp_path, [node], inputs=["x"], outputs=[("output", TensorProto.FLOAT, ["n", 4])])
    assert parity(Returns(lambda x: x.mul_(2)), path, ROWS).verdict == "healthy"


def test_progress_source_and_tolerance_are_told(tmp_path):
    lines = []
    report = parity(
        Returns(torch.clone), identity(tmp_path), ROWS, synthetic=True, tolerance=0.5, progress=lines.append
    )
    assert {check.source for check in report.checks} == {"synthetic"}
    assert report.tolerance == 0.5
    assert lines[0] == "parity at batch size 1"
    assert len(lines) == 4 + 4 + 3


def test_a_model_that_never_runs_is_an_error_and_no_finding(tmp_path):
    with pytest.raises(ForwardError, match="ZeroDivisionError"):
        parity(Returns(lambda x: 1 // 0), identity(tmp_path), ROWS)


def test_no_data_is_refused(tmp_path):
    with pytest.raises(DataError, match="no sample"):
        parity(Returns(torch.clone), identity(tmp_path))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08garbage", b"PK\x03\x04", b"{}"])
def test_what_is_not_onnx_is_refused(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        parity(Returns(torch.clone), path, ROWS)
    assert "m.onnx" in caught.value.found
    assert caught.value.expected


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(CheckpointError):
            parity(Returns(torch.clone), path, ROWS)


def test_a_truncated_file_is_refused(exports, tmp_path):
    content = exports["ConvNormPRelu"].path.read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError):
        parity(exports["ConvNormPRelu"].model, tmp_path / "m.onnx", IMAGES)


def test_an_invalid_graph_is_refused(tmp_path):
    node = helper.make_node("Add", ["x", "nobody"], ["output"])
    path = handmade(tmp_path, [node], inputs=["x"], outputs=[("output", TensorProto.FLOAT, ["n", 4])])
    with pytest.raises(CheckpointError, match="not valid ONNX"):
        parity(Returns(torch.clone), path, ROWS)


def test_an_operator_the_runtime_lacks_is_refused(tmp_path, capfd):
    node = helper.make_node("Conjure", ["x"], ["output"], domain="com.microsoft")
    path = handmade(tmp_path, [node], inputs=["x"], outputs=[("output", TensorProto.FLOAT, ["n", 4])])
    proto = onnx.load(path)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save_model(proto, path)
    with pytest.raises(CheckpointError, match="onnxruntime"):
        parity(Returns(torch.clone), path, ROWS)
    assert capfd.readouterr() == ("", "")


class TestExternalData:
    @pytest.fixture
    def path(self, tmp_path):
        """x + bias, whose bias of 4 floats lies in a second file."""
        folder = tmp_path / "model"
        folder.mkdir()
        bias = onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "bias")
        node = helper.make_node("Add", ["x", "bias"], ["output"])
        outputs = [("output", TensorProto.FLOAT, ["n", 4])]
        path = handmade(folder, [node], inputs=["x"], outputs=outputs, initializers=[bias])
        onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        return path

    @staticmethod
    def set_entry(path, key, value):
        proto = onnx.load(path, load_external_data=False)
        entries = {entry.key: entry.value for entry in proto.graph.initializer[0].external_data} | {key: value}
        del proto.graph.initializer[0].external_data[:]
        for name, text in entries.items():
            proto.graph.initializer[0].external_data.add(key=name, value=text)
        path.write_bytes(proto.SerializeToString())

    @staticmethod
    def refusal(path):
        with pytest.raises(CheckpointError) as caught:
            parity(Returns(lambda x: x + torch.arange(4.0)), path, ROWS)
        assert "tensor bias" in caught.value.found
        return caught.value.found

    def test_a_second_file_beside_the_first_is_read(self, path):
        assert parity(Returns(lambda x: x + torch.arange(4.0)), path, ROWS).verdict == "healthy"
        assert parity(Returns(lambda x: x + 1), path, ROWS).verdict == "findings"

    def test_a_file_written_with_a_second_one_is_healthy(self, tmp_path, monkeypatch):
        monkeypatch.setattr("prelu_doctor.deployment.onnx_file.ONE_FILE_LIMIT", 0)
        model = nn.Sequential(nn.Linear(4, 300), nn.PReLU(300))
        assert export_onnx(model, ROWS, tmp_path / "m.onnx").data_path
        report = parity(model, tmp_path / "m.onnx", ROWS)
        assert report.verdict == "healthy"
        assert report.checks[0].output == "slopes of 1/PRelu"

    @pytest.mark.parametrize(
        "location", ["../outside.bin", "/etc/hostname", "a/../../outside.bin", "C:\\x", "..\\x", ""]
    )
    def test_a_place_outside_the_folder_is_refused(self, path, location):
        (path.parents[1] / "outside.bin").write_bytes(b"\0" * 16)
        self.set_entry(path, "location", location)
        self.refusal(path)

    def test_a_missing_file_is_refused(self, path):
        (path.parent / "weights.bin").unlink()
        assert "does not exist" in self.refusal(path)

    def test_a_memory_address_is_refused(self, path):
        self.set_entry(path, "location", "*/_ORT_MEM_ADDR_/*")
        assert "does not exist" in self.refusal(path)

    def test_a_symbolic_link_is_refused(self, path):
        shutil.move(path.parent / "weights.bin", path.parents[1] / "outside.bin")
        (path.parent / "weights.bin").symlink_to(path.parents[1] / "outside.bin")
        assert "symbolic link" in self.refusal(path)

    def test_a_linked_folder_on_the_way_is_refused(self, path):
        (path.parents[1] / "elsewhere").mkdir()
        shutil.move(path.parent / "weights.bin", path.parents[1] / "elsewhere" / "weights.bin")
        (path.parent / "sub").symlink_to(path.parents[1] / "elsewhere")
        self.set_entry(path, "location", "sub/weights.bin")
        assert "symbolic link" in self.refusal(path)

    def test_a_hard_link_is_refused(self, path):
        os.link(path.parent / "weights.bin", path.parents[1] / "outside.bin")
        assert "hard links" in self.refusal(path)

    @pytest.mark.parametrize(("key", "value"), [("length", "17"), ("offset", "16"), ("offset", "-4"), ("length", "x")])
    def test_bytes_beyond_the_file_are_refused(self, path, key, value):
        self.set_entry(path, key, value)
        self.refusal(path)

    def test_tensors_inside_subgraphs_and_attributes_are_looked_at(self, path):
        proto = onnx.load(path, load_external_data=False)
        hidden = helper.make_node("Constant", [], ["bias"], value=proto.graph.initializer[0])
        hidden.attribute[0].t.external_data[0].value = "../outside.bin"
        (path.parents[1] / "outside.bin").write_bytes(b"\0" * 16)
        del proto.graph.initializer[:]
        proto.graph.node.insert(0, hidden)
        path.write_bytes(proto.SerializeToString())
        self.refusal(path)

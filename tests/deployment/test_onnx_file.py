import collections
import io
import logging
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from deployed_models import (
    IMAGES,
    ROWS,
    ConvNormPRelu,
    CountsItsCalls,
    DataclassOutput,
    FrozenBatchBranch,
    KeywordsOnly,
    LoopsOverSamples,
    PrintsAndBranchesOnData,
    ReturnsAString,
    TakesThree,
    TwoInputsInPlace,
    TwosEverywhere,
    gaussian,
)

from prelu_doctor.data.batches import Batch
from prelu_doctor.deployment import onnx_file
from prelu_doctor.deployment.onnx_file import export_onnx
from prelu_doctor.errors import BrokenPromiseError, ForwardError

HERE = Path(__file__).parent


def operators(path):
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def dimensions(value):
    return [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]


def test_nn_prelu_is_one_prelu_node_and_dropout_is_gone(exports):
    assert operators(exports["ConvNormPRelu"].path) == {"Conv": 1, "PRelu": 1, "ReduceMean": 1, "Gemm": 1}


def test_every_axis_prelu_call_is_one_prelu_node_without_transposes(exports):
    made = exports["AxesOfEveryKind"]
    assert operators(made.path) == {"MatMul": 1, "Add": 1, "PRelu": 6, "Clip": 1, "Sub": 1}
    graph = onnx.load(made.path).graph
    names = [node.name for node in graph.node if node.op_type == "PRelu"]
    assert names == ["last/PRelu", "capped/PRelu", "plain/PRelu", "middle/PRelu", "one/PRelu", "plain/PRelu#2"]


def test_slopes_are_stored_as_they_are(exports):
    made = exports["AxesOfEveryKind"]
    graph = onnx.load(made.path).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in (node for node in graph.node if node.op_type == "PRelu"):
        weight = made.model.get_submodule(node.name.partition("/")[0]).weight
        assert stored[node.input[1]].ravel().tolist() == weight.tolist()


def test_inputs_are_named_after_the_arguments_and_axis_0_is_dynamic(exports):
    graph = onnx.load(exports["ConvNormPRelu"].path).graph
    assert [(value.name, dimensions(value)) for value in graph.input] == [("image", ["batch", 3, 6, 6])]
    assert [(value.name, dimensions(value)) for value in graph.output] == [("output", ["batch", 5])]
    assert "head.weight" in {tensor.name for tensor in graph.initializer}


def test_nested_outputs_are_flattened_under_their_keys(exports):
    assert exports["DictOfOutputs"].file.outputs == ["logits", "best", "x_positive", "rest_0", "rest_1"]


def test_an_output_may_be_named_like_an_intermediate_value(tmp_path):
    made = export_onnx(DataclassOutput(), ROWS, tmp_path / "m.onnx")
    assert made.outputs == ["mean", "linear"]
    onnx.checker.check_model(onnx.load(made.path), full_check=True)


def test_two_inputs_that_are_one_tensor_stay_two(tmp_path):
    x = gaussian(3, 4)
    before = x.clone()
    made = export_onnx(TwoInputsInPlace(), Batch(args=(x, x)), tmp_path / "m.onnx")
    assert made.inputs == ["left", "right"]
    assert [list(node.input) for node in onnx.load(made.path).graph.node] == [["left"], ["relu", "right"]]
    assert torch.equal(x, before)


def test_keyword_inputs_keep_their_names(tmp_path):
    batch = Batch(kwargs={"subtrahend": gaussian(2, 4), "minuend": gaussian(2, 4)})
    made = export_onnx(KeywordsOnly(), batch, tmp_path / "m.onnx")
    assert sorted(made.inputs) == ["minuend", "subtrahend"]
    assert list(onnx.load(made.path).graph.node[0].input) == ["minuend", "subtrahend"]


def test_model_modes_and_random_states_are_as_before(tmp_path):
    model = CountsItsCalls().train()
    torch.manual_seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    buffer = model.calls
    export_onnx(model, ROWS, tmp_path / "m.onnx")
    assert model.training
    assert model.calls is buffer
    assert model.calls == 0
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert torch.backends.mha.get_fastpath_enabled() is fast_path


def test_a_single_example_does_not_freeze_the_batch_and_mixed_modes_and_parameters_are_as_before(tmp_path):
    model = ConvNormPRelu().train()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = export_onnx(model, IMAGES.take(slice(1)), tmp_path / "m.onnx")
    assert dimensions(onnx.load(made.path).graph.input[0])[0] == "batch"
    assert [model.training, model.norm.training, model.drop.training] == [True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_axis_as_long_as_the_examples_batch_is_not_taken_for_the_batch(tmp_path):
    made = export_onnx(TwosEverywhere(), Batch(args=(gaussian(2, 2), gaussian(2, 2, 2))), tmp_path / "m.onnx")
    graph = onnx.load(made.path).graph
    assert [dimensions(value) for value in graph.input] == [["batch", 2], ["batch", 2, 2]]
    assert [dimensions(value) for value in graph.output] == [["batch", 2], [2, "batch"], ["batch", 2, 2], [2, 2]]
    assert (made.fixed_batch, made.fixed_because) == (None, "")


def test_a_forward_that_needs_the_batch_size_gets_a_file_for_one_sample_and_the_reason(tmp_path):
    model = LoopsOverSamples().train()
    made = export_onnx(model, ROWS, tmp_path / "m.onnx")
    assert made.fixed_batch == 1
    assert "tracing inferred a static shape of 12" in made.fixed_because
    assert "\n" not in made.fixed_because
    graph = onnx.load(made.path).graph
    assert [dimensions(value) for value in (*graph.input, *graph.output)] == [[1, 4], [1, 4]]
    assert [node.name for node in graph.node if node.op_type == "PRelu"] == ["act/PRelu"]
    assert model.training


def test_a_model_that_does_not_run_on_one_sample_gets_a_file_for_the_batch_it_was_given(tmp_path):
    made = export_onnx(TakesThree(), ROWS.take(slice(3)), tmp_path / "m.onnx")
    assert made.fixed_batch == 3
    assert dimensions(onnx.load(made.path).graph.input[0]) == [3, 4]


def test_a_model_that_takes_one_sample_alone_says_what_it_does_to_two(tmp_path):
    class TakesOne(torch.nn.Module):
        def forward(self, x):
            return x.reshape(1, 4) * 2

    made = export_onnx(TakesOne(), ROWS.take(slice(1)), tmp_path / "m.onnx")
    assert made.fixed_batch == 1
    assert "shape '[1, 4]' is invalid for input of size 8 on inputs x [2, 4]" in made.fixed_because


def test_an_open_axis_is_not_tried_where_the_caller_knows_better(tmp_path):
    made = export_onnx(FrozenBatchBranch(), ROWS, tmp_path / "m.onnx", open_batch=False)
    assert (made.fixed_batch, made.fixed_because) == (1, "")
    assert onnx.load(made.path).graph.node[0].op_type == "Mul"


def test_modes_are_restored_after_a_forward_that_raises(tmp_path):
    model = ConvNormPRelu().train()
    with pytest.raises(ForwardError, match=r"image \[12, 4\]"):
        export_onnx(model, ROWS, tmp_path / "m.onnx")
    assert all(module.training for module in model.modules())
    assert not list(tmp_path.iterdir())


def test_a_refusal_is_short_quiet_and_leaves_no_file(tmp_path, capfd, monkeypatch):
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    with pytest.raises(BrokenPromiseError, match="data-dependent") as caught:
        export_onnx(PrintsAndBranchesOnData(), ROWS, tmp_path / "m.onnx")
    assert len(str(caught.value)) < 500
    assert sys.stdout is ascii_only
    ascii_only.flush()
    assert ascii_only.buffer.getvalue() == b""
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert logging.root.manager.disable == logging.NOTSET


def test_an_output_that_is_no_tensor_is_refused_by_name(tmp_path):
    with pytest.raises(BrokenPromiseError, match="output_1 is a str"):
        export_onnx(ReturnsAString(), ROWS, tmp_path / "m.onnx")


def test_an_opset_that_the_exporter_does_not_keep_to_is_refused(exports, tmp_path, monkeypatch):
    kept_to_another = onnx.load(exports["FrozenBatchBranch"].path)
    monkeypatch.setattr(onnx_file, "_export", lambda *_: kept_to_another)
    with pytest.raises(BrokenPromiseError, match="operator set 20"):
        export_onnx(FrozenBatchBranch(), ROWS, tmp_path / "m.onnx", opset=17)
    assert not list(tmp_path.iterdir())


def test_the_opset_is_read_back_from_the_file(tmp_path):
    assert export_onnx(FrozenBatchBranch(), ROWS, tmp_path / "m.onnx", opset=19).opset == 19
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == 19


def test_weights_above_the_limit_go_to_a_second_file(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "ONE_FILE_LIMIT", 1000)
    (tmp_path / "m.onnx.data").write_bytes(b"left over from another day")
    wide = torch.nn.Linear(4, 400).eval()
    made = export_onnx(wide, ROWS, tmp_path / "m.onnx")
    assert made.data_path == tmp_path / "m.onnx.data"
    external = [
        tensor for tensor in onnx.load(made.path, load_external_data=False).graph.initializer if tensor.external_data
    ]
    assert {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"} == {
        "m.onnx.data"
    }
    stored = [onnx.numpy_helper.to_array(tensor).ravel() for tensor in onnx.load(made.path).graph.initializer]
    assert any(np.array_equal(values, wide.weight.detach().numpy().ravel()) for values in stored)
    assert made.data_path.stat().st_size < 10_000


def test_files_are_the_same_to_the_byte_in_every_process_and_name_no_path(exports, tmp_path):
    script = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        from deployed_models import IMAGES, ConvNormPRelu
        from prelu_doctor.deployment.onnx_file import export_onnx
        export_onnx(ConvNormPRelu(), IMAGES, Path(sys.argv[2]))
    """
    run = subprocess.run(  # noqa: S603 - this interpreter, on the script above
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), str(HERE), str(tmp_path / "m.onnx")],
        cwd=HERE.parents[1],
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
    content = exports["ConvNormPRelu"].path.read_bytes()
    assert (tmp_path / "m.onnx").read_bytes() == content
    for trace in (str(HERE), str(Path(torch.__file__).parent), "site-packages", ".py", "forward", "stack_trace"):
        assert trace.encode() not in content

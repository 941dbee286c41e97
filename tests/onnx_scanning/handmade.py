"""ONNX models written by hand, and the slow truth about them: every tensor made an output and counted in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from prelu_doctor.data.batches import Batch
from prelu_doctor.onnx_scanning.model import open_onnx_model
from prelu_doctor.onnx_scanning.scan import OnnxScan, scan_onnx

FLOAT, INT64, BOOL, DOUBLE = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.DOUBLE


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def value(name: str, *shape, kind: int = FLOAT):
    return helper.make_tensor_value_info(name, kind, list(shape) if shape else None)


def scalar(name: str, kind: int):
    """A value without axes, which a Loop asks for."""
    return helper.make_tensor_value_info(name, kind, [])


def node(op: str, inputs: str, outputs: str, **attributes):
    """A node by the names of its inputs and outputs; `_` for one that is left out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=attributes.pop("name", ""), **attributes)


def graph(nodes, inputs, outputs, weights=None, name="graph"):
    held = [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()]
    return helper.make_graph(nodes, name, inputs, outputs, held)


def saved(path: Path, main, *, opset: int = 18, ir: int = 9, functions=(), domains=()) -> Path:
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(main, opset_imports=imports, ir_version=ir, functions=list(functions))
    path.write_bytes(model.SerializeToString())
    return path


def scanned(path: Path, *inputs: np.ndarray, size: int = 0, **options) -> OnnxScan:
    """The scan in batches of some size; all at once where none is given."""
    tensors = [torch.from_numpy(array) for array in inputs]
    parts = zip(*(tensor.split(size or len(tensors[0])) for tensor in tensors), strict=True)
    return scan_onnx(open_onnx_model(path), iter([Batch(args=part) for part in parts]), **options)


def tensors_of(path: Path, *inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of the main graph, by name."""
    model = onnx.load(path)
    names = [name for each in model.graph.node for name in each.output]
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = dict(zip((one.name for one in session.get_inputs()), inputs, strict=True))
    return dict(zip(names, session.run(names, feeds), strict=True))


def check_counts(site, active: np.ndarray, output: np.ndarray) -> None:
    """Holds a site against `[N, C, P]` booleans and outputs, sample by sample."""
    samples, units, positions = active.shape
    fired = [sum(bool(active[n, unit].any()) for n in range(samples)) for unit in range(units)]
    positive = [int(active[:, unit].sum()) for unit in range(units)]
    assert (site.samples, site.units, site.counted) == (samples, units, "samples")
    assert site.firing_rate == [count / samples for count in fired]
    assert site.positive_rate == [count / (samples * positions) for count in positive]
    means = np.abs(output).mean((0, 2), dtype=np.float64)
    overall = means.mean()
    # Scores at the threshold's very edge are a matter of rounding: none of these models has one there.
    dormant = means / overall <= 0.025 if overall > 0 else np.ones(units, bool)
    silent_outputs = (np.array(fired) == 0) & (site.is_output and site.alpha is None)  # those are never called dormant
    assert site.dormant == int((dormant & ~silent_outputs).sum())

"""The slopes in an ONNX file against those of the modules they came from."""

from __future__ import annotations

import re
from typing import Literal

import msgspec
import onnx
from torch import Tensor, nn

from prelu_doctor.checkpoints.onnx_protobuf import all_nodes
from prelu_doctor.deployment.comparison import compare, failed
from prelu_doctor.deployment.onnx_session import OnnxSession
from prelu_doctor.records import ParityCheck
from prelu_doctor.treatment.prelu import AxisPReLU


def compare_slopes(model: nn.Module, onnx_file: OnnxSession, source: Literal["data", "synthetic"]) -> list[ParityCheck]:
    """A check for every `PRelu` node that carries a module's name: its slopes must equal the module's, all of them.

    Those that agree are one check together. Batch size is 0: no input has a part in it. Needs the node names that
    `export_onnx` gives (`features.2/PRelu`); in files from elsewhere there is nothing to compare by.
    """
    content = onnx_file.stored.model
    tensors = {tensor.name: tensor for tensor in content.graph.initializer}
    modules = dict(model.named_modules())
    checks = []
    for node in (node for node in all_nodes(content) if node.op_type == "PRelu"):
        module = modules.get(re.sub(r"/PRelu(#\d+)?$", "", node.name))
        if not isinstance(module, nn.PReLU | AxisPReLU):
            continue
        name = f"slopes of {node.name}"
        tensor = tensors.get(node.input[1])
        checks.append(
            _compare_slope(name, module.weight, tensor, onnx_file, source)
            if tensor is not None
            else failed(name, "the file computes its slopes instead of storing them", batch_size=0, source=source)
        )
    return _merged(checks)


def _compare_slope(
    name: str,
    weight: Tensor,
    tensor: onnx.TensorProto,
    onnx_file: OnnxSession,
    source: Literal["data", "synthetic"],
) -> ParityCheck:
    values = onnx_file.stored.tensor(tensor).reshape(-1)
    return compare(name, weight.flatten(), values, batch_size=0, source=source, tolerance=0.0)


def _merged(checks: list[ParityCheck]) -> list[ParityCheck]:
    agreeing = [check for check in checks if check.passed]
    if len(agreeing) < 2:
        return checks
    together = msgspec.structs.replace(
        agreeing[0],
        output=f"slopes of {len(agreeing)} PRelu nodes",
        scale=max(check.scale for check in agreeing),
    )
    return [together, *(check for check in checks if not check.passed)]

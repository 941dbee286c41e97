"""Opening an ONNX file that nobody vouches for: read once, validated, and only then given to onnxruntime.

The runtime gets bytes and never a path, so that it reads nothing that was not looked at.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, TensorProto, numpy_helper

from prelu_doctor.checkpoints.external_data import SecondFiles
from prelu_doctor.checkpoints.onnx_claims import claim_problem, claimed_size, structure_problem
from prelu_doctor.checkpoints.onnx_protobuf import all_tensors, opset_of
from prelu_doctor.checkpoints.onnx_sizes import LARGEST, size_problem
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, reason_of
from prelu_doctor.file_kinds import FileKind, recognised

Array = npt.NDArray[Any]

_SMALL = 1024
"""Bytes up to which a tensor stays where it is: shapes, axes and scales are looked at as the graph is walked."""


_FREE_INITIALISERS = 4
"""The version of the format from which on an initialiser need not be an input."""


@dataclass(frozen=True)
class StoredOnnx:
    """An ONNX file that was validated.

    Attributes:
        path: The file.
        sha256: Of the file's bytes.
        model: Its content but for the weights: a large initialiser of the main graph has its shape here and no data.
        weights: The data of these initialisers, by name.
    """

    path: Path
    sha256: str
    model: ModelProto
    weights: Mapping[str, Array]

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return opset_of(self.model)

    def tensor(self, tensor: TensorProto) -> Array:
        """The numbers of a tensor of the model."""
        held = self.weights.get(tensor.name)
        if held is not None and tensor.data_location == TensorProto.EXTERNAL:
            return held
        return numpy_helper.to_array(tensor)

    def session(self, model: ModelProto | None = None) -> Any:
        """A session of onnxruntime on the CPU.

        Args:
            model: The model with additions of ours; None for the file as it is.

        Raises:
            CheckpointError: The runtime does not take it.
        """
        import onnxruntime

        model = model or self.model
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal only: errors are raised anyway
        options.use_deterministic_compute = True
        # Its own choice pins threads, and complains where it may not.
        options.intra_op_num_threads = torch.get_num_threads()
        named = {tensor.name: tensor for tensor in model.graph.initializer}
        values = [
            onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, named[name].data_type)
            for name, array in self.weights.items()
        ]
        options.add_external_initializers(list(self.weights), values)
        try:
            return onnxruntime.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                # A few bytes can ask for gigabytes of constants, which it would compute at once.
                disabled_optimizers=["ConstantFolding"],
            )
        except Exception as error:  # onnxruntime's exceptions share no root but this
            raise CheckpointError(
                f"{escaped(self.path)} cannot be run by onnxruntime on the CPU: {reason_of(error)}",
                "operators and number formats that onnxruntime has",
                "export a float32 model, with a lower opset if needed",
            ) from error


def read_onnx(path: Path) -> StoredOnnx:
    """Reads and validates an ONNX file, its second files included. Nothing of it is run.

    Raises:
        CheckpointError: The file is missing, not ONNX, invalid, reaches outside its folder, claims more than it holds,
            or asks for operators of somebody else.
    """
    content = _content(path)
    sha256 = hashlib.sha256(content).hexdigest()
    model = _parsed(content, path)
    del content
    problem = structure_problem(model)
    if problem:
        raise CheckpointError(
            f"{escaped(path)} holds {problem}",
            "ONNX's own operators and functions that end",
            "export it again with standard operators alone; copy or download it again if it may be damaged",
        )
    with SecondFiles(path) as second:
        for tensor in all_tensors(model):
            _settle(tensor, second, path)
    problem = size_problem(model)
    if problem:
        raise CheckpointError(
            f"{escaped(path)} holds {problem}",
            f"at most {LARGEST:,}",
            "get the file again from its source: it is damaged, or made to fill the memory",
        )
    _fix_initialisers(model)
    weights = _taken_out(model)
    _check_valid(model, path)
    return StoredOnnx(path, sha256, model, weights)


def _content(path: Path) -> bytes:
    kind = recognised(path, error=CheckpointError)
    if not path.is_file():
        raise _not_onnx(path, kind)
    return path.read_bytes()


def _parsed(content: bytes, path: Path) -> ModelProto:
    try:
        model: ModelProto = onnx.load_model_from_string(content)
        model.DiscardUnknownFields()  # what was not looked at does not go on to onnxruntime
    except Exception as error:  # protobuf's own root of errors is no part of the onnx package
        kind = recognised(path, error=CheckpointError)
        damaged = "an ONNX model that is damaged, or nested too deep to be read"
        raise _not_onnx(path, damaged if kind == FileKind.ONNX else kind) from error
    if not model.HasField("graph") or not opset_of(model):
        raise _not_onnx(path, "a file without a graph or without an operator set")
    return model


def _not_onnx(path: Path, kind: str) -> CheckpointError:
    return CheckpointError(f"{escaped(path)} is {kind}", "a model written by an ONNX exporter", "export it again")


def _settle(tensor: TensorProto, second: SecondFiles, path: Path) -> None:
    """Puts the data of a tensor that lies outside into the tensor, and holds its claims against what it has."""
    if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data) > 0:
        try:
            size = claimed_size(tensor)
        except ValueError as problem:
            raise _false_claim(tensor, str(problem), path) from problem
        tensor.raw_data = second.read(tensor, size)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    problem_found = claim_problem(tensor)
    if problem_found:
        raise _false_claim(tensor, problem_found, path)


def _false_claim(tensor: TensorProto, problem: str, path: Path) -> CheckpointError:
    return CheckpointError(
        f"{escaped(path)}: tensor {escaped(tensor.name)} {problem}",
        "tensors whose data has the size of their shape",
        "copy or download it again, or export it again",
    )


def _fix_initialisers(model: ModelProto) -> None:
    """Takes initialisers off the list of inputs, where old files had to have them: nobody feeds them."""
    names = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in names]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, _FREE_INITIALISERS)


def _taken_out(model: ModelProto) -> dict[str, Array]:
    """The large initialisers of the main graph, whose data then is no longer in the model.

    A protocol buffer ends at 2 GiB, and every session would get a copy of its own.
    """
    weights: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= _SMALL or math.prod(tensor.dims) > len(tensor.raw_data):  # packed into nibbles
            continue
        weights[tensor.name] = numpy_helper.to_array(tensor)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights")
    return weights


def _check_valid(model: ModelProto, path: Path) -> None:
    """Lets onnx check everything but the weights."""
    light = ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
    for value in light.graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.shape.SetInParent()  # some exporters leave it out, and no runtime misses it
    try:
        onnx.checker.check_model(light)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{escaped(path)} is not valid ONNX: {escaped(reason)}", "a valid ONNX file", "export it again"
        ) from error

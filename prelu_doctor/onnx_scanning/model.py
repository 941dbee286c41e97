"""An ONNX file ready to be scanned: validated, its own functions unfolded, its inputs told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx.inliner
import torch
from onnx import TensorProto

from prelu_doctor.checkpoints.onnx_files import Array, StoredOnnx, read_onnx
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, reason_of
from prelu_doctor.expected_inputs import ExpectedInput, ExpectedInputs

_DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}
_KNOWN = frozenset(TensorProto.DataType.values())
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file ready to be scanned.

    Attributes:
        stored: Its content, without functions of its own.
        expected: What it takes.
    """

    stored: StoredOnnx
    expected: ExpectedInputs

    @property
    def parameters(self) -> int:
        """Number of elements of its floating initialisers."""
        return sum(array.size for _, array in self._weights())

    def non_finite_names(self) -> list[str]:
        """Names of initialisers that hold a NaN or an infinity.

        One of zeros and infinities of one sign is an attention mask, which is meant so: it is not named.
        """
        return [escaped(name, 200) for name, array in self._weights() if not (_finite(array) or _is_mask(array))]

    def _weights(self) -> Iterator[tuple[str, Array]]:
        for tensor in self.stored.model.graph.initializer:
            if tensor.data_type in _FLOATS:
                yield tensor.name, self.stored.tensor(tensor)


def _finite(array: Array) -> bool:
    return bool(np.isfinite(array.astype(np.float32) if array.dtype.itemsize < 4 else array).all())


def _is_mask(array: Array) -> bool:
    infinite = array[np.isinf(array)]
    return bool(((array == 0) | np.isinf(array)).all() and (infinite == infinite[:1]).all())


def open_onnx_model(path: Path) -> OnnxModel:
    """Opens an ONNX file for a scan; nothing of it is run.

    Raises:
        CheckpointError: The file is refused, or takes something that is no tensor of numbers.
    """
    stored = read_onnx(path)
    if stored.model.functions:
        try:
            stored = replace(stored, model=onnx.inliner.inline_local_functions(stored.model))
        except Exception as error:
            raise CheckpointError(
                f"{escaped(path)}: its functions cannot be unfolded: {reason_of(error)}",
                "functions made of standard operators",
                "export it again",
            ) from error
    return OnnxModel(stored, ExpectedInputs(tuple(_inputs(stored))))


def _inputs(stored: StoredOnnx) -> Iterator[ExpectedInput]:
    for value in stored.model.graph.input:
        kind = value.type.tensor_type
        dtype = _DTYPES.get(kind.elem_type)
        if value.type.WhichOneof("value") != "tensor_type" or dtype is None:
            element = TensorProto.DataType.Name(kind.elem_type).lower() if kind.elem_type in _KNOWN else "unknown"
            held = f"a tensor of {element} values" if value.type.WhichOneof("value") == "tensor_type" else "no tensor"
            raise CheckpointError(
                f"{escaped(stored.path)}: its input '{escaped(value.name)}' is {held}",
                "inputs that are tensors of numbers which onnxruntime takes on the CPU",
                "export it again with such inputs, or scan the PyTorch checkpoint",
            )
        sizes = (
            size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None for size in kind.shape.dim
        )
        yield ExpectedInput(value.name, tuple(sizes), dtype)

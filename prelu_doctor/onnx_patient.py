"""An ONNX file under examination: it is scanned as it is, and has no module."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prelu_doctor import records
from prelu_doctor.errors import UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.expected_inputs import ExpectedInputs

if TYPE_CHECKING:
    from prelu_doctor.onnx_scanning.model import OnnxModel


@dataclass(frozen=True)
class OnnxPatient:
    """An ONNX file and what the report says of it.

    Attributes:
        model: The file.
        record: Its path, hash and kind.
        note: What was done to open it; may be empty.
        module: None; a `Patient` has one here.
    """

    model: OnnxModel
    record: records.Model
    note: str = ""
    module: None = None

    @property
    def expected(self) -> ExpectedInputs:
        """What the file takes."""
        return self.model.expected

    def needs_checkpoint(self) -> UsageError:
        """For whoever wants to change it, or to compare it with itself."""
        return UsageError(
            f"{escaped(self.record.path)} is an ONNX model: it can be scanned and checked, and not converted, exported "
            "or taken for the original (rewriting its Relu nodes is out of scope)",
            "the PyTorch checkpoint that it was exported from",
            "give that checkpoint",
        )


def open_onnx_patient(path: Path, *, device: str, unheeded: Collection[str] = ()) -> OnnxPatient:
    """Opens an ONNX file; nothing of it is run.

    Args:
        path: The file.
        device: Where the user wants it to run: the CPU is the only place.
        unheeded: Options that were given and that say nothing about such a file.

    Raises:
        CheckpointError: The file is refused.
        UsageError: There are such options.
    """
    from prelu_doctor.onnx_scanning.model import open_onnx_model  # it brings onnx

    if unheeded:
        raise UsageError(
            f"{escaped(path)} is an ONNX model, and holds architecture and weights: {', '.join(unheeded)}",
            "an ONNX file without these options",
            f"leave {' and '.join(unheeded)} out",
        )
    model = open_onnx_model(path)
    record = records.Model(
        path=str(path),
        sha256=model.stored.sha256,
        kind="onnx",
        parameters=model.parameters,
        non_finite=model.non_finite_names(),
    )
    note = "" if device in ("auto", "cpu") else f"onnxruntime runs on the CPU here, not on {escaped(device)}"
    return OnnxPatient(model, record, note)

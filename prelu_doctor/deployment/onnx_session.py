"""An ONNX file that can be run beside the model it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from prelu_doctor.checkpoints.onnx_files import StoredOnnx, read_onnx


@dataclass(frozen=True)
class OnnxSession:
    """An ONNX file that was validated and can be run.

    Attributes:
        stored: The file.
        inputs: Input names, in order.
        outputs: Output names, in order.
        fixed_batch: The number of samples that every input declares on axis 0; None where any leaves it open or
            where they do not agree.
        session: The onnxruntime session.
    """

    stored: StoredOnnx
    inputs: list[str]
    outputs: list[str]
    fixed_batch: int | None
    session: Any

    def run(self, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The outputs on these inputs; onnxruntime's own exceptions pass through."""
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        outputs: list[np.ndarray[Any, Any]] = self.session.run(None, feeds, options)
        return outputs


def open_onnx(path: Path) -> OnnxSession:
    """Validate an ONNX file, external data included, and open it on the CPU.

    Raises:
        CheckpointError: If the file is missing, not ONNX, invalid, reaches outside its folder, or cannot be run.
    """
    stored = read_onnx(path)
    session = stored.session()
    return OnnxSession(
        stored=stored,
        inputs=[value.name for value in session.get_inputs()],
        outputs=[value.name for value in session.get_outputs()],
        fixed_batch=_fixed_batch(session),
        session=session,
    )


def _fixed_batch(session: Any) -> int | None:
    # An open axis is a name or None; an input without axes has no batch.
    declared = {value.shape[0] if value.shape else None for value in session.get_inputs()}
    size = declared.pop() if len(declared) == 1 else None
    return size if isinstance(size, int) and size > 0 else None

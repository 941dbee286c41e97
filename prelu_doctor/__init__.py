"""Finds the dead units of trained PyTorch models, and cures them without moving the output.

The public names are resolved when they are first used, so that `import prelu_doctor` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from prelu_doctor.data.calls import Call
    from prelu_doctor.doctor import Conversion, check_parity, convert, export_onnx, scan
    from prelu_doctor.patient import Patient, open_patient
    from prelu_doctor.treatment.conversion import Treatment
    from prelu_doctor.treatment.converted_file import load
    from prelu_doctor.treatment.fine_tuning import Training

_HOMES = {
    "Call": "prelu_doctor.data.calls",
    "Conversion": "prelu_doctor.doctor",
    "Patient": "prelu_doctor.patient",
    "Training": "prelu_doctor.treatment.fine_tuning",
    "Treatment": "prelu_doctor.treatment.conversion",
    "check_parity": "prelu_doctor.doctor",
    "convert": "prelu_doctor.doctor",
    "export_onnx": "prelu_doctor.doctor",
    "load": "prelu_doctor.treatment.converted_file",
    "open_patient": "prelu_doctor.patient",
    "scan": "prelu_doctor.doctor",
}

__all__ = [
    "Call",
    "Conversion",
    "Patient",
    "Training",
    "Treatment",
    "check_parity",
    "convert",
    "export_onnx",
    "load",
    "open_patient",
    "scan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

"""Are two tensors the same answer? One output of the ONNX file against the eager model's."""

from __future__ import annotations

import sys
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prelu_doctor.records import ParityCheck


def compare(
    output: str,
    expected: Tensor,
    actual: np.ndarray[Any, Any],
    *,
    batch_size: int,
    source: Literal["data", "synthetic"],
    tolerance: float,
) -> ParityCheck:
    """Compare one output: same dtype and shape, non-finite values at the same places, scaled error within tolerance.

    The scaled error is max |onnx - torch| / max |torch| over the elements that are finite in both, taken in float64;
    integers and booleans must be equal.

    Args:
        output: Name of the output.
        expected: The eager model's output.
        actual: The ONNX file's output.
        batch_size: Number of samples in the batch.
        source: Where the inputs came from.
        tolerance: Largest scaled error that passes.
    """
    wanted = expected.detach().cpu()
    try:
        got = torch.from_numpy(np.array(actual))  # a copy: the runtime's buffers may be read-only
    except (TypeError, ValueError):  # strings, maps, sequences
        return failed(output, "the file gives no tensor of numbers", batch_size=batch_size, source=source)
    if (wanted.dtype, wanted.shape) != (got.dtype, got.shape):
        detail = f"the file gives {_kind(got)}, the model {_kind(wanted)}"
        return failed(output, detail, batch_size=batch_size, source=source)
    places_agree = _places(wanted, got)
    max_error, scale = _errors(wanted, got)
    scaled = _finite(max_error / scale if scale else max_error)
    exact = wanted.dtype.is_floating_point or torch.equal(wanted, got)
    return ParityCheck(
        output=output,
        batch_size=batch_size,
        source=source,
        max_error=max_error,
        scale=scale,
        scaled_error=scaled,
        non_finite_equal=places_agree,
        passed=places_agree and exact and scaled <= tolerance,
        detail=_detail(wanted, got, places_agree=places_agree, exact=exact),
    )


def failed(output: str, detail: str, *, batch_size: int, source: Literal["data", "synthetic"]) -> ParityCheck:
    """A check that failed before any number could be compared."""
    return ParityCheck(
        output=output,
        batch_size=batch_size,
        source=source,
        max_error=0.0,
        scale=0.0,
        scaled_error=0.0,
        non_finite_equal=False,
        passed=False,
        detail=detail,
    )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _places(wanted: Tensor, got: Tensor) -> bool:
    """Whether NaN, +inf and -inf stand at the same places."""
    if not wanted.dtype.is_floating_point:
        return True
    return all(torch.equal(test(wanted), test(got)) for test in (torch.isnan, torch.isposinf, torch.isneginf))


def _errors(wanted: Tensor, got: Tensor) -> tuple[float, float]:
    """Largest |onnx - torch| and |torch| over the elements that are finite in both, 0 where there are none."""
    both = torch.isfinite(wanted) & torch.isfinite(got)
    reference, other = wanted[both].double(), got[both].double()
    if not reference.numel():
        return 0.0, 0.0
    return _finite(float((other - reference).abs().max())), _finite(float(reference.abs().max()))


def _finite(value: float) -> float:
    """Reports hold numbers: the difference of two huge float64 values, or a quotient, may overflow."""
    return min(value, sys.float_info.max)


def _detail(wanted: Tensor, got: Tensor, *, places_agree: bool, exact: bool) -> str:
    if not places_agree:
        masks = (torch.isnan, torch.isposinf, torch.isneginf)
        differing = torch.stack([test(wanted) != test(got) for test in masks]).any(dim=0)
        return f"NaN or infinity at different places ({int(differing.sum())} of {wanted.numel()})"
    if not exact:
        return f"{int((wanted != got).sum())} of {wanted.numel()} elements differ"
    return ""

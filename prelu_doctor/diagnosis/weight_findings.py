"""From what weights alone told to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prelu_doctor.diagnosis.findings import gravest_first, listed
from prelu_doctor.diagnosis.rules import RULES
from prelu_doctor.records import ClosedChannels, Finding, Severity, Unresolved, WeightsExamination, ZeroSlices


def weight_findings(weights: WeightsExamination, left_out: Sequence[Unresolved]) -> list[Finding]:
    """Everything worth knowing about weights whose architecture is not there.

    Args:
        weights: What was found in them.
        left_out: Tensors that were not looked at.

    Returns:
        The findings: errors first, then warnings, then notes; within these by code, then in the order of the file.
    """
    examined = _Examined(weights, left_out)
    return gravest_first([finding for code in sorted(WEIGHT_CHECKS) for finding in WEIGHT_CHECKS[code](examined)])


@dataclass(frozen=True)
class _Examined:
    weights: WeightsExamination
    left_out: Sequence[Unresolved]


_Check = Callable[[_Examined], Iterator[Finding]]


def _non_finite(examined: _Examined) -> Iterator[Finding]:
    broken = [held for held in examined.weights.non_finite if not held.mask]
    if broken:
        names = [held.tensor for held in broken]
        message = f"tensors that hold NaN or infinity: {len(names)} ({listed(names)})"
        counts = {"nan": [held.nan for held in broken], "infinite": [held.infinite for held in broken]}
        yield _finding("PD201", message, {"tensors": names, **counts})


def _weights_only(examined: _Examined) -> Iterator[Finding]:
    message = (
        "weights alone were looked at, nothing was run: --arch module:callable and --data tell which activation calls "
        "there are, which of their units are dead, and how sure that is"
    )
    counts = {
        "layers": examined.weights.layers,
        "norms": examined.weights.norms,
        "slopes": len(examined.weights.slopes),
    }
    yield _finding("PD501", message, {"tensors": examined.weights.tensors, **counts})


def _zero_outputs(examined: _Examined) -> Iterator[Finding]:
    for zero in examined.weights.zero_slices:
        if zero.slices == "outputs":
            meaning = f"{_what_zero_outputs_mean(zero)}{_on_purpose(zero.zero == zero.of)}{_doubt(zero)}"
            message = f"{zero.tensor}: {_zero_of(zero)}; {meaning}"
            severity: Severity | None = "note" if zero.may_be_padding else None
            yield _finding("PD502", message, _slices(zero) | _certainty(zero), severity)


def _proved_channels(examined: _Examined) -> Iterator[Finding]:
    for closed in examined.weights.closed_channels:
        if closed.proved:
            shift = "shift <= 0" if closed.shift else "no shift"
            message = (
                f"{closed.tensor}: {closed.proved} of {_channels(closed.of)} with scale 0 and {shift}: dead if a ReLU "
                f"follows directly, whatever comes in (proved){_on_purpose(closed.proved == closed.of)}"
            )
            yield _finding("PD503", message, _channels_found(closed, closed.proved, closed.proved_indices, "proved"))


def _probable_channels(examined: _Examined) -> Iterator[Finding]:
    for closed in examined.weights.closed_channels:
        if closed.probable:
            fits = ", if its running statistics fit the data" if closed.running_statistics else ""
            message = (
                f"{closed.tensor}: {closed.probable} of {_channels(closed.of)} with shift + 3 |scale| <= 0: probably "
                f"dead if a ReLU follows directly{fits}"
            )
            evidence = _channels_found(closed, closed.probable, closed.probable_indices, "probably")
            yield _finding("PD504", message, evidence)


def _slopes(examined: _Examined) -> Iterator[Finding]:
    for slopes in examined.weights.slopes:
        what = "PReLU slopes"
        if slopes.surety == "undetermined":
            what = "PReLU slopes, or the scales of a norm without shift,"
        span = "not finite"
        if slopes.min is not None and slopes.max is not None:
            span = f"from {slopes.min:.3g} to {slopes.max:.3g}" if slopes.of > 1 else f"{slopes.min:.3g}"
        flat = f"; {slopes.flat} of {slopes.of} below 1e-3, as in a ReLU" if slopes.flat else ""
        evidence = {"tensor": slopes.tensor, "surety": slopes.surety, "of": slopes.of, "flat": slopes.flat}
        evidence |= {"min": slopes.min, "mean": slopes.mean, "max": slopes.max}
        yield _finding("PD505", f"{slopes.tensor}: {what} {span}{flat}", evidence)


def _zero_inputs(examined: _Examined) -> Iterator[Finding]:
    for zero in examined.weights.zero_slices:
        if zero.slices == "inputs":
            message = f"{zero.tensor}: {_zero_of(zero)}: nothing reads what comes in there{_doubt(zero)}"
            yield _finding("PD506", message, _slices(zero))


def _masks(examined: _Examined) -> Iterator[Finding]:
    masks = [held.tensor for held in examined.weights.non_finite if held.mask]
    if masks:
        message = f"tensors of zeros and infinities, as attention masks are: {len(masks)} ({listed(masks)})"
        yield _finding("PD507", message, {"tensors": masks})


def _left_out(examined: _Examined) -> Iterator[Finding]:
    if examined.left_out:
        names = [item.id for item in examined.left_out]
        message = f"tensors that were not looked at: {len(names)} ({listed(names)})"
        yield _finding("PD508", message, {"tensors": names, "reasons": [item.reason for item in examined.left_out]})


WEIGHT_CHECKS: dict[str, _Check] = {
    "PD201": _non_finite,
    "PD501": _weights_only,
    "PD502": _zero_outputs,
    "PD503": _proved_channels,
    "PD504": _probable_channels,
    "PD505": _slopes,
    "PD506": _zero_inputs,
    "PD507": _masks,
    "PD508": _left_out,
}


def _finding(code: str, message: str, evidence: dict[str, Any], severity: Severity | None = None) -> Finding:
    return Finding(code=code, severity=severity or RULES[code].severity, message=message, evidence=evidence)


def _zero_of(zero: ZeroSlices) -> str:
    if zero.zero == zero.of:
        return f"all {zero.of} {zero.slices} are zero" if zero.of > 1 else "it is zero"
    return f"{zero.zero} of {zero.of} {zero.slices} {'is' if zero.zero == 1 else 'are'} all zero"


def _what_zero_outputs_mean(zero: ZeroSlices) -> str:
    if not zero.dead:
        return "what they write is constant"
    constant = zero.zero - zero.dead
    rest = f", {constant} constant above 0" if constant else ""
    return f"{zero.dead} dead if a ReLU follows directly{rest}"


def _on_purpose(whole: bool) -> str:
    return "; as a whole it may start at zero on purpose" if whole else ""


def _doubt(zero: ZeroSlices) -> str:
    return f" (but {zero.doubt})" if zero.doubt else ""


def _slices(zero: ZeroSlices) -> dict[str, Any]:
    return {
        "tensor": zero.tensor,
        "axis": zero.axis,
        "of": zero.of,
        "zero": zero.zero,
        "indices": list(zero.indices),
        "doubt": zero.doubt,
    }


def _certainty(zero: ZeroSlices) -> dict[str, Any]:
    return {"dead": zero.dead, "surety": "probably" if zero.doubt else "proved", "may_be_padding": zero.may_be_padding}


def _channels(quantity: int) -> str:
    return f"{quantity} channel{'' if quantity == 1 else 's'}"


def _channels_found(closed: ClosedChannels, quantity: int, indices: Sequence[int], surety: str) -> dict[str, Any]:
    return {
        "tensor": closed.tensor,
        "shift": closed.shift,
        "of": closed.of,
        "channels": quantity,
        "indices": list(indices),
        "surety": surety,
        "running_statistics": closed.running_statistics,
    }

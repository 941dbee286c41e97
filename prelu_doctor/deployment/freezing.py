"""Telling a batch size that an export froze silently from a file that is wrong or merely inexact."""

from __future__ import annotations

from collections import defaultdict

from prelu_doctor.records import ParityReport

BEYOND_ROUNDING = 1e-3
"""Scaled error above which two answers are two computations, and not one that was rounded twice."""


def why_frozen(report: ParityReport) -> str:
    """How the file differs, where a frozen batch size explains it; empty where it does not.

    A frozen size leaves the slopes alone, holds entirely at one batch size at least, and breaks an output at another
    on every batch of that size: the file does not run, gives another shape, or answers far beyond rounding.
    """
    together = defaultdict(list)
    for check in report.checks:
        together[check.batch_size, check.output].append(check)
    broken = {key: checks for key, checks in together.items() if not all(check.passed for check in checks)}
    sizes = sorted({size for size, _ in broken})
    if not broken or 0 in sizes or {size for size, _ in together} <= {0, *sizes}:
        return ""
    failures = [check for checks in broken.values() for check in checks]
    if any(check.passed or not (check.detail or check.scaled_error > BEYOND_ROUNDING) for check in failures):
        return ""
    detail = failures[0].detail or f"scaled error {failures[0].scaled_error:.3g}"
    return f"exported for any batch size, it differs from the model at {' and '.join(map(str, sizes))} ({detail})"

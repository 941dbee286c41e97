"""The verdict of a scan."""

from __future__ import annotations

from collections.abc import Sequence

from prelu_doctor.records import Data, Finding, Verdict

_NEEDS_NO_DATA = "PD201"
_NOTHING_EXAMINED = "PD303"


def verdict(findings: Sequence[Finding], data: Data) -> Verdict:
    """What the findings amount to.

    Args:
        findings: Of this scan; `PD303` stands for a model without sites.
        data: The samples that were scanned.

    Returns:
        `findings` for weights that are not finite, whatever the data; else `undecided` where the input was synthetic
        or nothing could be examined; else `findings` for any error or warning; else `healthy`.
    """
    codes = {finding.code for finding in findings}
    if _NEEDS_NO_DATA in codes:
        return "findings"
    if data.synthetic or not data.samples or _NOTHING_EXAMINED in codes:
        return "undecided"
    serious = any(finding.severity in ("error", "warning") for finding in findings)
    return "findings" if serious else "healthy"

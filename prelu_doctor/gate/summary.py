"""From the judgements of several checkpoints to one."""

from __future__ import annotations

from collections.abc import Sequence

from prelu_doctor.gate.judgement import MAX_DEAD, MAX_DEAD_SITE
from prelu_doctor.records import CheckReport, ModelVerdict, Tool, Verdict

_EXIT_CODES: dict[Verdict, int] = {"healthy": 0, "findings": 1, "undecided": 2}


def summarise(
    models: Sequence[ModelVerdict], *, tool: Tool, max_dead: float = MAX_DEAD, max_dead_site: float = MAX_DEAD_SITE
) -> CheckReport:
    """One report over all checkpoints.

    Args:
        models: The judgements, in the order the user named the checkpoints.
        tool: The program that judged.
        max_dead: The limit they were held against.
        max_dead_site: Likewise.

    Returns:
        The report; without any checkpoint its verdict is `undecided`.
    """
    return CheckReport(
        tool=tool, max_dead=max_dead, max_dead_site=max_dead_site, models=list(models), verdict=_worst(models)
    )


def exit_code(verdict: Verdict) -> int:
    """The process exit code of a verdict: 0 healthy, 1 findings, 2 undecided."""
    return _EXIT_CODES[verdict]


def _worst(models: Sequence[ModelVerdict]) -> Verdict:
    verdicts = {model.verdict for model in models}
    if "findings" in verdicts:
        return "findings"
    return "healthy" if verdicts == {"healthy"} else "undecided"

"""The gate's report for a terminal: a line a checkpoint, its breaches below it, a summary line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.text import Text

from prelu_doctor.escaping import plain
from prelu_doctor.records import Breach, CheckReport, ModelVerdict, ScanReport, Verdict
from prelu_doctor.reports.figures import count, percent
from prelu_doctor.reports.page import arch_words, command_lines, heading, listing, title, verdict_word

SITES_LISTED = 5
"""Breaches that are listed for each limit of a checkpoint."""

_WORDS: dict[Verdict, str] = {"findings": "with findings", "undecided": "undecided", "healthy": "healthy"}
_NAME_WIDTH = len("undecided")


def check_report(report: CheckReport) -> RenderableType:
    """The report as a page that lays itself out for the width and the encoding of its console."""
    return _CheckPage(report)


@dataclass(frozen=True)
class _CheckPage:
    report: CheckReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield title(self.report.tool, "check")
        for judged in self.report.models:
            yield _line(judged)
            yield from _breaches(judged)
        yield Text("")
        yield _summary(self.report)
        yield from _next_step(self.report, options.max_width)


def _line(judged: ModelVerdict) -> Text:
    word = verdict_word(judged.verdict)
    word.append(" " * (_NAME_WIDTH - len(word) + 2))
    about = _about(judged.report) if judged.report else "could not be scanned"
    return Text.assemble(word, (plain(judged.path), "bold"), f"  {about}", overflow="fold")


def _about(report: ScanReport) -> str:
    totals = report.totals
    if report.weights is not None:
        return f"weights-only, {count(report.weights.tensors, 'tensor')}, nothing was run"
    noise = "synthetic " if report.data.synthetic else ""
    return (
        f"{totals.dead:,} of {count(totals.units, 'unit')} dead ({percent(totals.dead_fraction)}), "
        f"{count(totals.sites, 'site')}, {count(report.data.samples, noise + 'sample')}"
    )


def _breaches(judged: ModelVerdict) -> Iterator[RenderableType]:
    if judged.error is not None:
        lines = "\n".join(plain(line) for line in judged.error.splitlines())
        yield Padding(Text(lines, overflow="fold"), (0, 0, 0, _NAME_WIDTH + 2))
    by_limit: dict[str, list[Breach]] = {}
    for breach in judged.breaches:
        by_limit.setdefault(breach.limit, []).append(breach)
    for limit, broken in by_limit.items():
        worst = sorted(broken, key=lambda breach: -(breach.measured or 0))
        rows = [[Text(limit), _breach(breach)] for breach in worst[:SITES_LISTED]]
        rest = len(worst) - SITES_LISTED
        if rest > 0:
            rows.append([Text(limit), Text(f"and at {count(rest, 'more site')}", style="dim")])
        yield Padding(listing(rows, widths=[len("max-dead-site")]), (0, 0, 0, _NAME_WIDTH))


def _breach(breach: Breach) -> Text:
    line = Text(overflow="fold")
    if breach.site is not None:
        line.append(plain(breach.site), style="bold")
        line.append(": ")
    return line.append(plain(breach.message))


def _summary(report: CheckReport) -> Text:
    verdicts = [judged.verdict for judged in report.models]
    counts = [f"{verdicts.count(verdict)} {word}" for verdict, word in _WORDS.items() if verdict in verdicts]
    limits = (
        f"limits: {100 * report.max_dead:.4g} % dead of all units, {100 * report.max_dead_site:.4g} % within a site"
    )
    checked = f"{count(len(verdicts), 'checkpoint')} checked" if verdicts else "no checkpoint was checked"
    return Text.assemble(
        verdict_word(report.verdict), f"  {': '.join(filter(None, [checked, ', '.join(counts)]))} ({limits})"
    )


def _next_step(report: CheckReport, width: int) -> Iterator[RenderableType]:
    broken = [judged for judged in report.models if judged.verdict == "findings"]
    if broken:
        yield heading("Which units, and why")
        yield command_lines(_scan_command(broken[0]), width)


def _scan_command(judged: ModelVerdict) -> list[str]:
    """The scan that shows what the gate saw: the same model on the same data."""
    words = ["prelu-doctor\0scan\0" + judged.path]
    if judged.report is None:
        return words
    no_data = judged.report.data.synthetic or judged.report.basis == "weights-only"
    data = [] if no_data else [f"--data\0{judged.report.data.source}"]
    return [*words, *arch_words(judged.report.model), *data]

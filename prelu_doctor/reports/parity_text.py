"""The parity report for a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from prelu_doctor.escaping import plain
from prelu_doctor.records import ParityCheck, ParityReport, Program
from prelu_doctor.reports.figures import count, number
from prelu_doctor.reports.glyphs import glyphs
from prelu_doctor.reports.page import facts, heading, listing, model_facts, title, verdict_word
from prelu_doctor.reports.tables import Heading, fitted, table

_HEADINGS = (
    Heading("output", right=False),
    Heading("batch"),
    Heading("input", right=False, spare=3),
    Heading("max error", spare=2),
    Heading("scale", spare=1),
    Heading("error / scale"),
    Heading("", right=False),
)
OUTPUT_WIDTH = 16
"""Cells that longer names of outputs should have left before columns are dropped for them."""


def parity_report(report: ParityReport) -> RenderableType:
    """The report as a page that lays itself out for the width and the encoding of its console."""
    return _ParityPage(report)


def parity_sentence(report: ParityReport) -> str:
    """What the comparison came to, in one sentence."""
    failed = sum(not check.passed for check in report.checks)
    if not report.checks:
        return "nothing was compared"
    within = f"error at most {number(report.tolerance)} of the output's scale"
    compared = count(len(report.checks), "comparison")
    if failed:
        return f"not the same function: {failed} of {compared} failed ({within} allowed)"
    return f"the same function in {compared}, {within}; worst {number(_worst(report))}"


def fixed_batch_sentence(report: ParityReport | Program) -> str:
    """That a file takes one batch size alone, and why; empty where it takes any."""
    if report.fixed_batch is None:
        return ""
    why = report.fixed_because or "its inputs declare that size, and it was compared at no other"
    return f"this file takes batches of {report.fixed_batch:,} alone: {why}"


@dataclass(frozen=True)
class _ParityPage:
    report: ParityReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report = self.report
        yield title(report.tool, "parity")
        yield model_facts(report.model)
        yield facts([("ONNX ", report.onnx_path), ("", f"opset {report.opset}, sha256 {report.onnx_sha256[:12]}")])
        yield Text("")
        if report.checks:
            rows = [_cells(check) for check in report.checks]
            headings, cells, _ = fitted(_HEADINGS, rows, options.max_width, OUTPUT_WIDTH)
            yield table(headings, cells, options.max_width, glyphs(options))
            yield Text("")
        yield Text.assemble(verdict_word(report.verdict), "  ", parity_sentence(report), overflow="fold")
        if report.fixed_batch is not None:
            yield Text(plain(fixed_batch_sentence(report)), overflow="fold")
        differing = [_difference(check) for check in report.checks if _why(check)]
        if differing:
            yield heading("What differs")
            yield listing(differing)


def _worst(report: ParityReport) -> float:
    return max(check.scaled_error for check in report.checks)


def _cells(check: ParityCheck) -> list[Text]:
    result = Text("same", style="green") if check.passed else Text("DIFFERS", style="bold red")
    figures = (number(check.max_error), number(check.scale), number(check.scaled_error))
    return [
        Text(plain(check.output)),
        Text(str(check.batch_size)),
        Text(check.source),
        *(Text(figure) for figure in figures),
        result,
    ]


def _difference(check: ParityCheck) -> list[Text]:
    name = Text(plain(check.output), style="bold", overflow="fold")
    return [Text.assemble(name, f" at batch {check.batch_size}: {_why(check)}", overflow="fold")]


def _why(check: ParityCheck) -> str:
    # The detail tells what differs, misplaced NaNs included; where outputs could not be compared, nothing was placed.
    return plain(check.detail) or ("" if check.non_finite_equal else "NaN or infinity at different places")

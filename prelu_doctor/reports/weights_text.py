"""The report on weights without their architecture, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.panel import Panel
from rich.text import Text

from prelu_doctor.escaping import plain
from prelu_doctor.records import (
    ClosedChannels,
    NonFiniteTensor,
    ScanReport,
    StoredSlopes,
    WeightsExamination,
    ZeroSlices,
)
from prelu_doctor.reports.figures import count, slope
from prelu_doctor.reports.finding_list import finding_list, not_examined
from prelu_doctor.reports.glyphs import Glyphs, glyphs
from prelu_doctor.reports.page import command_lines, heading, model_facts, more, prose, title, verdict_word
from prelu_doctor.reports.tables import Heading, Row, fitted, table

ROWS = 30
"""Tensors that the table shows."""
INDICES_LISTED = 4
NAME_WIDTH = 20
"""Cells that longer names should have left before the indices are dropped for them."""

_HEADINGS = (
    Heading("tensor", right=False),
    Heading("what", right=False),
    Heading("how many"),
    Heading("which", right=False, spare=1),
)
_NOTHING_RUN = (
    "The file holds weights alone and no architecture was given: nothing was run. What follows is what names, shapes "
    "and values tell. Which activation calls there are, which of their units are dead and how sure that is, take "
    "--arch."
)
_OUTCOMES = {
    "findings": "a weight is not finite, whatever the architecture",
    "undecided": "weights alone do not tell which units are dead",
    "healthy": "",
}


@dataclass(frozen=True)
class WeightsPage:
    """The report as a page that lays itself out for the width and the encoding of its console.

    Attributes:
        report: Its basis is `weights-only`.
        weights: What was found in them.
    """

    report: ScanReport
    weights: WeightsExamination

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the page out."""
        report, signs = self.report, glyphs(options)
        yield title(report.tool, "scan  weights-only")
        yield model_facts(report.model, further=[("data", "none"), ("weights", _looked_at(self.weights))])
        yield Text("")
        yield Panel(Text(_NOTHING_RUN), title=Text("WEIGHTS ONLY", style="bold"), border_style="bold yellow")
        yield from _table(self.weights, signs, options.max_width)
        yield Text("")
        yield Text.assemble(verdict_word(report.verdict), f"  {_OUTCOMES[report.verdict]}", overflow="fold")
        yield from finding_list(report.findings, signs, "tensor")
        yield from not_examined(report.unresolved)
        yield from _next_steps(report, options.max_width)


def _looked_at(weights: WeightsExamination) -> str:
    kinds = (count(weights.layers, "layer"), count(weights.norms, "norm"), count(len(weights.slopes), "slope tensor"))
    return f"{count(weights.tensors, 'tensor')}, {weights.floating:,} of floats: {', '.join(kinds)}"


def _table(weights: WeightsExamination, signs: Glyphs, width: int) -> Iterator[RenderableType]:
    rows = list(_rows(weights, signs))
    if not rows:
        return
    headings, cells, dropped = fitted(_HEADINGS, rows[:ROWS], width, NAME_WIDTH)
    yield Text("")
    yield table(headings, cells, width, signs)
    yield from more(len(rows), ROWS, "row")
    if dropped:
        yield Text(f"\nToo narrow for: {', '.join(dropped)}.", style="dim")


def _rows(weights: WeightsExamination, signs: Glyphs) -> Iterator[Row]:
    """The gravest first: faults, what is dead, what may be, then slopes."""
    yield from (_non_finite_row(held) for held in weights.non_finite if not held.mask)
    yield from (_zero_row(zero) for zero in weights.zero_slices if zero.slices == "outputs")
    for closed in weights.closed_channels:
        yield from _closed_rows(closed)
    yield from (_zero_row(zero) for zero in weights.zero_slices if zero.slices == "inputs")
    yield from (_slope_row(slopes, signs) for slopes in weights.slopes)
    yield from (
        _row(held.tensor, "mask of infinities", held.infinite, held.elements)
        for held in weights.non_finite
        if held.mask
    )


def _non_finite_row(held: NonFiniteTensor) -> Row:
    what = " and ".join(name for name, quantity in (("NaN", held.nan), ("infinity", held.infinite)) if quantity)
    return _row(held.tensor, what, held.nan + held.infinite, held.elements, style="bold red")


def _zero_row(zero: ZeroSlices) -> Row:
    certain = "?" if zero.doubt else ""
    what = f"all-zero {zero.slices}{certain}"
    style = "yellow" if zero.slices == "outputs" and not zero.may_be_padding else ""
    return _row(zero.tensor, what, zero.zero, zero.of, zero.indices, style)


def _closed_rows(closed: ClosedChannels) -> Iterator[Row]:
    if closed.proved:
        yield _row(closed.tensor, "dead behind ReLU: proved", closed.proved, closed.of, closed.proved_indices, "yellow")
    if closed.probable:
        yield _row(closed.tensor, "dead behind ReLU: probably", closed.probable, closed.of, closed.probable_indices)


def _slope_row(slopes: StoredSlopes, signs: Glyphs) -> Row:
    what = "slopes, or norm scales" if slopes.surety == "undetermined" else "PReLU slopes"
    span = ""
    if slopes.min is not None and slopes.max is not None:
        span = (
            slope(slopes.min) if slopes.min == slopes.max else f"{slope(slopes.min)} {signs.arrow} {slope(slopes.max)}"
        )
    return [Text(plain(slopes.tensor)), Text(what), Text(f"{slopes.of:,}"), Text(span)]


def _row(tensor: str, what: str, quantity: int, of: int, indices: list[int] | None = None, style: str = "") -> Row:
    shown = [str(index) for index in (indices or [])[:INDICES_LISTED]]
    which = ", ".join([*shown, "..."] if len(indices or []) > INDICES_LISTED else shown)
    return [Text(plain(tensor)), Text(what, style=style), Text(f"{quantity:,} of {of:,}"), Text(which, style="dim")]


def _next_steps(report: ScanReport, width: int) -> Iterator[RenderableType]:
    yield heading("What to do next")
    yield prose("Name the architecture and give samples, to see every call and its dead units:")
    arch = "--arch\0module:callable"
    yield command_lines([f"prelu-doctor\0scan\0{report.model.path}", arch, "--data\0samples.npz"], width)
    gravest = next((found.code for found in report.findings if found.severity != "note"), "")
    if gravest:
        yield prose(f"What {gravest} means, and what to do about it:")
        yield command_lines([f"prelu-doctor\0explain\0{gravest}"], width)

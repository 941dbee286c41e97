"""The table of what a conversion did to each site."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from prelu_doctor.escaping import plain
from prelu_doctor.records import ConvertReport, Site, SiteChange, Slopes
from prelu_doctor.reports.figures import count, percent, slope
from prelu_doctor.reports.glyphs import Glyphs, glyphs
from prelu_doctor.reports.site_rows import ROWS, WORST_ROWS
from prelu_doctor.reports.tables import Heading, fitted, table

_HEADINGS = [
    Heading("site", right=False),
    Heading("dead"),
    Heading("after"),
    Heading("revived"),
    Heading("left", spare=3),
    Heading("min slope", spare=1),
    Heading("mean slope"),
    Heading("max slope", spare=2),
]
_MISFIT = Heading("misfit")
"""Stands behind the others where slopes were fitted."""
ID_WIDTH = 28
"""Cells that longer ids should have left before columns are dropped for them."""


@dataclass(frozen=True)
class ChangeTable:
    """The converted sites of a conversion as a table.

    Attributes:
        report: The conversion.
    """

    report: ConvertReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the table out for the width at hand."""
        signs = glyphs(options)
        converted = [change for change in self.report.changes if not change.declined]
        shown = _worth_a_row(self.report, converted)
        before = {site.id: site for site in self.report.before.sites}
        rows = [_cells(change, before.get(change.site), _after(self.report, change), signs) for change in shown]
        columns = _HEADINGS
        if any(change.fit for change in shown):
            columns = [*_HEADINGS, _MISFIT]
            rows = [[*row, _misfit(change, signs)] for row, change in zip(rows, shown, strict=True)]
        if rows:
            headings, cells, _ = fitted(columns, rows, options.max_width, ID_WIDTH)
            yield table(headings, cells, options.max_width, signs)
        if len(shown) < len(converted):
            rest = count(len(converted) - len(shown), "more site")
            yield Text(f"\nand {rest} became PReLU (--format json has them all)", style="dim")


def learned_slopes(report: ConvertReport) -> list[Slopes]:
    """The slopes of the converted sites, as the scan after the conversion saw them."""
    sites = [_after(report, change) for change in report.changes if not change.declined]
    return [site.alpha for site in sites if site and site.alpha]


def _worth_a_row(report: ConvertReport, converted: list[SiteChange]) -> list[SiteChange]:
    """All sites of a short model; of a long one those with the most dead units and the worst fits, in forward order."""
    if len(converted) <= ROWS:
        return converted
    dead = {site.id: site.dead for site in report.before.sites}
    told = [
        change for change in converted if dead.get(change.site) or change.revived or change.declined_units or change.fit
    ]
    worst = sorted(told, key=lambda change: (-dead.get(change.site, 0), -_residual(change)))[:WORST_ROWS]
    kept = {change.site for change in worst}
    return [change for change in told if change.site in kept]


def _residual(change: SiteChange) -> float:
    return change.fit.residual if change.fit else 0.0


def _after(report: ConvertReport, change: SiteChange) -> Site | None:
    """The site in the second scan: a call that got a module of its own goes by that module's name there."""
    after = {site.id: site for site in report.after.sites}
    in_a_loop = f"{change.module}#1"
    return after.get(change.module) or after.get(in_a_loop) or after.get(change.site)


def _cells(change: SiteChange, before: Site | None, after: Site | None, signs: Glyphs) -> list[Text]:
    left = sum(len(declined.units) for declined in change.declined_units)
    slopes = after.alpha if after else None
    figures = [slope(value) for value in (slopes.min, slopes.mean, slopes.max)] if slopes else ["-"] * 3
    return [
        Text(plain(change.site)),
        _quiet(before.dead if before else None, signs),
        _quiet(after.dead if after else None, signs),
        _quiet(len(change.revived), signs),
        _quiet(left, signs),
        *(Text(figure) for figure in figures),
    ]


def _misfit(change: SiteChange, signs: Glyphs) -> Text:
    return Text(percent(change.fit.residual)) if change.fit else Text(signs.none, style="dim")


def _quiet(quantity: int | None, signs: Glyphs) -> Text:
    if quantity is None:
        return Text("-", style="dim")
    return Text(str(quantity)) if quantity else Text(signs.none, style="dim")

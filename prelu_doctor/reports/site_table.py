"""The table of sites: columns that fit the width, the least important dropped first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from prelu_doctor.escaping import plain
from prelu_doctor.records import Site
from prelu_doctor.reports.figures import count, percent
from prelu_doctor.reports.glyphs import Glyphs, glyphs
from prelu_doctor.reports.site_rows import Gap, dead_share, site_rows
from prelu_doctor.reports.tables import Heading, Row, fitted, table

BAR_WIDTH = 8
ID_WIDTH = 28
"""Cells that longer ids should have left before columns are dropped for them."""


@dataclass(frozen=True)
class SiteTable:
    """The sites of a scan as a table.

    Attributes:
        sites: In forward order.
    """

    sites: Sequence[Site]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the table out for the width at hand."""
        signs, width = glyphs(options), options.max_width
        rows = site_rows(self.sites)
        headings, cells, dropped = fitted(_headings(signs), _cells(rows, signs), width, ID_WIDTH)
        yield table(headings, cells, width, signs)
        shown = sum(isinstance(row, Site) for row in rows)
        yield from _left_out(len(self.sites), shown, dropped)


@dataclass(frozen=True)
class _Column:
    head: Heading
    cell: Callable[[Site, Glyphs], Text]


def _headings(signs: Glyphs) -> list[Heading]:
    bound = Heading(f"{signs.at_most} bound", spare=6)
    return [Heading("site", right=False), *(column.head for column in _COLUMNS), bound]


def _cells(rows: Sequence[Site | Gap], signs: Glyphs) -> list[Row]:
    return [_gap_cells(row, signs) if isinstance(row, Gap) else _site_cells(row, signs) for row in rows]


def _site_cells(site: Site, signs: Glyphs) -> Row:
    return [Text(plain(site.id)), *(column.cell(site, signs) for column in _COLUMNS), _bound(site)]


def _gap_cells(gap: Gap, signs: Glyphs) -> Row:
    share = percent(gap.dead / gap.units) if gap.dead else signs.none
    cells = [f"{signs.gap} {gap.sites} sites", "", str(gap.units), str(gap.dead), share]
    empty = [""] * (len(_headings(signs)) - len(cells))
    return [Text(cell, style="dim") for cell in cells + empty]


def _left_out(sites: int, shown: int, dropped: Sequence[str]) -> list[Text]:
    lines = []
    if shown < sites:
        lines.append(f"{count(sites, 'site')}, of which {shown} are shown; --format json lists them all.")
    if dropped:
        lines.append(f"Too narrow for: {', '.join(dropped)}.")
    return [Text("\n" + " ".join(lines), style="dim")] if lines else []


def _dead_style(site: Site) -> str:
    if not site.dead:
        return "dim"
    return "bold red" if site.dead == site.units else "yellow"


def _share(site: Site, signs: Glyphs) -> Text:
    return Text(percent(dead_share(site)) if site.dead else signs.none, style=_dead_style(site))


def _bar(site: Site, signs: Glyphs) -> Text:
    return Text(signs.bar(dead_share(site), BAR_WIDTH), style=_dead_style(site))


def _quiet(quantity: int, signs: Glyphs) -> Text:
    return Text(str(quantity)) if quantity else Text(signs.none, style="dim")


def _bound(site: Site) -> Text:
    if site.input_independent:
        return Text("certain")
    return Text(percent(site.firing_rate_bound), style="" if site.dead else "dim")


_COLUMNS = (
    _Column(Heading("function", right=False, spare=2), lambda site, _: Text(site.function)),
    _Column(Heading("units"), lambda site, _: Text(str(site.units))),
    _Column(Heading("dead"), lambda site, _: Text(str(site.dead), style=_dead_style(site))),
    _Column(Heading(""), _share),
    _Column(Heading("", right=False, width=BAR_WIDTH, spare=5), _bar),
    _Column(Heading("rare", spare=4), lambda site, signs: _quiet(site.rare, signs)),
    _Column(Heading("always-on", spare=1), lambda site, signs: _quiet(site.always_on, signs)),
    _Column(Heading("dormant", spare=3), lambda site, signs: _quiet(site.dormant, signs)),
)
"""Behind the id and before the bound, whose heading depends on the glyphs."""

"""The lists of findings, and of what was not examined, as every scan's page has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import RenderableType
from rich.text import Text

from prelu_doctor.escaping import plain
from prelu_doctor.records import Finding, Unresolved
from prelu_doctor.reports.figures import count
from prelu_doctor.reports.glyphs import Glyphs
from prelu_doctor.reports.page import heading, listing, more, severity_word

LISTED = 10
"""What was not examined is listed up to this number."""
ID_WIDTH = 60
"""Cells of a site's id in the list of findings; the list of the worst sites has the whole of it."""


def finding_list(findings: Sequence[Finding], signs: Glyphs, noun: str = "site") -> Iterator[RenderableType]:
    """One line a code: its first message, and at how many other places it was found.

    Args:
        findings: The gravest first.
        signs: What to draw with.
        noun: What a place is called.
    """
    if not findings:
        return
    yield heading("Findings")
    rows = []
    for _, group in groupby(findings, key=lambda finding: (finding.severity, finding.code)):
        found = list(group)
        rows.append((severity_word(found[0].severity), Text(plain(found[0].code)), _line(found, signs, noun)))
    yield listing(rows)


def _line(found: list[Finding], signs: Glyphs, noun: str) -> Text:
    first, line = found[0], Text(overflow="fold")
    if first.site is not None:
        line.append(signs.cut_left(plain(first.site), ID_WIDTH), style="bold")
        line.append(": ")
    line.append(plain(first.message))
    if len(found) > 1:
        line.append(f" (and at {count(len(found) - 1, f'more {noun}')})", style="dim")
    return line


def not_examined(items: Sequence[Unresolved]) -> Iterator[RenderableType]:
    """What could not be examined, each with the reason."""
    if not items:
        return
    yield heading("Not examined")
    for item in items[:LISTED]:
        yield listing([(Text("-"), Text.assemble((plain(item.id), "bold"), ": ", plain(item.reason), overflow="fold"))])
    yield from more(len(items), LISTED, "item")

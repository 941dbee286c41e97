"""Tables whose first column is the name of a thing and gives way to the figures behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from prelu_doctor.reports.glyphs import Glyphs

GAP = 2
"""Cells between two columns."""


@dataclass(frozen=True)
class Heading:
    """A column's head.

    Attributes:
        name: As shown.
        right: Figures stand right, words left.
        width: Cells it has at least.
        spare: Where the table is too wide: dropped as the first (1), the second (2), ...; never (0).
    """

    name: str
    right: bool = True
    width: int = 0
    spare: int = 0


Row = Sequence[Text]


def fitted(
    headings: Sequence[Heading], rows: Sequence[Row], width: int, room: int
) -> tuple[list[Heading], list[Row], list[str]]:
    """The columns that fit, the spare ones dropped until the first has `room` cells or all it needs.

    Args:
        headings: One a column.
        rows: As many cells each.
        width: Cells of the whole.
        room: Cells that names longer than this should have.

    Returns:
        The headings and the rows that are left, and the names of the columns that were dropped.
    """
    spare = sorted((head for head in headings if head.spare), key=lambda head: head.spare)
    kept, dropped = list(headings), list[str]()
    needed = min(room, _column_width(headings, rows, 0))
    while spare and _name_width(kept, _only(rows, headings, kept), width) < needed:
        kept.remove(spare[0])
        dropped.append(spare.pop(0).name)
    return kept, _only(rows, headings, kept), [name for name in dropped if name]


def _only(rows: Sequence[Row], headings: Sequence[Heading], kept: Sequence[Heading]) -> list[Row]:
    columns = [column for column, head in enumerate(headings) if head in kept]
    return [[row[column] for column in columns] for row in rows]


def table(headings: Sequence[Heading], rows: Sequence[Row], width: int, signs: Glyphs) -> Table:
    """The table, with names too long for it cut at their left.

    Args:
        headings: One a column.
        rows: As many cells each.
        width: Cells of the whole.
        signs: What to draw with.
    """
    longest = _column_width(headings, rows, 0)
    first = max(min(longest, _name_width(headings, rows, width)), len(headings[0].name))
    # The box puts one blank between columns, the padding the others.
    drawn = Table(box=signs.head, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style="dim")
    for column, head in enumerate(headings):
        drawn.add_column(
            Text(head.name),
            width=_column_width(headings, rows, column) if column else first,
            justify="right" if head.right else "left",
            no_wrap=True,
        )
    for row in rows:
        drawn.add_row(_cut(row[0], first, signs), *row[1:])
    return drawn


def _name_width(headings: Sequence[Heading], rows: Sequence[Row], width: int) -> int:
    """Cells that the figures leave to the first column; negative where they are too wide themselves."""
    return width - sum(_column_width(headings, rows, column) + GAP for column in range(1, len(headings)))


def _column_width(headings: Sequence[Heading], rows: Sequence[Row], column: int) -> int:
    head = headings[column]
    return max(cell_len(head.name), head.width, *(cell_len(row[column].plain) for row in rows), 0)


def _cut(name: Text, width: int, signs: Glyphs) -> Text:
    return Text(signs.cut_left(name.plain, width), style=name.style)

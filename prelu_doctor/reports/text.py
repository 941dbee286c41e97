"""From a rich renderable to a string."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

NARROWEST = 50
"""Columns below which a table says nothing any more."""


def to_text(renderable: RenderableType, *, width: int = 80, colour: bool = False, encoding: str = "utf-8") -> str:
    """The renderable as text.

    Args:
        renderable: A report, as `scan_report` and its like return it.
        width: Columns of the terminal.
        colour: With ANSI colours and weights.
        encoding: Of the stream the text is meant for: an encoding other than UTF gets ASCII bars and frames, and
            characters that it lacks become backslash escapes.

    Returns:
        The text, ending with a newline; without colour no line ends with a blank.
    """
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace", newline="\n", write_through=True)
    console = Console(
        file=stream,
        width=max(width, NARROWEST),
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
        _environ={},
    )
    console.print(renderable, crop=False)
    text = buffer.getvalue().decode(encoding)
    return text if colour else "".join(line.rstrip() + "\n" for line in text.splitlines())

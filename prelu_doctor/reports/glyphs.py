"""The few characters beyond ASCII that reports draw with, and what stands for them where they cannot be shown."""

from __future__ import annotations

from dataclasses import dataclass

from rich.box import Box
from rich.cells import cell_len
from rich.console import ConsoleOptions


@dataclass(frozen=True)
class Glyphs:
    """What a report draws with.

    Attributes:
        eighths: A bar's last cell, from one part to full.
        at_most: Less than or equal.
        ellipsis: Stands for what was cut.
        none: A count of 0 that should not catch the eye.
        gap: Stands for rows left out.
        arrow: From before to after.
        head: Frame of a table: a line under its head, nothing else.
    """

    eighths: str
    at_most: str
    ellipsis: str
    none: str
    gap: str
    arrow: str
    head: Box

    def bar(self, share: float, width: int) -> str:
        """A bar of `width` cells for a share in 0..1; a share above 0 always shows, one below 1 never fills it."""
        steps = len(self.eighths)
        parts = round(share * width * steps)
        if share > 0:
            parts = max(parts, 1)
        if share < 1:
            parts = min(parts, width * steps - 1)
        full, part = divmod(parts, steps)
        return self.eighths[-1] * full + (self.eighths[part - 1] if part else "")

    def cut_left(self, text: str, width: int) -> str:
        """The text in at most `width` cells, cut at its left: a site's id differs at its end."""
        if cell_len(text) <= width:
            return text
        kept = text
        while kept and cell_len(kept) > width - cell_len(self.ellipsis):
            kept = kept[1:]
        return self.ellipsis + kept


UNICODE = Glyphs(
    eighths="▏▎▍▌▋▊▉█",
    at_most="≤",
    ellipsis="…",
    none="·",
    gap="⋮",
    arrow="→",
    head=Box("    \n    \n ── \n    \n    \n    \n    \n    \n"),
)
ASCII = Glyphs(
    eighths="#",
    at_most="<=",
    ellipsis="...",
    none=".",
    gap=":",
    arrow="->",
    head=Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True),
)


def glyphs(options: ConsoleOptions) -> Glyphs:
    """The glyphs that the console's encoding can show."""
    return ASCII if options.ascii_only else UNICODE

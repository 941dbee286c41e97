"""Names that come out of files, made safe for a terminal and a report."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})
"""Unicode categories that steer a terminal, hide or reorder text, or are no characters at all."""


def plain(text: str) -> str:
    r"""The text with every character that does not print replaced by a visible escape.

    Control characters (C0, C1, ESC, line breaks), format characters (bidirectional overrides, zero width), lone
    surrogates and unassigned code points become `\x1b`, `\u202e` and the like; the result is one line.

    Args:
        text: Whatever a file, a path or a message held.

    Returns:
        Text that a terminal shows as it stands. A backslash stays as it is.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if unicodedata.category(char) in _INVISIBLE else char for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def is_plain_name(name: str) -> bool:
    """True for a dotted name of letters, digits, `_` and `-`: `torch.fx` writes names into code that it runs."""
    return all(_PLAIN_PART.fullmatch(part) for part in name.split("."))


_PLAIN_PART = re.compile(r"[\w-]+")


def escaped(name: object, limit: int = 100) -> str:
    r"""The name with every unprintable character as its `\x1b`-like escape, shortened in the middle.

    Args:
        name: Whatever a file calls a thing; a string as a rule.
        limit: Most characters shown.
    """
    text = plain(str(name)[: 4 * limit])
    if len(text) <= limit:
        return text
    half = (limit - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def listed(names: Iterable[object], limit: int = 10) -> str:
    """The quoted names, at most `limit` of them, and how many more there are."""
    every = list(names)
    shown = ", ".join(f"'{escaped(name)}'" for name in every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"


def reason_of(error: BaseException, limit: int = 200) -> str:
    """What went wrong, as one escaped line.

    The last line of the error's text that is not a pointer to documentation: torch's own text about a file it does not
    read goes on for a page, most of it advice to read the file unsafely.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "documentation" not in line]
    return escaped(lines[-1] if lines else type(error).__name__, limit)

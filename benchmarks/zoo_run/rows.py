"""The rows of the zoo's JSON, read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
Figures = dict[str, Any]

ROUNDING = 1e-6
"""Largest change of an output over its largest element that counts as rounding."""


def step(row: Row, name: str) -> Figures:
    """What a step found; empty where it was not taken."""
    figures: Figures = row["steps"].get(name, {})
    return figures


def done(row: Row, name: str) -> bool:
    """True where a step came to its end."""
    figures = step(row, name)
    return bool(figures) and ("error" not in figures or "parity" in figures) and "skipped" not in figures


def every(rows: Iterable[Row], name: str) -> list[Figures]:
    """What a step found on each model where it came to its end."""
    return [step(row, name) for row in rows if done(row, name)]


def exportable(export: Figures) -> bool:
    """True where torch.onnx.export takes the original, be it for one batch size alone."""
    original = export.get("original", {})
    return bool(export.get("parity")) or "" in (original.get("any_batch"), original.get("one_batch"))


def calls_in_no_site(row: Row) -> int:
    """Dispatched calls that no site holds."""
    find = step(row, "find")
    return int(find.get("calls", 0) - find.get("calls_in_sites", 0))

"""Figures as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percent(share: float) -> str:
    """A share in 0..1 as a percentage; what is not 0 or not all never rounds to it."""
    if not math.isfinite(share):
        return number(share)
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    if share < 0.0001:
        return "<0.01 %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{100 * share:.{2 if share < 0.01 else 1}f} %"


def number(value: float | None) -> str:
    """A figure with four significant digits; a dash where there is none."""
    if value is None:
        return "-"
    return "NaN" if math.isnan(value) else f"{value:.4g}"


def slope(value: float) -> str:
    """A PReLU slope with three decimals, or shorter where it is exactly 0."""
    if value == 0:
        return "0"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 else number(value)


def count(quantity: int, noun: str, plural: str = "") -> str:
    """A quantity with its noun: `1 unit`, `4,800 units`."""
    return f"{quantity:,} {noun if quantity == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")

"""Everything that isn't as it should be, gathered by its reason."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from benchmarks.zoo_run.rows import ROUNDING, Figures, Row, calls_in_no_site, exportable, step

SHOWN = 12
"""Models named for a reason."""

Trouble = tuple[str, str, str]
"""Heading, reason, and the model (with the site behind a blank)."""


def troubles(rows: Iterable[Row]) -> str:
    """Every reason with the models that have it, as Markdown, the most frequent first."""
    groups: dict[str, dict[str, list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for part in (_of_the_run, _of_the_scan, _of_the_surgery, _of_the_revival, _of_the_export):
            for heading, reason, where in part(row["name"], row):
                groups[heading][_general(reason)].append((where, reason))
    return "\n\n".join(_group(heading, reasons) for heading, reasons in groups.items()) or "Nothing."


def _group(heading: str, reasons: dict[str, list[tuple[str, str]]]) -> str:
    number = sum(len(found) for found in reasons.values())
    ordered = sorted(reasons.values(), key=len, reverse=True)
    lines = [f"- {_escaped(found[0][1])}: {_places(found)}" for found in ordered]
    return "\n".join([f"### {heading} ({number})", "", *lines])


def _of_the_run(name: str, row: Row) -> Iterator[Trouble]:
    if row.get("ended"):
        yield "Ended before their time", row["ended"], name
    for taken, figures in row["steps"].items():
        if "error" in figures and "parity" not in figures:
            cause = f" ({figures['cause']})" if "cause" in figures else ""
            yield "Steps that failed", f"{taken}: {figures['error']}{cause}", name


def _of_the_scan(name: str, row: Row) -> Iterator[Trouble]:
    find = step(row, "find")
    for site, reason in find.get("unresolved", []):
        yield "Calls in no site", reason, f"{name} {site}"
    if calls_in_no_site(row) and not find["unresolved"]:
        yield "Calls in no site", f"{calls_in_no_site(row)} calls, and nothing is said of them", name
    if find.get("misjudged"):
        yield "Units that the scan judges otherwise than the dispatcher", f"{find['misjudged']} units", name


def _of_the_surgery(name: str, row: Row) -> Iterator[Trouble]:
    operate = step(row, "operate")
    for site, reason in operate.get("declined", {}).items():
        yield "Sites declined by the surgery", reason, f"{name} {site}"
    if operate.get("equal") is False:
        yield "Output not equal after surgery", f"moved by {operate['change']:.2g} of its scale", name
    unexplained = operate.get("calls_left", 0) - operate.get("calls_declined", 0) - calls_in_no_site(row)
    if "calls_left" in operate and unexplained:
        yield "Calls that still rectify although their sites were not declined", f"{unexplained} calls", name


def _of_the_revival(name: str, row: Row) -> Iterator[Trouble]:
    revive = step(row, "revive")
    if revive.get("change", 0.0) > ROUNDING:
        yield "Output moved by the revival", f"by {revive['change']:.2g} of its scale", name
    for reason, units in revive.get("left", {}).items():
        yield "Dead units left alone", reason, f"{name} ({units} units)"
    if step(row, "reload").get("equal") is False:
        yield "Converted file not equal", "another output", name


def _of_the_export(name: str, row: Row) -> Iterator[Trouble]:
    export = step(row, "export")
    if export.get("parity") is not False:
        return
    if exportable(export):
        yield "No parity, although torch.onnx.export takes the original", _why_no_parity(export), name
    else:
        reason = f"{export['error']}; the original: {export['original']['one_batch']}"
        yield "No parity, and torch.onnx.export does not take the original", reason, name


def _why_no_parity(export: Figures) -> str:
    original, wide = export["original"], export.get("float64")
    notes = []
    if "parity" in original:
        notes.append(f"the original: {original['parity'] or 'parity'}")
    if original["any_batch"]:
        notes.append(f"torch.onnx.export takes it for one batch size alone: {original['any_batch']}")
    if wide is not None:
        notes.append(f"float32 and float64 differ by {wide:.1e}")
    return "; ".join([export["error"], *notes])


def _places(found: list[tuple[str, str]]) -> str:
    models: dict[str, int] = defaultdict(int)
    for where, _ in found:
        models[where.split(" ")[0]] += 1
    names = [name if number == 1 else f"{name} ({number})" for name, number in models.items()]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(found)} in {len(names)} models: {', '.join(names[:SHOWN])}{more}"


def _general(reason: str) -> str:
    """The reason without what differs from model to model."""
    return re.sub(r"\d+", "N", re.sub(r"\b[\w.]*\.py\b|'[^']*'|\b\w+(\.\w+)+", "…", reason))


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")

"""The zoo's results as a page: totals, a summary by source, what was declined or failed and why, a row a model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]

SOURCES = ("torchvision", "timm", "transformers", "plain")
STEPS = {
    "find": "scan",
    "operate": "surgery",
    "revive": "conversion with revival",
    "reload": "file",
    "export": "export and parity",
    "naive": "usual recipe",
}


def table(results: dict[str, Any]) -> str:
    """The page, as Markdown."""
    rows = list(results["models"].values())
    lacking = [row["name"] for row in rows if _step(row, "count").get("calls") == 0]
    shown = [row for row in rows if row["name"] not in lacking]
    parts = [
        "# The zoo run",
        _how(results),
        "## Totals",
        _totals(shown),
        "## By source",
        _by_source(shown),
        "## Declined, unresolved, failed",
        _troubles(shown),
        "## Every model",
        _LEGEND,
        _models(shown),
        f"{len(lacking)} further models make no ReLU or ReLU6 call: {', '.join(lacking) or 'none'}.",
    ]
    return "\n\n".join(parts) + "\n"


def _how(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in results.get("environment", {}).items())
    took = f" The run took {results['seconds'] // 60} minutes." if "seconds" in results else ""
    return (
        "Written by `make zoo`. Random weights, small random inputs taken for real data, eval mode, CPU, one thread a "
        f"model.{took} {versions}.\n\n"
        "Calls are counted at the dispatcher by code that shares nothing with the package. Up to three units a model "
        "are killed before the scan. Outputs after surgery are compared on inputs that were not scanned. The usual "
        "recipe: forward hooks on `nn.ReLU` to find the calls, `setattr` of an `nn.PReLU()` for each module."
    )


def _totals(rows: list[Row]) -> str:
    find, operate = _all(rows, "find"), _all(rows, "operate")
    calls, in_sites = _sum(find, "calls"), _sum(find, "calls_in_sites")
    sites = _sum(_all([row for row in rows if "declined" in _step(row, "operate")], "find"), "sites")
    declined = sum(len(step["declined"]) for step in operate)
    revive, reload, export, naive = (_all(rows, step) for step in ("revive", "reload", "export", "naive"))
    told = [step for step in find if step.get("misjudged") is not None]
    reload = [step for step in reload if "equal" in step]
    exportable = [step for step in export if _exportable(step)]
    hooked = [row for row in rows if _done(row, "naive")]
    lines = [
        f"{len(rows)} models of {len({(row.get('source'), row.get('family')) for row in rows})} families that make ReLU or ReLU6 calls.",
        f"Calls dispatched: {calls:,}; in a site: {in_sites:,} ({_share(in_sites, calls)}). Sites: {_sum(find, 'sites'):,}.",
        f"Sites rewritten: {sites - declined:,} of {sites:,} ({_share(sites - declined, sites)}); declined: {declined:,}.",
        f"Output equal to the bit after surgery: {sum(step['equal'] for step in operate)} of {len(operate)} models.",
        f"Units silent on the inputs, as the dispatcher tells: {_sum(told, 'truly_dead'):,}; otherwise judged by the scan: "
        f"{_sum(told, 'misjudged'):,} (on {len(told)} models). Units killed: {_sum(find, 'planted')}, found dead: "
        f"{_sum(find, 'planted_found')}, revived: {_sum(revive, 'planted_revived')}.",
        f"Silent units, taken for dead: {_sum(revive, 'dead'):,}; revived: {_sum(revive, 'revived'):,}; output not moved by "
        f"more than rounding: {sum(step['change'] <= ROUNDING for step in revive)} of {len(revive)} models.",
        f"Converted file loaded onto a fresh model, equal: {sum(step['equal'] for step in reload)} of {len(reload)} models.",
        f"ONNX parity: {sum(step['parity'] for step in export)} of {len(export)} models; "
        f"{sum(step['parity'] for step in exportable)} of the {len(exportable)} that `torch.onnx.export` takes unchanged.",
        f"The usual recipe: hooks on `nn.ReLU` count {_sum(naive, 'hooked_calls'):,} of "
        f"{_sum(_all(hooked, 'count'), 'calls'):,} calls in {_sum(naive, 'modules'):,} modules; after `setattr` "
        f"{_sum(naive, 'sites_left'):,} sites are left as they were, and the output has moved on "
        f"{sum(step['change'] > ROUNDING for step in naive)} of {len(naive)} models, by a median of {_median(naive):.3g} of its scale.",
    ]
    return "\n".join(f"- {line}" for line in lines)


ROUNDING = 1e-6
"""Largest change of an output over its largest element that counts as rounding."""


def _by_source(rows: list[Row]) -> str:
    lines = [
        "| source | models | families | calls | in sites | sites | declined | equal | revived of dead | parity | exportable | hooks count | recipe leaves |",
        "|---|" + "---:|" * 12,
    ]
    for source in SOURCES:
        of = [row for row in rows if row["name"].startswith(f"{source}/")]
        find, operate, revive = _all(of, "find"), _all(of, "operate"), _all(of, "revive")
        export, naive = _all(of, "export"), _all(of, "naive")
        cells = [
            source,
            len(of),
            len({row.get("family") for row in of}),
            f"{_sum(find, 'calls'):,}",
            f"{_sum(find, 'calls_in_sites'):,}",
            f"{_sum(find, 'sites'):,}",
            sum(len(step["declined"]) for step in operate),
            f"{sum(step['equal'] for step in operate)} / {len(operate)}",
            f"{_sum(revive, 'revived'):,} / {_sum(revive, 'dead'):,}",
            f"{sum(step['parity'] for step in export)} / {len(export)}",
            sum(_exportable(step) for step in export),
            f"{_sum(naive, 'hooked_calls'):,}",
            f"{_sum(naive, 'sites_left'):,}",
        ]
        lines.append(_cells(cells))
    return "\n".join(lines)


def _troubles(rows: list[Row]) -> str:
    """Every reason with the models that have it, the most frequent first."""
    groups: dict[str, dict[str, list[tuple[str, str]]]] = {
        "Ended before their time": defaultdict(list),
        "Steps that failed": defaultdict(list),
        "Calls in no site": defaultdict(list),
        "Sites declined by the surgery": defaultdict(list),
        "Output not equal after surgery": defaultdict(list),
        "Calls left although no site was declined for them": defaultdict(list),
        "Output moved by the revival": defaultdict(list),
        "Units that the scan judges otherwise than the dispatcher": defaultdict(list),
        "Converted file not equal": defaultdict(list),
        "No parity, although torch.onnx.export takes the original": defaultdict(list),
        "No parity, and torch.onnx.export does not take the original": defaultdict(list),
        "Dead units left alone": defaultdict(list),
    }
    for row in rows:
        for heading, reason, where in _troubles_of(row):
            groups[heading][_general(reason)].append((where, reason))
    parts = []
    for heading, reasons in groups.items():
        if not reasons:
            continue
        number = sum(len(found) for found in reasons.values())
        parts.append(f"### {heading} ({number})")
        ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
        parts.append("\n".join(f"- {_escaped(found[0][1])} — {_places(found)}" for _, found in ordered))
    return "\n\n".join(parts) if parts else "Nothing."


def _troubles_of(row: Row) -> Iterable[tuple[str, str, str]]:
    """Heading, reason and place of everything that isn't as it should be."""
    name = row["name"]
    find, operate, revive = (_step(row, step) for step in ("find", "operate", "revive"))
    if row.get("ended"):
        yield "Ended before their time", row["ended"], name
    for step, figures in row["steps"].items():
        if "error" in figures and "parity" not in figures:
            cause = f" ({figures['cause']})" if "cause" in figures else ""
            yield "Steps that failed", f"{STEPS.get(step, step)}: {figures['error']}{cause}", name
    for entry in find.get("unresolved", []):
        yield "Calls in no site", entry[1], f"{name} {entry[0]}"
    missing = find.get("calls", 0) - find.get("calls_in_sites", 0)
    if missing and not find.get("unresolved"):
        yield "Calls in no site", f"{missing} more dispatched than found, and nothing is said of them", name
    for site, reason in operate.get("declined", {}).items():
        yield "Sites declined by the surgery", reason, f"{name} {site}"
    if operate.get("equal") is False:
        yield "Output not equal after surgery", f"moved by {operate['change']:.2g} of its scale", name
    unexplained = operate.get("calls_left", 0) - operate.get("calls_declined", 0) - missing
    if "calls_left" in operate and unexplained:
        yield "Calls left although no site was declined for them", f"{unexplained} calls", name
    if revive.get("change", 0.0) > ROUNDING:
        yield "Output moved by the revival", f"by {revive['change']:.2g} of its scale", name
    if find.get("misjudged"):
        yield "Units that the scan judges otherwise than the dispatcher", f"{find['misjudged']} units", name
    if _step(row, "reload").get("equal") is False:
        yield "Converted file not equal", "another output", name
    export = _step(row, "export")
    if export.get("parity") is False:
        yield from _failed_export(name, export)
    for reason, units in revive.get("left", {}).items():
        yield "Dead units left alone", reason, f"{name} ({units})"


def _failed_export(name: str, export: dict[str, Any]) -> Iterable[tuple[str, str, str]]:
    original, error = export["original"], export["error"]
    if not _exportable(export):
        yield "No parity, and torch.onnx.export does not take the original", f"{error}; the original: {original['one_batch']}", name
        return
    notes = [
        f"the original: {original['parity']}" if original["parity"] else "the original has parity",
        f"torch.onnx.export takes it for one batch size alone: {original['any_batch']}" if original["any_batch"] else "",
        f"float32 and float64 differ by {export['float64']:.1e}" if export.get("float64") is not None else "",
    ]
    yield "No parity, although torch.onnx.export takes the original", "; ".join([error, *filter(None, notes)]), name


_LEGEND = """\
calls: dispatched ReLU and ReLU6 calls; found: of them in a site; sites; rewritten: sites that became a PReLU; equal:
output `==` after surgery with slopes of 0, on other inputs; dead, revived: units; moved: by the revival, largest change
over largest output; parity: worst error of the ONNX file likewise; s: seconds of scan, surgery, conversion, export. The
usual recipe: hooked: calls that hooks on `nn.ReLU` count; left: sites that `setattr` leaves as they were; moved: the
output."""


def _models(rows: list[Row]) -> str:
    lines = [
        "| model | calls | found | sites | rewritten | equal | dead | revived | moved | parity | s | hooked | left | moved |",
        "|---|" + "---:|" * 13,
    ]
    return "\n".join(lines + [_model(row) for row in rows])


def _model(row: Row) -> str:
    find, operate, revive, export, naive = (
        _step(row, step) for step in ("find", "operate", "revive", "export", "naive")
    )
    declined = operate.get("declined")
    seconds = [_step(row, step).get("seconds") for step in ("find", "operate", "revive", "export")]
    cells = [
        row["name"],
        find.get("calls", _step(row, "count").get("calls", "?")),
        find.get("calls_in_sites", "?"),
        find.get("sites", "?"),
        "?" if declined is None else find["sites"] - len(declined),
        {True: "yes", False: "**no**", None: "?"}[operate.get("equal")],
        revive.get("dead", "?"),
        revive.get("revived", "?"),
        _number(revive.get("change")),
        _parity(export),
        " ".join("?" if each is None else f"{each:.0f}" if each >= 9.5 else f"{each:.1f}" for each in seconds),
        naive.get("hooked_calls", "?"),
        naive.get("sites_left", "?"),
        _number(naive.get("change")),
    ]
    return _cells(cells)


def _parity(export: dict[str, Any]) -> str:
    if "parity" not in export:
        return "?"
    if export["parity"]:
        return _number(export["scaled_error"])
    return "**no**" if _exportable(export) else "not exportable"


def _exportable(export: dict[str, Any]) -> bool:
    """True where torch.onnx.export takes the original, be it for one batch size alone."""
    original = export.get("original", {})
    return bool(export.get("parity")) or "" in (original.get("any_batch"), original.get("one_batch"))


def _places(found: list[tuple[str, str]]) -> str:
    models: dict[str, int] = defaultdict(int)
    for where, _ in found:
        models[where.split(" ")[0]] += 1
    names = [name if number == 1 else f"{name} ({number})" for name, number in models.items()]
    more = f" and {len(names) - 12} more models" if len(names) > 12 else ""
    return f"{len(found)} in {len(names)}: {', '.join(names[:12])}{more}"


def _general(reason: str) -> str:
    """The reason without what differs from model to model."""
    return re.sub(r"\d+", "N", re.sub(r"\b[\w.]*\.py\b|'[^']*'|\b\w+(\.\w+)+", "…", reason))


def _step(row: Row, step: str) -> dict[str, Any]:
    figures: dict[str, Any] = row["steps"].get(step, {})
    return figures


def _done(row: Row, step: str) -> bool:
    figures = _step(row, step)
    return bool(figures) and ("error" not in figures or "parity" in figures) and "skipped" not in figures


def _all(rows: Iterable[Row], step: str) -> list[dict[str, Any]]:
    return [_step(row, step) for row in rows if _done(row, step)]


def _sum(steps: Iterable[dict[str, Any]], figure: str) -> int:
    return sum(step[figure] for step in steps)


def _median(naive: list[dict[str, Any]]) -> float:
    changes = sorted(step["change"] for step in naive)
    return changes[len(changes) // 2] if changes else 0.0


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "-"


def _number(value: float | None) -> str:
    return "?" if value is None else "0" if value == 0 else f"{value:.1e}"


def _cells(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")

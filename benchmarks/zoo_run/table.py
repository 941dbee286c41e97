"""The zoo's results as a page: totals, a summary by source, what was declined or failed and why, a row a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.zoo_run.rows import ROUNDING, Figures, Row, done, every, exportable, step
from benchmarks.zoo_run.troubles import troubles

SOURCES = ("torchvision", "timm", "transformers", "plain")


def table(results: dict[str, Any]) -> str:
    """The page, as Markdown."""
    rows = list(results["models"].values())
    lacking = [row["name"] for row in rows if step(row, "count").get("calls") == 0]
    shown = [row for row in rows if row["name"] not in lacking]
    parts = [
        "# The zoo run",
        _how(results),
        "## Totals",
        _totals(shown),
        "## By source",
        _by_source(shown),
        "## Declined, unresolved, failed",
        troubles(shown),
        "## Every model",
        _LEGEND,
        _models(shown),
        f"{len(lacking)} further models make no ReLU or ReLU6 call: {', '.join(lacking) or 'none'}.",
    ]
    return "\n\n".join(parts) + "\n"


def _how(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in results.get("environment", {}).items())
    steps = [step for row in results["models"].values() for step in row["steps"].values()]
    took = f" All steps took {sum(step.get('cpu_seconds', 0.0) for step in steps) / 60:.0f} minutes of processor time."
    done, of = len(results["models"]), results.get("of", 0)
    part = f" {done} of the zoo's {of} models have been run so far; the others are missing below." if done < of else ""
    return (
        f"Written by `make zoo`.{part} Random weights, small random inputs taken for real data, eval mode, CPU, one "
        f"thread a model.{took} {versions}.\n\n"
        "Calls and silent units are counted at the dispatcher by code that shares nothing with the package. Up to "
        "three units a model are killed before the scan. Outputs after surgery are compared on inputs that were not "
        "scanned. The usual recipe: forward hooks on `nn.ReLU` to find the calls, `setattr` of an `nn.PReLU()` for "
        "each module."
    )


def _totals(rows: list[Row]) -> str:
    families = {(row.get("source"), row.get("family")) for row in rows}
    lines = [
        f"{len(rows)} models of {len(families)} families that make ReLU or ReLU6 calls.",
        *_found(rows),
        *_rewritten(rows),
        *_revived(rows),
        *_exported(rows),
        *_usual(rows),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _found(rows: list[Row]) -> list[str]:
    find = every(rows, "find")
    told = [figures for figures in find if figures.get("misjudged") is not None]
    calls, placed = _sum(find, "calls"), _sum(find, "calls_in_sites")
    return [
        f"Calls dispatched: {calls:,}; in a site: {placed:,} ({_share(placed, calls)}). "
        f"Sites: {_sum(find, 'sites'):,}.",
        f"Units silent on the inputs: {_sum(told, 'truly_dead'):,}; judged otherwise by the scan: "
        f"{_sum(told, 'misjudged'):,} (on {len(told)} models).",
    ]


def _rewritten(rows: list[Row]) -> list[str]:
    operate = every(rows, "operate")
    sites = _sum(every([row for row in rows if done(row, "operate")], "find"), "sites")
    declined = sum(len(figures["declined"]) for figures in operate)
    rewritten = sites - declined
    return [
        f"Sites rewritten: {rewritten:,} of {sites:,} ({_share(rewritten, sites)}); declined: {declined:,}.",
        f"Output equal to the bit after surgery: {_number_of(operate, 'equal')} models.",
    ]


def _revived(rows: list[Row]) -> list[str]:
    find, revive = every(rows, "find"), every(rows, "revive")
    kept = sum(figures["change"] <= ROUNDING for figures in revive)
    return [
        f"Units killed: {_sum(find, 'planted')}; found dead: {_sum(find, 'planted_found')}; "
        f"revived: {_sum(revive, 'planted_revived')}.",
        f"Silent units, taken for dead: {_sum(revive, 'dead'):,}; revived: {_sum(revive, 'revived'):,}; output not "
        f"moved by more than rounding: {kept} of {len(revive)} models.",
    ]


def _exported(rows: list[Row]) -> list[str]:
    export = every(rows, "export")
    possible = [figures for figures in export if exportable(figures)]
    reload = [figures for figures in every(rows, "reload") if "equal" in figures]
    lost = [figures["original"]["parity"] for figures in possible if not figures["parity"]]
    return [
        f"Converted file loaded onto a fresh model, output equal: {_number_of(reload, 'equal')} models.",
        f"ONNX parity: {_number_of(export, 'parity')} models; {_number_of(possible, 'parity')} that "
        "`torch.onnx.export` takes unchanged. Of the others, exports of the original differ from it by more than the "
        f"limit too: {sum(map(bool, lost))} of {len(lost)}. "
        f"{sum(bool(figures.get('fixed_batch')) for figures in export)} files take batches of one size alone.",
    ]


def _usual(rows: list[Row]) -> list[str]:
    tried = [row for row in rows if done(row, "naive")]
    naive, calls = every(tried, "naive"), _sum(every(tried, "count"), "calls")
    changes = sorted(figures["change"] for figures in naive)
    moved = sum(change > ROUNDING for change in changes)
    median = changes[len(changes) // 2] if changes else 0.0
    return [
        f"The usual recipe: hooks on `nn.ReLU` count {_sum(naive, 'hooked_calls'):,} of {calls:,} calls, in "
        f"{_sum(naive, 'modules'):,} modules. After `setattr` {_sum(naive, 'sites_left'):,} sites are left as they "
        f"were, and the output has moved on {moved} of {len(naive)} models, by a median of {median:.2g} of its scale.",
    ]


def _by_source(rows: list[Row]) -> str:
    head = (
        "source | models | families | calls | found | sites | declined | equal | revived of dead | parity | "
        "exportable | hooks count | recipe leaves"
    )
    lines = [f"| {head} |", "|---|" + "---:|" * 12]
    for source in SOURCES:
        of = [row for row in rows if row["name"].startswith(f"{source}/")]
        find, operate, revive, export, naive = (
            every(of, name) for name in ("find", "operate", "revive", "export", "naive")
        )
        cells = [
            source,
            len(of),
            len({row.get("family") for row in of}),
            f"{_sum(find, 'calls'):,}",
            f"{_sum(find, 'calls_in_sites'):,}",
            f"{_sum(find, 'sites'):,}",
            sum(len(figures["declined"]) for figures in operate),
            _number_of(operate, "equal"),
            f"{_sum(revive, 'revived'):,} of {_sum(revive, 'dead'):,}",
            _number_of(export, "parity"),
            sum(exportable(figures) for figures in export),
            f"{_sum(naive, 'hooked_calls'):,}",
            f"{_sum(naive, 'sites_left'):,}",
        ]
        lines.append(_cells(cells))
    return "\n".join(lines)


_LEGEND = """\
calls: dispatched ReLU and ReLU6 calls; found: of them in a site; rewritten: sites that became a PReLU; equal: output
`==` after surgery with slopes of 0, on other inputs; dead, revived: units; moved: by the revival, largest change over
largest output; parity: worst error of the ONNX file likewise; s: seconds of scan, surgery, conversion with revival,
export with parity. The usual recipe: hooked: calls that hooks on `nn.ReLU` count (of so many modules); left: sites that
`setattr` leaves as they were; moved: the output."""

_COLUMNS = "calls found sites rewritten equal dead revived moved parity s hooked left moved".split()


def _models(rows: list[Row]) -> str:
    return "\n".join([_cells(["model", *_COLUMNS]), "|---|" + "---:|" * len(_COLUMNS), *map(_model, rows)])


def _model(row: Row) -> str:
    find, operate, revive, naive = (step(row, name) for name in ("find", "operate", "revive", "naive"))
    declined = operate.get("declined")
    cells = [
        row["name"],
        find.get("calls", step(row, "count").get("calls", "?")),
        find.get("calls_in_sites", "?"),
        find.get("sites", "?"),
        "?" if declined is None else find["sites"] - len(declined),
        {True: "yes", False: "**no**", None: "?"}[operate.get("equal")],
        revive.get("dead", "?"),
        revive.get("revived", "?"),
        _size(revive.get("change")),
        _parity(step(row, "export")),
        " ".join(_seconds(step(row, name)) for name in ("find", "operate", "revive", "export")),
        f"{naive['hooked_calls']} ({naive['modules']})" if "modules" in naive else "?",
        naive.get("sites_left", "?"),
        _size(naive.get("change")),
    ]
    return _cells(cells)


def _parity(export: Figures) -> str:
    if "parity" not in export:
        return "?"
    if export["parity"]:
        fixed = export.get("fixed_batch")
        return _size(export["scaled_error"]) + (f" at batch {fixed}" if fixed else "")
    return "**no**" if exportable(export) else "not exportable"


def _seconds(figures: Figures) -> str:
    seconds = figures.get("seconds")
    return "?" if seconds is None else f"{seconds:.0f}" if seconds >= 9.5 else f"{seconds:.1f}"


def _sum(steps: Iterable[Figures], figure: str) -> int:
    return sum(figures[figure] for figures in steps)


def _number_of(steps: list[Figures], figure: str) -> str:
    return f"{_sum(steps, figure)} of {len(steps)}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "-"


def _size(value: float | None) -> str:
    return "?" if value is None else "0" if value == 0 else f"{value:.1e}"


def _cells(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"

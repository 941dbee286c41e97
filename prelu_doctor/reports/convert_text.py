"""The report of a conversion for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from prelu_doctor.escaping import plain
from prelu_doctor.records import ConvertReport, FineTune, Preservation, Slopes, Totals
from prelu_doctor.reports.change_table import ChangeTable, learned_slopes
from prelu_doctor.reports.figures import count, listed, number, percent, slope
from prelu_doctor.reports.glyphs import Glyphs, glyphs
from prelu_doctor.reports.page import heading, listing, model_facts, prose, synthetic_banner, title
from prelu_doctor.reports.parity_text import fixed_batch_sentence, parity_sentence
from prelu_doctor.reports.tables import Heading, table

SITES_LISTED = 3

_ON_NOISE = (
    "No sample data was given: on seeded Gaussian noise nothing is revived and nothing is trained. The activations "
    "were changed; give real samples with --data to bring dead units back."
)
_HEADINGS = (Heading("", right=False), Heading("before"), Heading("after"))


def convert_report(report: ConvertReport) -> RenderableType:
    """The report as a page that lays itself out for the width and the encoding of its console."""
    return _ConvertPage(report)


@dataclass(frozen=True)
class _ConvertPage:
    report: ConvertReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report, signs = self.report, glyphs(options)
        yield title(report.tool, "convert")
        yield model_facts(report.before.model, report.before.data)
        if report.before.data.synthetic:
            yield from synthetic_banner(_ON_NOISE)
        yield Text("")
        yield table(_HEADINGS, _figures(report), options.max_width, signs)
        yield from _changes(report)
        yield from _declined_sites(report)
        yield from _declined_units(report)
        yield heading("Proof")
        yield listing(_proof(report, signs))
        yield from _files(report)


def _figures(report: ConvertReport) -> list[list[Text]]:
    before, after, tuned = report.before, report.after, report.fine_tune
    rows = [["units dead", _dead(before.totals), _dead(after.totals)]]
    for name in ("rare", "dormant", "never_positive"):
        counts = [sum(getattr(site, name) for site in scan.sites) for scan in (before, after)]
        if any(counts):
            rows.append([name.replace("_", "-"), *(f"{quantity:,}" for quantity in counts)])
    if tuned:
        rows.append(["held-out loss", number(tuned.original.loss), number(tuned.best.loss)])
    if tuned and not (tuned.original.accuracy is None and tuned.best.accuracy is None):
        accuracies = (tuned.original.accuracy, tuned.best.accuracy)
        rows.append(["held-out accuracy", *("-" if share is None else percent(share) for share in accuracies)])
    slopes = learned_slopes(report)
    if slopes:
        rows.append(["slopes", "-", f"{_range(slopes)}"])
    return [[Text(cell) for cell in row] for row in rows]


def _dead(totals: Totals) -> str:
    return f"{totals.dead:,} of {totals.units:,} ({percent(totals.dead_fraction)})"


def _range(slopes: list[Slopes]) -> str:
    least, most = min(each.min for each in slopes), max(each.max for each in slopes)
    return slope(least) if least == most else f"{slope(least)} to {slope(most)}"


def _changes(report: ConvertReport) -> Iterator[RenderableType]:
    converted = [change for change in report.changes if not change.declined]
    revived = sum(len(change.revived) for change in converted)
    dead = {site.id: set(site.dead_units) for site in report.before.sites}
    anew = any(set(change.revived) - dead.get(change.site, set()) for change in converted)
    done = f"{count(revived, 'unit')} re-initialised" if anew else f"{count(revived, 'dead unit')} revived"
    yield heading("Changed")
    yield prose(f"{count(len(converted), 'site')} of {len(report.changes)} became PReLU, {done}.{_fitted(report)}")
    if converted:
        yield Text("")
        yield ChangeTable(report)


def _fitted(report: ConvertReport) -> str:
    """What the column of misfits is, where there is one."""
    ids = {change.site for change in report.changes if change.fit}
    if not ids:
        return ""
    functions = dict.fromkeys(site.function for site in report.before.sites if site.id in ids)
    return (
        f" No PReLU equals {' or '.join(functions)}: there the slopes were fitted by least squares, and misfit is the "
        "share of the activation's energy that this leaves."
    )


def _declined_sites(report: ConvertReport) -> Iterator[RenderableType]:
    sites: dict[str, list[str]] = {}
    for change in report.changes:
        if change.declined:
            sites.setdefault(change.declined, []).append(change.site)
    if sites:
        yield heading("Sites left as they are")
        yield listing([_reason(count(len(ids), "site"), reason, ids) for reason, ids in sites.items()])


def _declined_units(report: ConvertReport) -> Iterator[RenderableType]:
    units: dict[str, int] = {}
    sites: dict[str, list[str]] = {}
    for change in report.changes:
        for declined in change.declined_units:
            units[declined.reason] = units.get(declined.reason, 0) + len(declined.units)
            sites.setdefault(declined.reason, []).append(change.site)
    if units:
        yield heading("Dead units left as they are")
        yield listing([_reason(count(units[reason], "unit"), reason, ids) for reason, ids in sites.items()])


def _reason(quantity: str, reason: str, ids: list[str]) -> list[Text]:
    line = Text(plain(reason), overflow="fold")
    line.append(f"\n{listed([plain(name) for name in ids], SITES_LISTED)}", style="dim")
    return [Text(quantity), line]


def _proof(report: ConvertReport, signs: Glyphs) -> list[list[Text]]:
    rows = [("output", _preservation(report)), ("fine-tune", _fine_tune(report, signs))]
    if report.parity:
        said = (parity_sentence(report.parity), fixed_batch_sentence(report.parity))
        rows.append(("ONNX", "; ".join(filter(None, said))))
    for program in report.programs:
        said = ("read back, it gives the converted model's outputs", fixed_batch_sentence(program))
        rows.append((".pt2", "; ".join(filter(None, said))))
    return [[Text(name, style="dim"), Text(plain(sentence), overflow="fold")] for name, sentence in rows]


def _preservation(report: ConvertReport) -> str:
    kept, rest = report.preservation, report.before_fitting
    if not rest or not kept.samples:
        return _output(kept)
    moved = f"max change {number(kept.max_change)} at a scale of {number(kept.scale)}, {percent(kept.rms_change)}"
    alone = "every element was equal" if rest.equal else _output(rest)
    return (
        f"moved by the fitted slopes, before the fine-tune: {moved} in root mean square, "
        f"on {count(kept.samples, 'sample')}; without them: {alone}"
    )


def _output(kept: Preservation) -> str:
    if not kept.samples:
        return "not compared: there was no sample to run"
    on = f"on {count(kept.samples, 'sample')}"
    if kept.equal:
        return f"unchanged by the surgery: every element equal {on}"
    moved = f"max change {number(kept.max_change)} at a scale of {number(kept.scale)} {on}"
    if kept.promised:
        return f"unchanged by the surgery within float rounding: {moved}"
    return f"moved, as the options asked for: {moved}"


def _fine_tune(report: ConvertReport, signs: Glyphs) -> str:
    tuned = report.fine_tune
    if tuned is None:
        return f"nothing was trained: {report.not_trained or 'it was not asked for'}"
    course = f" {signs.arrow} ".join(
        f"{name} {number(part.loss)}"
        for name, part in (("original", tuned.original), ("after surgery", tuned.start), ("kept", tuned.best))
    )
    trained = f"{count(tuned.steps, 'step')} ({tuned.epochs:.3g} epochs) of {tuned.objective}"
    return f"{trained}; {_kept(tuned)}; held-out loss: {course}{_control(tuned)}"


def _control(tuned: FineTune) -> str:
    """What the same steps made of the untouched model."""
    if tuned.control is None:
        return ""
    return f"; the untouched model after the same steps (control): {number(tuned.control.loss)}"


def _kept(tuned: FineTune) -> str:
    if not tuned.best_step:
        return "no step beat the start, so the start was kept"
    return f"the state after step {tuned.best_step} was kept"


def _files(report: ConvertReport) -> Iterator[RenderableType]:
    yield heading("Written")
    if not report.files:
        yield prose("  nothing")
        return
    yield listing([[Text(plain(path), overflow="fold")] for path in report.files])

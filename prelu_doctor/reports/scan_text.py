"""The scan report for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from prelu_doctor.escaping import plain
from prelu_doctor.records import ScanReport, Site
from prelu_doctor.reports.figures import count, listed, percent
from prelu_doctor.reports.finding_list import finding_list, not_examined
from prelu_doctor.reports.glyphs import glyphs
from prelu_doctor.reports.page import (
    arch_words,
    command_lines,
    heading,
    listing,
    model_facts,
    more,
    prose,
    synthetic_banner,
    title,
    verdict_word,
)
from prelu_doctor.reports.site_rows import dead_share
from prelu_doctor.reports.site_table import SiteTable
from prelu_doctor.reports.weights_text import WeightsPage

WORST = 5
"""Sites that the summary names."""
UNITS_LISTED = 8
WRITERS_LISTED = 4
REVIVING_BOUND = 0.01
"""`convert` revives a unit only where its firing-rate bound is at most this."""
SAMPLES_TO_REVIVE = 299
"""Samples that give this bound: the least n with 1 - 0.05^(1/n) <= 0.01."""

_ON_NOISE = (
    "No sample data was given: the inputs are seeded Gaussian noise. What fires on noise says little about what "
    "fires on real samples. Take everything below as advice; give real samples with --data."
)


def scan_report(report: ScanReport) -> RenderableType:
    """The report as a page that lays itself out for the width and the encoding of its console."""
    return _ScanPage(report) if report.weights is None else WeightsPage(report, report.weights)


@dataclass(frozen=True)
class _ScanPage:
    report: ScanReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report = self.report
        yield title(report.tool, "scan")
        yield model_facts(report.model, report.data)
        if report.data.synthetic:
            yield from synthetic_banner(_ON_NOISE)
        if report.sites:
            yield Text("")
            yield SiteTable(report.sites)
        yield from _totals(report)
        yield from _worst_sites(report)
        yield from finding_list(report.findings, glyphs(options))
        yield from not_examined(report.unresolved)
        yield from _next_steps(report, options.max_width)


def _totals(report: ScanReport) -> Iterator[RenderableType]:
    yield Text("")
    yield Text.assemble(verdict_word(report.verdict), "  ", _totals_sentence(report), overflow="fold")


def _totals_sentence(report: ScanReport) -> str:
    totals = report.totals
    if not totals.sites:
        return "no ReLU or like activation was seen in this model, so there is nothing to judge"
    if not report.data.samples:
        return f"no sample was scanned, so nothing is known of the {count(totals.units, 'unit')}"
    sample = _sample_noun(report)
    bound = percent(totals.firing_rate_bound)
    if not totals.dead:
        return (
            f"none of {count(totals.units, 'unit')} is dead; one that fires on more than {bound} of {sample} would "
            "have been seen (95 %)"
        )
    return (
        f"{totals.dead:,} of {count(totals.units, 'unit')} dead ({percent(totals.dead_fraction)}); a silent unit "
        f"fires on at most {bound} of {sample} (95 %)"
    )


def _sample_noun(report: ScanReport) -> str:
    counted = "rows" if all(site.counted == "rows" for site in report.sites) else "samples"
    return f"such noise {counted}" if report.data.synthetic else counted


def _worst_sites(report: ScanReport) -> Iterator[RenderableType]:
    dying = sorted((site for site in report.sites if site.dead), key=lambda site: (-dead_share(site), -site.dead))
    if not dying:
        return
    yield heading("Worst sites")
    for rank, site in enumerate(dying[:WORST], start=1):
        yield listing([(Text(f"{rank}."), _site_lines(site))])
    yield from more(len(dying), WORST, "dying site")


def _site_lines(site: Site) -> Text:
    lines = Text(overflow="fold")
    lines.append(plain(site.id), style="bold")
    certain = ", certain: the input does not reach it" if site.input_independent else ""
    dead = f"  {site.dead} of {count(site.units, 'unit')} dead ({percent(dead_share(site))}){certain}"
    lines.append(dead, style="red")
    lines.append(f"\nat {plain(site.source)}" if site.source else "\nsource line unknown")
    writers = listed([plain(name) for name in site.producers], WRITERS_LISTED)
    lines.append(f", written by {writers}" if writers else ", no layer is known to write it")
    if site.dead < site.units:
        lines.append(f"\n{_unit_list(site.dead_units)}", style="dim")
    return lines


def _unit_list(units: list[int]) -> str:
    return f"dead: {listed([str(unit) for unit in units], UNITS_LISTED)}"


def _next_steps(report: ScanReport, width: int) -> Iterator[RenderableType]:
    steps = list(_steps(report))
    if not steps:
        return
    yield heading("What to do next")
    for reason, parts in steps:
        yield prose(reason)
        yield command_lines(parts, width)


def _steps(report: ScanReport) -> Iterator[tuple[str, list[str]]]:
    path = report.model.path if report.model.sha256 else "CHECKPOINT"
    arch = arch_words(report.model)
    if report.data.synthetic or not report.data.samples:
        yield "Scan real samples:", ["prelu-doctor\0scan\0" + path, *arch, "--data\0samples.npz"]
    elif report.totals.dead and not report.model.non_finite:
        few = report.totals.firing_rate_bound > REVIVING_BOUND
        enough = f" (it asks for {SAMPLES_TO_REVIVE} samples or more)" if few else ""
        data = f"--data\0{report.data.source}"
        source, reason, class_of = path, "", []
        if report.model.kind == "onnx":
            source, reason = "CHECKPOINT", ", in the PyTorch checkpoint that the file was exported from"
        elif report.model.kind == "torchscript" and not report.model.arch:
            class_of, reason = ["--arch\0module:callable"], ", with the Python class of the program"
        convert = ["prelu-doctor\0convert\0" + source, *class_of, *arch, data, "-o\0healed.safetensors"]
        yield f"Bring dead units back without moving the output{reason}{enough}:", convert
    if report.findings:
        # The first finding is the gravest.
        code = report.findings[0].code
        yield f"What {code} means, and what to do about it:", ["prelu-doctor\0explain\0" + code]

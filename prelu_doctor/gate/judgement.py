"""The gate's judgement of one checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from prelu_doctor.errors import UsageError
from prelu_doctor.records import Breach, ModelVerdict, ScanReport, Verdict

MAX_DEAD = 0.05
"""Share of all units of the model that may be dead."""
MAX_DEAD_SITE = 0.5
"""Share of the units of any one site that may be dead."""

WIDEST_BOUND = 0.05
"""A firing-rate bound above this share says that too few samples were scanned."""


def judge(
    report: ScanReport,
    *,
    max_dead: float = MAX_DEAD,
    max_dead_site: float = MAX_DEAD_SITE,
    allow_synthetic: bool = False,
) -> ModelVerdict:
    """Hold a scan report against the limits; a share exactly at its limit is healthy.

    Args:
        report: The scan.
        max_dead: Largest allowed share of dead units over all sites, 0..1.
        max_dead_site: Largest allowed share of dead units within one site, 0..1.
        allow_synthetic: Judge dead counts on synthetic input too.

    Returns:
        `findings` where a limit is broken on evidence, else `undecided` where there is no evidence, else `healthy`.

    Raises:
        UsageError: A limit is not a share in 0..1.
    """
    check_limits(max_dead, max_dead_site)
    breaches = [*_non_finite_weights(report)]
    missing = _missing_evidence(report, allow_synthetic)
    if missing:
        breaches.append(Breach(limit="no-evidence", message=missing))
    else:
        breaches += _non_finite_activations(report)
        breaches += _dead_overall(report, max_dead)
        breaches += _dead_at_sites(report, max_dead_site)
    return ModelVerdict(path=report.model.path, verdict=_verdict(breaches), breaches=breaches, report=report)


def undecided(path: str, error: str) -> ModelVerdict:
    """The judgement of a checkpoint that could not be scanned.

    Args:
        path: As the user named it.
        error: Why it could not be scanned.

    Returns:
        A verdict without a report.
    """
    return ModelVerdict(path=path, verdict="undecided", breaches=[], report=None, error=error)


def check_limits(max_dead: float, max_dead_site: float) -> None:
    """Refuses limits that are no share.

    Raises:
        UsageError: A limit is not a share in 0..1.
    """
    for name, limit in (("max-dead", max_dead), ("max-dead-site", max_dead_site)):
        # A NaN compares false with everything and would let any model pass.
        if not 0 <= limit <= 1:
            raise UsageError(f"--{name} is {limit}", "a share from 0 to 1", f"--{name} 0.05 allows 5 %")


def _non_finite_weights(report: ScanReport) -> Iterator[Breach]:
    names = report.model.non_finite
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield Breach(
            limit="non-finite",
            measured=len(names),
            allowed=0,
            message=f"tensors with NaN or infinity: {', '.join(names[:3])}{more}",
        )


def _missing_evidence(report: ScanReport, allow_synthetic: bool) -> str:
    if report.basis == "weights-only":
        return "weights alone do not tell which units are dead; give --arch module:callable, and --data"
    if not report.data.samples:
        return "no sample was scanned"
    if not report.totals.units:
        return "no activation unit was seen, so there is nothing to judge"
    if report.data.synthetic and not allow_synthetic:
        return "synthetic input: dead counts are advice; give --data, or --allow-synthetic to judge them all the same"
    return ""


def _non_finite_activations(report: ScanReport) -> Iterator[Breach]:
    for site in report.sites:
        if site.saw_nan:
            # A NaN never fires, so the site's dead count means nothing.
            yield Breach(limit="non-finite", site=site.id, message="NaN reached this site")


def _dead_overall(report: ScanReport, allowed: float) -> Iterator[Breach]:
    totals = report.totals
    if totals.dead_fraction > allowed:
        message = (
            f"{totals.dead} of {totals.units} units are dead ({_percent(totals.dead_fraction)}), "
            f"{_percent(allowed)} allowed{_doubt(totals.firing_rate_bound)}"
        )
        yield Breach(limit="max-dead", measured=totals.dead_fraction, allowed=allowed, message=message)


def _dead_at_sites(report: ScanReport, allowed: float) -> Iterator[Breach]:
    for site in report.sites:
        share = site.dead / site.units if site.units else 0.0
        if share > allowed:
            message = (
                f"{site.dead} of {site.units} units are dead ({_percent(share)}), {_percent(allowed)} allowed"
                f"{_doubt(site.firing_rate_bound)}"
            )
            yield Breach(limit="max-dead-site", site=site.id, measured=share, allowed=allowed, message=message)


def _doubt(bound: float) -> str:
    """What to think of a count that rests on few samples. More samples can only make it smaller."""
    if bound <= WIDEST_BOUND:
        return ""
    return f", but on so few samples each may fire on up to {_percent(bound)} of all"


def _verdict(breaches: list[Breach]) -> Verdict:
    if any(breach.limit != "no-evidence" for breach in breaches):
        return "findings"
    return "undecided" if breaches else "healthy"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"

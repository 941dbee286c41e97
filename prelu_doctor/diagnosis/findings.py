"""From counts to findings: a table of small pure functions, one a code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prelu_doctor.diagnosis.rules import RULES
from prelu_doctor.records import SMOOTH, Data, Finding, Model, Severity, Site, Unresolved

WIDEST_BOUND = 0.05
"""A firing-rate bound above this share says that too few samples were scanned."""
NAMES_SHOWN = 3
"""Names a message holds; its evidence has them all."""

_BEYOND_ZERO = {"relu6", "clamp", *SMOOTH}
"""Functions that are not the identity of what is positive."""

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


def findings(model: Model, data: Data, sites: Sequence[Site], unresolved: Sequence[Unresolved]) -> list[Finding]:
    """Everything worth knowing about a scan.

    Args:
        model: The checkpoint.
        data: The samples that were scanned.
        sites: In forward order.
        unresolved: What could not be placed or was never reached.

    Returns:
        The findings: errors first, then warnings, then notes; within these by code, then in forward order.
    """
    examined = _Examined(model, data, sites, unresolved)
    found = [finding for code in sorted(_CHECKS) for finding in _CHECKS[code](examined)]
    return gravest_first(found)


def gravest_first(found: Sequence[Finding]) -> list[Finding]:
    """The findings: errors, then warnings, then notes; within these as they were."""
    return sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity))


@dataclass(frozen=True)
class _Examined:
    model: Model
    data: Data
    sites: Sequence[Site]
    unresolved: Sequence[Unresolved]


_Check = Callable[[_Examined], Iterator[Finding]]


def _dead_units(examined: _Examined) -> Iterator[Finding]:
    for site in examined.sites:
        if 0 < site.dead < site.units:
            message = f"{_of(site.dead, site, 'is', 'are')} dead, {_surety(site)}"
            yield _finding("PD101", message, site, **_death(site))


def _dead_sites(examined: _Examined) -> Iterator[Finding]:
    for site in examined.sites:
        if 0 < site.dead == site.units:
            message = f"all {site.units} units are dead, nothing passes this site, {_surety(site)}"
            yield _finding("PD102", message, site, **_death(site))


def _rare_units(examined: _Examined) -> Iterator[Finding]:
    for site in examined.sites:
        if site.rare:
            message = f"{_of(site.rare, site, 'fires', 'fire')}, but on very few of the {site.samples} {site.counted}"
            yield _finding("PD103", message, site, rare=site.rare, units=site.units, samples=site.samples)


def _idle_activations(examined: _Examined) -> Iterator[Finding]:
    for site in examined.sites:
        if 0 < site.always_on == site.units:
            # A ReLU6 whose input is always positive may still cut at 6, and a GELU bends there too.
            idle = "never cuts at 0" if site.function in _BEYOND_ZERO else "does nothing"
            message = f"all {site.units} units are always positive: the {site.function} {idle}"
            yield _finding("PD104", message, site, always_on=site.always_on, units=site.units)


def _dormant_units(examined: _Examined) -> Iterator[Finding]:
    for site in examined.sites:
        beyond = site.dormant - site.dead
        if beyond > 0:
            message = f"{_of(beyond, site, 'is', 'are')} dormant: firing, but weakly"
            yield _finding("PD105", message, site, dormant=site.dormant, dead=site.dead, units=site.units)


def _never_positive_units(examined: _Examined) -> Iterator[Finding]:
    for site in examined.sites:
        if site.never_positive:
            kept = f"its {site.function}" if site.function in SMOOTH else "the slope"
            message = f"{_of(site.never_positive, site, 'is', 'are')} never positive, but kept alive by {kept}"
            yield _finding("PD106", message, site, never_positive=site.never_positive, units=site.units)


def _silent_outputs(examined: _Examined) -> Iterator[Finding]:
    for site in examined.sites:
        if site.silent_outputs:
            silent = len(site.silent_outputs)
            message = f"{_of(silent, site, 'was', 'were')} positive on no sample; this site is the model's output"
            yield _finding("PD107", message, site, silent_outputs=list(site.silent_outputs), units=site.units)


def _non_finite_weights(examined: _Examined) -> Iterator[Finding]:
    names = examined.model.non_finite
    if names:
        message = f"tensors that hold NaN or infinity: {len(names)} ({listed(names)})"
        yield _finding("PD201", message, tensors=list(names))


def _non_finite_activations(examined: _Examined) -> Iterator[Finding]:
    for site in examined.sites:
        seen = [name for name, was in (("NaN", site.saw_nan), ("-inf", site.saw_negative_infinity)) if was]
        if seen:
            # A ReLU turns -inf into 0, as masking intends; a NaN is never intended.
            severity: Severity = "error" if site.saw_nan else "warning"
            evidence = {"saw_nan": site.saw_nan, "saw_negative_infinity": site.saw_negative_infinity}
            yield _finding("PD202", f"{' and '.join(seen)} reached this site", site, severity, **evidence)


def _synthetic_input(examined: _Examined) -> Iterator[Finding]:
    if examined.data.synthetic:
        message = "the inputs are seeded Gaussian noise: findings are advice, give real samples with --data"
        yield _finding("PD301", message, samples=examined.data.samples, seed=examined.data.seed)


def _too_few_samples(examined: _Examined) -> Iterator[Finding]:
    wide = [site for site in examined.sites if site.firing_rate_bound > WIDEST_BOUND]
    if not wide or not examined.data.samples:
        return
    bound = max(site.firing_rate_bound for site in wide)
    dead = sum(site.dead for site in wide)
    needed = math.ceil(math.log(0.05) / math.log1p(-WIDEST_BOUND))
    message = (
        f"only {min(site.samples for site in wide)} samples: a silent unit may fire on up to {_percent(bound)} of all "
        f"samples (95 % confidence); {needed} bring this below {_percent(WIDEST_BOUND)}"
    )
    severity: Severity = "warning" if dead else "note"
    yield _finding(
        "PD302",
        message,
        severity=severity,
        samples=examined.data.samples,
        needed=needed,
        firing_rate_bound=bound,
        sites=len(wide),
        dead=dead,
    )


def _nothing_to_examine(examined: _Examined) -> Iterator[Finding]:
    if not examined.sites:
        yield _finding("PD303", "no ReLU or like activation was seen in the model's forward", sites=0)
    elif not examined.data.samples:
        yield _finding("PD303", "no sample was scanned", sites=len(examined.sites), samples=0)


def _unresolved(examined: _Examined) -> Iterator[Finding]:
    if examined.unresolved:
        names = [item.id for item in examined.unresolved]
        message = f"activations that could not be placed or were never reached: {len(names)} ({listed(names)})"
        yield _finding("PD401", message, unresolved=names)


def _assumed_axes(examined: _Examined) -> Iterator[Finding]:
    for site in examined.sites:
        if site.axis_assumed:
            message = f"no producer tells the unit axis: axis {site.unit_axis} is assumed"
            yield _finding("PD402", message, site, unit_axis=site.unit_axis, units=site.units)


def _counted_rows(examined: _Examined) -> Iterator[Finding]:
    for site in examined.sites:
        if site.counted == "rows":
            message = f"the counts are of {site.samples} rows, which could not be folded back to samples"
            yield _finding("PD403", message, site, rows=site.samples, samples=examined.data.samples)


_CHECKS: dict[str, _Check] = {
    "PD101": _dead_units,
    "PD102": _dead_sites,
    "PD103": _rare_units,
    "PD104": _idle_activations,
    "PD105": _dormant_units,
    "PD106": _never_positive_units,
    "PD107": _silent_outputs,
    "PD201": _non_finite_weights,
    "PD202": _non_finite_activations,
    "PD301": _synthetic_input,
    "PD302": _too_few_samples,
    "PD303": _nothing_to_examine,
    "PD401": _unresolved,
    "PD402": _assumed_axes,
    "PD403": _counted_rows,
}


def _finding(
    code: str, message: str, site: Site | None = None, severity: Severity | None = None, **evidence: Any
) -> Finding:
    return Finding(
        code=code,
        severity=severity or RULES[code].severity,
        site=site.id if site else None,
        message=message,
        evidence=evidence,
    )


def _of(quantity: int, site: Site, singular: str, plural: str) -> str:
    return f"{quantity} of {site.units} units {singular if quantity == 1 else plural}"


def _surety(site: Site) -> str:
    if site.input_independent:
        return "which is certain: the model's input does not reach the site"
    return (
        f"silent on {site.samples} {site.counted}: such a unit fires on at most {_percent(site.firing_rate_bound)} "
        "(95 % confidence)"
    )


def _death(site: Site) -> dict[str, Any]:
    return {
        "dead": site.dead,
        "units": site.units,
        "dead_fraction": site.dead / site.units,
        "samples": site.samples,
        "counted": site.counted,
        "firing_rate_bound": site.firing_rate_bound,
        "certain": site.input_independent,
    }


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"

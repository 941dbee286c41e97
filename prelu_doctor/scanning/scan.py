"""Scans a model on a data set and turns the tallies into records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prelu_doctor import records
from prelu_doctor.data.batches import Batch
from prelu_doctor.devices import device_of
from prelu_doctor.errors import DataError
from prelu_doctor.scanning.confidence import firing_rate_bound
from prelu_doctor.scanning.probe import Examined, Probe
from prelu_doctor.sites.activations import RECOGNISED, RECTIFIERS
from prelu_doctor.sites.consumers import consuming_layers, is_output
from prelu_doctor.sites.find import FoundSite

LEARNABLE_SLOPE = 1e-3
"""A silent PReLU unit with a slope smaller than this counts as dead."""


@dataclass(frozen=True)
class Thresholds:
    """Where the words begin.

    Attributes:
        rare: A unit that fires on some, but on fewer than this share of the samples is rare.
        tau: A unit with at most this Sokar score is dormant.
    """

    rare: float = 0.01
    tau: float = 0.025


DEFAULTS = Thresholds()


@dataclass(frozen=True)
class Scan:
    """A scanned model.

    Attributes:
        probe: Sites, graph and tallies.
        sites: What the report says of each site, in forward order.
        unresolved: What could not be placed.
        samples: Samples scanned.
    """

    probe: Probe
    sites: list[records.Site]
    unresolved: list[records.Unresolved]
    samples: int


def scan_model(
    model: nn.Module,
    batches: Iterator[Batch],
    *,
    thresholds: Thresholds = DEFAULTS,
    functions: Collection[records.Function] = RECOGNISED,
    progress: Callable[[int], None] = lambda samples: None,
) -> Scan:
    """Counts on which samples every unit of a model fires.

    Args:
        model: An eager module; left as it was.
        batches: The samples, each batch seen once. The state kept is O(units).
        thresholds: Where rare and dormant begin.
        functions: What counts as an activation.
        progress: Told the number of samples done after each batch.

    Returns:
        Every site with its counts, and what could not be placed.

    Raises:
        DataError: There are no samples.
        ForwardError: The model's forward raised.
    """
    device = device_of(model)
    probe, samples = None, 0
    for batch in (batch.to(device) for batch in batches):
        if batch.size == 0:
            continue
        probe = probe or Probe.on(model, batch, functions)
        probe.run(batch)
        samples += batch.counted
        progress(samples)
    if probe is None:
        raise DataError("the data holds no samples", "at least one sample", "check --data and --max-samples")
    owners = Counter(_slope_name(examined) for examined in probe.examined.values())
    tied = {name for name, sites in owners.items() if name and sites > 1}
    sites = [site_record(examined, _slopes(examined, model, tied), thresholds) for examined in probe.examined.values()]
    return Scan(probe, sites, probe.sites.unresolved, samples)


def site_record(examined: Examined, slopes: records.Slopes | None, thresholds: Thresholds) -> records.Site:
    """What the report says of a site.

    Args:
        examined: The site and its counts.
        slopes: Of a PReLU or LeakyReLU.
        thresholds: Where rare and dormant begin.
    """
    site, tally = examined.site, examined.tally
    silent = tally.fired == 0
    learnable = _learnable(site, slopes)
    output = is_output(examined.graph, examined.calls)
    never = silent & ~learnable
    dead = never & (not output)
    scores = tally.sokar_scores()
    rate = tally.fired.double() / max(tally.samples, 1)
    rare = (tally.fired > 0) & (rate < thresholds.rare)
    return records.Site(
        id=site.id,
        function=site.activation.function,
        source=site.position.source,
        calls=max(len(examined.calls), 1),
        unit_axis=site.unit_axis,
        axis_assumed=site.axis_assumed,
        input_independent=site.input_independent,
        counted="rows" if examined.rows else "samples",
        samples=tally.samples,
        units=site.units,
        dead=int(dead.sum()) if tally.samples else 0,
        dead_units=_indices(dead) if tally.samples else [],
        rare=int(rare.sum()),
        always_on=int((tally.positive == tally.positions).sum()) if tally.positions else 0,
        dormant=int(((scores <= thresholds.tau) & ~(never & output)).sum()) if tally.samples else 0,
        never_positive=int((silent & learnable).sum()) if tally.samples else 0,
        firing_rate=rate.tolist(),
        positive_rate=(tally.positive.double() / max(tally.positions, 1)).tolist(),
        firing_rate_bound=0.0 if site.input_independent else firing_rate_bound(tally.samples),
        producers=site.producers,
        consumers=consuming_layers(examined.graph, examined.calls),
        is_output=output,
        silent_outputs=_indices(never & output) if tally.samples else [],
        alpha=slopes,
        saw_negative_infinity=tally.saw_negative_infinity,
        saw_nan=tally.saw_nan,
    )


def _indices(mask: Tensor) -> list[int]:
    return [int(index) for index in mask.nonzero().flatten()]


def _slopes(examined: Examined, model: nn.Module, tied: Collection[str]) -> records.Slopes | None:
    """The slopes of a PReLU (read from its parameter) or LeakyReLU (its constant)."""
    site = examined.site
    if site.activation.slope is not None:
        return constant_slope(site.activation.slope)
    name = _slope_name(examined)
    weight = dict((*model.named_parameters(), *model.named_buffers())).get(name) if name else None
    return None if weight is None else learned_slopes(weight, site.units, tied=name in tied)


def constant_slope(slope: float) -> records.Slopes:
    """The slope of a LeakyReLU."""
    return records.Slopes(shape="constant", min=slope, mean=slope, max=slope, values=[slope])


def learned_slopes(weight: Tensor, units: int, *, tied: bool) -> records.Slopes:
    """The slopes of a PReLU.

    Args:
        weight: Its parameter.
        units: Of its site.
        tied: Whether other sites use it too.
    """
    values = weight.detach().double().flatten().cpu()
    by_channel = len(values) == units and units > 1
    return records.Slopes(
        shape="tied" if tied else "channel" if by_channel else "site",
        min=float(values.min()),
        mean=float(values.mean()),
        max=float(values.max()),
        values=values.tolist(),
    )


_VIEWS = {"view", "reshape", "expand", "unsqueeze", "squeeze", "permute", "detach", "alias", "to", "_to_copy", "clone"}


def _slope_name(examined: Examined) -> str | None:
    """Name of the parameter behind a PReLU's slope argument, found through the views that broadcast it."""
    if examined.site.activation.function != "prelu" or not examined.calls:
        return None
    graph, value = examined.graph, examined.calls[0].value("weight")
    while value is not None and value not in graph.tensors:
        maker = graph.maker(value)
        value = maker.reads[0] if maker and maker.op in _VIEWS else None
    return graph.name_of(value)


def _learnable(site: FoundSite, slopes: records.Slopes | None) -> Tensor:
    """Which units pass a gradient although they are silent; a slope that the forward computes is taken to let it."""
    if slopes is None:
        return torch.full((site.units,), site.activation.function not in RECTIFIERS)
    values = torch.tensor(slopes.values)
    fits = len(values) in (1, site.units)
    return (values.abs() >= LEARNABLE_SLOPE).expand(site.units) if fits else torch.zeros(site.units, dtype=torch.bool)

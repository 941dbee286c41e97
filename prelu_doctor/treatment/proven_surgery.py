"""Surgery that is proved on the data before anything else happens: slopes of 0, and not one output moved."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping

from torch import nn

from prelu_doctor import records
from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.devices import device_of
from prelu_doctor.errors import BrokenPromiseError
from prelu_doctor.scanning.scan import Scan
from prelu_doctor.sites.activations import CONVERTED
from prelu_doctor.sites.find import FoundSite
from prelu_doctor.sites.trace import none_arguments, trace
from prelu_doctor.treatment.preservation import compare_outputs
from prelu_doctor.treatment.slopes import AlphaShape, holds_exactly
from prelu_doctor.treatment.surgery import Surgery, operate, plan_surgery


def operate_and_prove(
    model: nn.Module,
    dataset: Dataset,
    before: Scan,
    alpha_shape: AlphaShape,
    *,
    converts: Collection[records.Function] = CONVERTED,
    alpha_range: tuple[float, float] | None = None,
) -> tuple[Surgery, dict[str, list[str]]]:
    """Puts PReLUs at a model's sites, and proves that the function is what it was.

    Their slopes are 0, or those of a LeakyReLU; a smooth activation gets a stand-in that computes it.

    Args:
        model: The model; left as it is.
        dataset: Outputs are compared on all of it.
        before: The model's scan.
        alpha_shape: One slope a channel, a site, or for the whole net.
        converts: The functions to replace.
        alpha_range: Bounds of the slopes.

    Returns:
        The operated copy, and by rewritten owner the arguments of its forward that are None.

    Raises:
        BrokenPromiseError: The output moved, and no single site could be found that moves it.
    """
    asked = [site for site in before.probe.sites.found if site.activation.function in converts]
    refuse = {site.id: reason for site in asked if (reason := _no_slope(site, model, alpha_range))}
    if dataset.synthetic:
        smooth = [site for site in asked if site.activation.function in records.SMOOTH]
        refuse |= {site.id: "the data is synthetic, and slopes are fitted on real samples only" for site in smooth}
    refuse |= {
        site.id: "its pre-activations reach -inf, which a slope of 0 would turn into NaN"
        for site in before.sites
        if site.saw_negative_infinity
    }
    nones = _none_arguments(model, dataset, before, alpha_shape, refuse, converts)
    surgery = _operate(model, before, alpha_shape, nones, refuse, converts)
    kept = compare_outputs(model, surgery.model, all_batches(dataset), promised=True)
    found = {} if kept.equal else _harmful(model, dataset, before, alpha_shape, nones, surgery, converts)
    found |= _idle(surgery, _example(model, dataset), before.probe.graph.functions)
    if found:
        surgery = _operate(model, before, alpha_shape, nones, {**refuse, **found}, converts)
        kept = compare_outputs(model, surgery.model, all_batches(dataset), promised=True)
    if not kept.equal:
        raise moved("putting PReLUs in place", kept)
    return surgery, nones


def moved(what: str, kept: records.Preservation) -> BrokenPromiseError:
    """The error of a step that moved the output although it must not."""
    return BrokenPromiseError(
        f"{what} moved the output by {kept.max_change:.3g} on {kept.samples} samples (largest output {kept.scale:.3g})",
        "an output that does not move",
        "please report this model; nothing was written",
    )


def all_batches(dataset: Dataset) -> Iterator[Batch]:
    """The scanned and the held-out part."""
    parts = [dataset.scanned()] + ([dataset.held_out()] if dataset.held_out else [])
    return itertools.chain(*parts)


def _no_slope(site: FoundSite, model: nn.Module, alpha_range: tuple[float, float] | None) -> str:
    """Why no PReLU of the model can have the slope of a LeakyReLU, or an empty string."""
    slope = site.activation.slope
    if slope is None:
        return ""
    if alpha_range and not alpha_range[0] <= slope <= alpha_range[1]:
        return f"its slope {slope:g} lies outside --alpha-range {alpha_range[0]:g},{alpha_range[1]:g}"
    return "" if holds_exactly(slope, model) else f"the model's precision rounds its slope {slope:g}"


def _example(model: nn.Module, dataset: Dataset) -> Batch:
    return dataset.first().take(slice(0, 2)).to(device_of(model))


def _none_arguments(
    model: nn.Module,
    dataset: Dataset,
    before: Scan,
    alpha_shape: AlphaShape,
    refuse: Mapping[str, str],
    converts: Collection[records.Function],
) -> dict[str, list[str]]:
    plans, _ = plan_surgery(model, before.probe.graph, before.probe.sites.found, alpha_shape, refuse, converts)
    owners = {place.owner for plan in plans for place in plan.places if place.how == "rewrite"}
    return none_arguments(model, _example(model, dataset), sorted(owners)) if owners else {}


def _operate(
    model: nn.Module,
    before: Scan,
    alpha_shape: AlphaShape,
    nones: Mapping[str, list[str]],
    refuse: Mapping[str, str],
    converts: Collection[records.Function],
) -> Surgery:
    return operate(
        model,
        before.probe.graph,
        before.probe.sites.found,
        alpha_shape=alpha_shape,
        none_arguments=nones,
        refuse=refuse,
        converts=converts,
    )


def _harmful(
    model: nn.Module,
    dataset: Dataset,
    before: Scan,
    alpha_shape: AlphaShape,
    nones: Mapping[str, list[str]],
    surgery: Surgery,
    converts: Collection[records.Function],
) -> dict[str, str]:
    """The sites that move the output when they alone are converted, as where an overwritten input is read again."""
    found = {}
    in_place = {site.id for site in before.probe.sites.found if site.activation.in_place}
    others = {site.id: "not now" for site in before.sites}
    for recipe in surgery.done:
        refuse = {site: reason for site, reason in others.items() if site != recipe.site}
        alone = _operate(model, before, alpha_shape, nones, refuse, converts)
        if not compare_outputs(model, alone.model, iter([dataset.first()]), promised=True).equal:
            why = ": its input, overwritten in place, is read again" if recipe.site in in_place else ""
            found[recipe.site] = f"a PReLU in its place moves the output{why}"
    return found


def _idle(surgery: Surgery, example: Batch, functions: Collection[records.Function]) -> dict[str, str]:
    """The converted sites whose PReLU does not run."""
    model = surgery.model
    graph = trace(model, example, functions=functions)
    modules = {call.position.module for call in graph.activations() if call.position}
    running = {id(model.get_submodule(path)) for path in modules if path is not None and not path.startswith("<")}
    return {
        recipe.site: "the PReLU that was put in its place is never called"
        for recipe in surgery.done
        if id(surgery.prelu(recipe.site)) not in running
    }

"""Surgery that is proved on the data before anything else happens: slopes of 0, and not one output moved."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import torch
from torch import nn

from prelu_doctor import records
from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.errors import BrokenPromiseError, DoctorError
from prelu_doctor.scanning.scan import Scan
from prelu_doctor.sites.activations import CONVERTED
from prelu_doctor.sites.find import FoundSite
from prelu_doctor.sites.trace import none_arguments, running
from prelu_doctor.treatment.preservation import compare_outputs
from prelu_doctor.treatment.slopes import AlphaShape, holds_exactly
from prelu_doctor.treatment.surgery import Surgery, operate
from prelu_doctor.treatment.surgery_plan import Planner, SurgeryPlan


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
    planner, nones = _planner(model, before, converts)
    inplace: set[str] = set()
    route: dict[str, str] = {}
    while True:
        plan = planner.plan(alpha_shape, refuse=refuse, inplace=inplace, route=route)
        surgery = operate(model, plan, alpha_shape=alpha_shape, none_arguments=nones)
        kept, idle, raised = _prove(model, surgery, dataset)
        if kept.equal and not idle:
            return surgery, {owner: names for owner, names in nones.items() if owner in plan.rewritten}
        harmful = set() if kept.equal else _harmful(model, dataset, alpha_shape, nones, plan)
        if not harmful and not idle:
            raise _stopped(raised) if raised else moved("putting PReLUs in place", kept)
        why = dict.fromkeys(idle, _IDLE) | dict.fromkeys(harmful, _HARMFUL)
        refuse |= {site: reason for site, reason in why.items() if site in route}
        # What a call overwrites may be read again, a graph knows nothing of autocast, a module may be called from a
        # plain list that still holds it, a function with more than one argument: step by step, they go on as they did.
        swapped = {recipe.site for recipe in plan.recipes if recipe.places[0].how == "swap"}
        first = harmful & swapped - inplace
        route |= {site: reason for site, reason in why.items() if site not in first}
        inplace |= first


_IDLE = "the PReLU that was put in its place is never called"
_HARMFUL = "a PReLU in its place moves the output"


def moved(what: str, kept: records.Preservation) -> BrokenPromiseError:
    """The error of a step that moved the output although it must not."""
    return BrokenPromiseError(
        f"{what} moved the output by {kept.max_change:.3g} on {kept.samples} samples (largest output {kept.scale:.3g})",
        "an output that does not move",
        "please report this model; nothing was written",
    )


def _stopped(error: Exception) -> BrokenPromiseError:
    stopped = BrokenPromiseError(
        f"with PReLUs in place the forward raises {type(error).__name__}: {error}",
        "a forward that runs as before",
        "please report this model; nothing was written",
    )
    stopped.__cause__ = error
    return stopped


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


def _planner(
    model: nn.Module, before: Scan, converts: Collection[records.Function]
) -> tuple[Planner, dict[str, list[str]]]:
    """The planner of a scanned model, and the arguments that are None, of every forward that it may rewrite."""
    probe = before.probe
    owners = {call.position.home for call in probe.graph.activations() if call.position}
    candidates = [owner for owner in sorted(owners) if not owner.startswith("<") and _is_python(model, owner)]
    nones = none_arguments(model, before.probe.example, candidates)
    return Planner(model, probe.graph, probe.sites, nones, converts), nones


def _is_python(model: nn.Module, owner: str) -> bool:
    return not isinstance(model.get_submodule(owner), torch.jit.ScriptModule)


def _prove(
    model: nn.Module, surgery: Surgery, dataset: Dataset
) -> tuple[records.Preservation, set[str], Exception | None]:
    """Whether the output is what it was, the sites whose PReLU was never called meanwhile, and what was raised."""
    prelus = {recipe.site: surgery.prelu(recipe.site) for recipe in surgery.done}
    with running(prelus) as called:
        kept, raised = _compared(model, surgery.model, all_batches(dataset))
    return kept, prelus.keys() - called if kept.equal else set(), raised


def _compared(
    model: nn.Module, operated: nn.Module, batches: Iterator[Batch]
) -> tuple[records.Preservation, Exception | None]:
    """How far the output moved: infinitely far, where the operated model does not run; and what it raised."""
    try:
        return compare_outputs(model, operated, batches, promised=True), None
    except DoctorError:
        raise
    except Exception as error:  # what is wrong with a PReLU in its place shows in the user's own code
        return records.Preservation(promised=True, samples=0, equal=False, max_change=math.inf, scale=0.0), error


def _harmful(
    model: nn.Module, dataset: Dataset, alpha_shape: AlphaShape, nones: Mapping[str, list[str]], plan: SurgeryPlan
) -> set[str]:
    """The sites that move the output when they alone are converted."""
    harmful = set()
    for recipe in plan.recipes:
        alone = operate(
            model, replace(plan, recipes=[recipe], declined={}), alpha_shape=alpha_shape, none_arguments=nones
        )
        kept, _ = _compared(model, alone.model, iter([dataset.first()]))
        if not kept.equal:
            harmful.add(recipe.site)
    return harmful

"""The whole treatment: surgery, revival, proof that the output did not move, fine-tune."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from prelu_doctor import records
from prelu_doctor.data.batches import Dataset
from prelu_doctor.errors import UsageError
from prelu_doctor.scanning.scan import Scan, Thresholds, scan_model
from prelu_doctor.sites.activations import RECOGNISED, RECTIFIERS, chosen_functions
from prelu_doctor.treatment.evidence import revivable
from prelu_doctor.treatment.fine_tuning import Progress, Training, control_arm, fine_tune
from prelu_doctor.treatment.fitting import fit_slopes
from prelu_doctor.treatment.harmless import keep_harmless
from prelu_doctor.treatment.preservation import compare_outputs, is_preserved
from prelu_doctor.treatment.proven_surgery import all_batches, moved, operate_and_prove
from prelu_doctor.treatment.recipe import SiteRecipe
from prelu_doctor.treatment.reinitialisation import reinitialise
from prelu_doctor.treatment.revival import revive
from prelu_doctor.treatment.revival_plan import Edit, UnitPlan, plan_reinitialisation
from prelu_doctor.treatment.slopes import AlphaShape
from prelu_doctor.treatment.surgery import Surgery
from prelu_doctor.treatment.training_set import TrainingSet

REVIVED_SLOPE = 0.25
"""Where the slope of a revived unit starts (He et al. 2015)."""

Phase = Callable[[str, int, int | None, float | None], None]
"""Told the name of a phase, how much is done, of how much (None where unknown), and the training loss."""


def no_progress(name: str, done: int, of: int | None, loss: float | None) -> None:
    """Does nothing."""


@dataclass(frozen=True)
class Treatment:
    """Options of a conversion.

    Attributes:
        alpha: Where the slopes of live ReLU units start. 0 keeps the function; other values follow other recipes.
        alpha_shape: One slope a channel, a site, or for the whole net.
        activations: What to convert, names of `CHOICES`. A LeakyReLU keeps its slope; where no PReLU equals the
            activation (gelu, silu, hardswish), the slopes are fitted by least squares, and the output moves.
        reinit: He re-initialise the dead units, all units (training anew), or none.
        revive_bound: Largest firing-rate bound at which silence counts as death.
        training: The fine-tune.
        thresholds: Where rare and dormant begin, for the reports.
        seed: Seed of the weights that are drawn.
    """

    alpha: float = 0.0
    alpha_shape: AlphaShape = "channel"
    activations: Sequence[str] = ("relu", "relu6")
    reinit: Literal["dead", "all", "none"] = "dead"
    revive_bound: float = 0.01
    training: Training = field(default_factory=Training)
    thresholds: Thresholds = field(default_factory=Thresholds)
    seed: int = 0

    def __post_init__(self) -> None:
        chosen_functions(self.activations)
        if self.alpha_shape == "tied" and not self.converts <= RECTIFIERS:
            raise UsageError(
                f"--alpha-shape tied with --activations {','.join(self.activations)}",
                "relu and relu6 alone: the others have slopes of their own, which one for the whole net cannot be",
                "--alpha-shape channel, or site",
            )

    @property
    def converts(self) -> frozenset[records.Function]:
        """The functions that become PReLUs."""
        return chosen_functions(self.activations)

    @property
    def functions(self) -> frozenset[records.Function]:
        """What counts as an activation: smooth functions where they are converted."""
        return RECOGNISED | self.converts

    @property
    def keeps_function(self) -> bool:
        """True where the output is promised not to move before slopes are fitted and the fine-tune begins."""
        return self.alpha == 0.0 and self.reinit != "all"

    @property
    def revived_slope(self) -> float:
        """The slope that revived units get: their own only where slopes are per channel."""
        if self.alpha != 0.0 or self.alpha_shape != "channel":
            return self.alpha
        low, high = self.training.alpha_range or (-math.inf, math.inf)
        return min(max(REVIVED_SLOPE, low), high)


@dataclass(frozen=True)
class Treated:
    """A treated model and what was done to it.

    Attributes:
        model: The converted copy.
        recipes: The converted sites, for the recipe.
        none_arguments: Of the owners that were rewritten, for the recipe.
        before: Scan of the original.
        after: Scan of the converted model.
        changes: What was done at each site.
        preservation: How far the output moved before any training.
        before_fitting: How far it moved before slopes were fitted; None where none were.
        fine_tune: What training reached, or why there was none.
    """

    model: nn.Module
    recipes: list[SiteRecipe]
    none_arguments: dict[str, list[str]]
    before: Scan
    after: Scan
    changes: list[records.SiteChange]
    preservation: records.Preservation
    before_fitting: records.Preservation | None
    fine_tune: records.FineTune | str


def treat(model: nn.Module, dataset: Dataset, options: Treatment, phase: Phase = no_progress) -> Treated:
    """Converts a model's ReLUs to PReLUs and revives its dead units.

    Args:
        model: The model; left as it is.
        dataset: Sample data. On synthetic data nothing is revived and nothing trained.
        options: How to treat.
        phase: Told of progress.

    Returns:
        The converted copy with everything that was done and declined.

    Raises:
        BrokenPromiseError: The output moved although it must not: by surgery never, by revival not by default.
        ForwardError: The model's forward raised.
        DataError: There is no data, or the labels do not fit.
    """
    before = scan_model(
        model,
        dataset.scanned(),
        thresholds=options.thresholds,
        functions=options.functions,
        progress=_counting(phase, "scanning"),
    )
    surgery, nones = operate_and_prove(
        model,
        dataset,
        before,
        options.alpha_shape,
        converts=options.converts,
        alpha_range=options.training.alpha_range,
    )
    _set_slopes(surgery, before, options.alpha)
    operated = copy.deepcopy(surgery.model.state_dict())
    changes, revived = _reinitialise(surgery, dataset, before, options, phase)

    def compare(*, promised: bool = options.keeps_function) -> records.Preservation:
        return compare_outputs(model, surgery.model, all_batches(dataset), promised=promised)

    preservation = compare()
    if options.keeps_function and not is_preserved(preservation):
        slopes = {recipe.site: f"{recipe.places[0].module}.weight" for recipe in surgery.done}
        given_up = keep_harmless(surgery.model, operated, slopes, revived, compare)
        changes = [_unrevived(change, given_up) for change in changes]
        preservation = compare()
    if options.keeps_function and not is_preserved(preservation):
        raise moved("surgery", preservation)
    before_fitting = None
    fits = fit_slopes(surgery, dataset.scanned(), options.training.alpha_range)
    if fits:
        changes = [records.replace(change, fit=fits.get(change.site)) for change in changes]
        before_fitting = preservation
        preservation = compare(promised=False)
    tuned = _fine_tune(surgery, model, dataset, options, phase)
    after = scan_model(
        surgery.model,
        dataset.scanned(),
        thresholds=options.thresholds,
        functions=options.functions,
        progress=_counting(phase, "scanning the result"),
    )
    return Treated(surgery.model, surgery.done, nones, before, after, changes, preservation, before_fitting, tuned)


def _unrevived(change: records.SiteChange, given_up: Mapping[str, records.Preservation]) -> records.SiteChange:
    """A site whose revived units were given up, because the output moved: harmless comes before healed."""
    if change.site not in given_up:
        return change
    reason = f"reviving it moved the output by {given_up[change.site].max_change:.3g}"
    units = records.DeclinedUnits(units=change.revived, reason=reason)
    return records.replace(change, revived=[], declined_units=[*change.declined_units, units])


@torch.no_grad()
def _set_slopes(surgery: Surgery, before: Scan, slope: float) -> None:
    """Where the slopes of ReLUs start; others have one that their activation tells."""
    functions = {site.id: site.function for site in before.sites}
    for recipe in surgery.done:
        if functions[recipe.site] in RECTIFIERS:
            surgery.prelu(recipe.site).weight.fill_(slope)


def _reinitialise(
    surgery: Surgery, dataset: Dataset, before: Scan, options: Treatment, phase: Phase
) -> tuple[list[records.SiteChange], list[UnitPlan]]:
    """Revives dead units, or draws all anew, as the options say; reports every site, and the plans that worked."""
    revived: list[UnitPlan] = []
    changes = {site.id: _SiteNotes(declined=surgery.declined.get(site.id, "")) for site in before.sites}
    generator = torch.Generator().manual_seed(options.seed)
    if options.reinit == "dead":
        revived = _revive(surgery, dataset, before, options, changes, generator, phase)
    elif options.reinit == "all":
        edits = list(_all_edits(surgery, before, changes, synthetic=dataset.synthetic))
        reinitialise(surgery.model, edits, dataset.scanned, slope=options.revived_slope, generator=generator)
    modules = {recipe.site: recipe.places[0].module for recipe in surgery.done}
    reported = [
        records.SiteChange(
            site=site_id,
            module=modules.get(site_id, ""),
            declined=notes.declined,
            revived=sorted(notes.revived),
            declined_units=[
                records.DeclinedUnits(units=sorted(units), reason=reason) for reason, units in notes.reasons.items()
            ],
        )
        for site_id, notes in changes.items()
    ]
    return reported, revived


@dataclass
class _SiteNotes:
    declined: str = ""
    revived: list[int] = field(default_factory=list)
    reasons: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))


def _all_edits(surgery: Surgery, before: Scan, changes: dict[str, _SiteNotes], *, synthetic: bool) -> Iterator[Edit]:
    converted = {recipe.site for recipe in surgery.done}
    for site in before.probe.sites.found:
        if site.id not in converted:
            continue
        if synthetic:
            changes[site.id].reasons["the data is synthetic"] = list(range(site.units))
            continue
        edits, declined = plan_reinitialisation(before.probe.graph, site)
        for unit, reason in declined.items():
            changes[site.id].reasons[reason].append(unit)
        changes[site.id].revived = [unit for unit in range(site.units) if unit not in declined]
        yield from edits


def _revive(
    surgery: Surgery,
    dataset: Dataset,
    before: Scan,
    options: Treatment,
    changes: dict[str, _SiteNotes],
    generator: torch.Generator,
    phase: Phase,
) -> list[UnitPlan]:
    found = revivable(before, dataset, {recipe.site for recipe in surgery.done}, options.revive_bound)
    for site, reasons in found.declined.items():
        changes[site].reasons.update(reasons)
    plans = found.plans
    phase("reviving dead units", 0, len(plans) or None, None)
    modules = {recipe.site: recipe.places[0].module for recipe in surgery.done}
    revival = revive(
        surgery.model,
        plans,
        dataset.scanned,
        module_of=modules.__getitem__,
        slope=options.revived_slope,
        generator=generator,
    )
    units = {site.id: site.units for site in before.sites}
    for plan in revival.failed:
        changes[plan.site].reasons["it stayed silent after every new draw of its weights"].append(plan.unit)
    with torch.no_grad():
        for plan in revival.revived:
            changes[plan.site].revived.append(plan.unit)
            slopes = surgery.prelu(plan.site).weight
            if len(slopes) == units[plan.site]:
                slopes[plan.unit] = options.revived_slope
    return revival.revived


def _fine_tune(
    surgery: Surgery, original: nn.Module, dataset: Dataset, options: Treatment, phase: Phase
) -> records.FineTune | str:
    if dataset.synthetic:
        return "the data is synthetic"
    if not options.training.wanted:
        return "no training was asked for"
    if not surgery.done and not any(isinstance(module, nn.PReLU) for module in surgery.model.modules()):
        return "no site was converted"
    training_set = TrainingSet(dataset, options.training.seed)
    tuned = fine_tune(surgery.model, original, training_set, options.training, _training(phase, "fine-tuning"))
    if isinstance(tuned, str) or not options.training.control or tuned.objective == "distillation":
        return tuned
    control = control_arm(original, training_set, options.training, _training(phase, "control"))
    return records.replace(tuned, control=control)


def _training(phase: Phase, name: str) -> Progress:
    return lambda step, steps, loss: phase(name, step, steps, loss)


def _counting(phase: Phase, name: str) -> Callable[[int], None]:
    return lambda samples: phase(name, samples, None, None)

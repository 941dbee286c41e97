"""Slopes for sites whose activation no PReLU equals, fitted by least squares on the scanned data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prelu_doctor import records
from prelu_doctor.data.batches import Batch
from prelu_doctor.devices import device_of
from prelu_doctor.records import SMOOTH
from prelu_doctor.sites.activations import RECOGNISED
from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.trace import trace
from prelu_doctor.treatment.recipe import SiteRecipe
from prelu_doctor.treatment.slopes import build_prelu
from prelu_doctor.treatment.stand_in import StandIn
from prelu_doctor.treatment.surgery import Surgery

UNSEEN_SLOPE = 0.0
"""The slope of a unit of which no negative pre-activation was seen: a smooth activation is bounded there, as 0 is."""


def fit_slopes(
    surgery: Surgery, batches: Iterable[Batch], alpha_range: tuple[float, float] | None = None
) -> dict[str, records.Fit]:
    """Replaces every stand-in of an operated model, in place, by the PReLU that comes closest to it.

    All sites are fitted before the first is replaced, so that each sees what it saw in the original model.

    Args:
        surgery: The operated model.
        batches: The scanned data.
        alpha_range: Bounds of the slopes.

    Returns:
        By site how well its PReLU fits.
    """
    recipes = [recipe for recipe in surgery.done if isinstance(surgery.prelu(recipe.site), StandIn)]
    if not recipes:
        return {}
    sums = _summed(surgery, recipes, batches)
    fits = {recipe.site: sums[recipe.site].fit(alpha_range) for recipe in recipes}
    for recipe in recipes:
        prelu = build_prelu(recipe.shape, 0.0, surgery.model)
        with torch.no_grad():
            prelu.weight.copy_(torch.tensor(fits[recipe.site].slopes.values))
        surgery.put(recipe.site, prelu)
    return fits


def _summed(surgery: Surgery, recipes: list[SiteRecipe], batches: Iterable[Batch]) -> dict[str, LeastSquares]:
    sums = {recipe.site: LeastSquares(recipe.shape.count, recipe.shape.axis) for recipe in recipes}
    by_module = {id(surgery.prelu(recipe.site)): sums[recipe.site] for recipe in recipes}
    watcher = _Watcher(surgery.model, by_module)
    device = device_of(surgery.model)
    for batch in batches:
        if batch.size:
            trace(surgery.model, batch.to(device), watcher, RECOGNISED | SMOOTH)
    return sums


@dataclass
class _Watcher:
    """Adds every call of a stand-in to the sums of its site."""

    model: nn.Module
    by_module: dict[int, LeastSquares]
    ops: frozenset[str] = frozenset()
    _input: Tensor | None = None

    def before(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        self._input = tensor

    def after(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        path = call.position.module if call.position else None
        if path is None or path.startswith("<"):
            return
        sums = self.by_module.get(id(self.model.get_submodule(path)))
        if sums is not None and self._input is not None:
            sums.add(self._input, tensor)


@dataclass
class LeastSquares:
    """Sums that tell the slope a of each unit for which sum (f(x) - PReLU_a(x))^2 is least, in float64.

    That sum depends on a through negative x alone, and is least at a = sum f(x) x / sum x^2 over x < 0.

    Attributes:
        count: Number of slopes: C, or 1 where one serves the site.
        axis: Unit axis.
        products: `[count]` sum of f(x) x over x < 0.
        squares: `[count]` sum of x^2 over x < 0.
        energy: `[count]` sum of f(x)^2 over all x.
        fixed: `[count]` the error that no slope changes: sum of (f(x) - x)^2 over x >= 0 and of f(x)^2 over x < 0.
    """

    count: int
    axis: int
    products: Tensor = field(init=False)
    squares: Tensor = field(init=False)
    energy: Tensor = field(init=False)
    fixed: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.products, self.squares, self.energy, self.fixed = torch.zeros(4, self.count, dtype=torch.float64)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Adds one call; what is not finite is left out.

        Args:
            inputs: The pre-activations x.
            outputs: f(x), of the same shape.
        """
        finite = inputs.isfinite() & outputs.isfinite()
        x, f = (self._by_unit(tensor.masked_fill(~finite, 0.0)) for tensor in (inputs, outputs))
        negative = x.clamp(max=0.0)
        self.products += (f * negative).sum(1).cpu()
        self.squares += (negative**2).sum(1).cpu()
        self.energy += (f**2).sum(1).cpu()
        self.fixed += ((f - x.clamp(min=0.0)) ** 2).sum(1).cpu()

    def _by_unit(self, tensor: Tensor) -> Tensor:
        rows = tensor if self.count == 1 else tensor.movedim(self.axis, 0)
        return rows.double().reshape(self.count, -1)

    def fit(self, alpha_range: tuple[float, float] | None = None) -> records.Fit:
        """The best slopes within bounds, and what they leave."""
        seen = self.squares > 0
        slopes = torch.where(seen, self.products / self.squares.where(seen, torch.ones(())), UNSEEN_SLOPE)
        if alpha_range:
            slopes = slopes.clamp(*alpha_range)  # a parabola is least at the bound that is nearer to its minimum
        left = (self.fixed - 2 * slopes * self.products + slopes**2 * self.squares).sum().clamp(min=0.0)
        energy = float(self.energy.sum())
        values = slopes.tolist()
        return records.Fit(
            slopes=records.Slopes(
                shape="site" if self.count == 1 else "channel",
                min=min(values),
                mean=sum(values) / len(values),
                max=max(values),
                values=values,
            ),
            residual=float(left) / energy if energy else 0.0,
            unseen=[unit for unit, was in enumerate(seen.tolist()) if not was],
        )

"""Puts a PReLU at every site: plans on the traced graph, operates on a copy, and returns what it declined."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from prelu_doctor.sites.find import FoundSite
from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.trace import aliases_of
from prelu_doctor.treatment.recipe import Place, SiteRecipe
from prelu_doctor.treatment.rewriting import CannotRewriteError, rewrite_forward
from prelu_doctor.treatment.slopes import AlphaShape, SlopeShape, build_prelu


@dataclass
class Surgery:
    """A model after surgery.

    Attributes:
        model: The copy that was operated on.
        done: The converted sites, as the recipe keeps them.
        declined: By site id why a site keeps its activation.
    """

    model: nn.Module
    done: list[SiteRecipe] = field(default_factory=list)
    declined: dict[str, str] = field(default_factory=dict)

    def prelu(self, site: str) -> nn.PReLU:
        """The PReLU of a converted site."""
        recipe = next(recipe for recipe in self.done if recipe.site == site)
        prelu = self.model.get_submodule(recipe.places[0].module)
        assert isinstance(prelu, nn.PReLU)
        return prelu


def operate(
    model: nn.Module,
    graph: Graph,
    sites: Sequence[FoundSite],
    *,
    alpha_shape: AlphaShape = "channel",
    slope: float = 0.0,
    none_arguments: Mapping[str, Sequence[str]] | None = None,
    refuse: Mapping[str, str] | None = None,
) -> Surgery:
    """Replaces every ReLU and ReLU6 of a model by a PReLU.

    Args:
        model: The traced model; it is left as it is.
        graph: Its traced forward.
        sites: The sites found in it.
        alpha_shape: One slope a channel, a site, or for the whole net.
        slope: Where the slopes start; 0 keeps the function.
        none_arguments: By owner path, arguments of its forward that are None whenever the model runs.
        refuse: Sites that must not be converted, and why.

    Returns:
        The operated copy, and what was declined.
    """
    done, declined = plan_surgery(model, graph, sites, alpha_shape, refuse or {})
    surgery = Surgery(copy.deepcopy(model), declined=declined)
    apply_recipes(surgery, done, alpha_shape=alpha_shape, slope=slope, none_arguments=none_arguments or {})
    return surgery


def plan_surgery(
    model: nn.Module, graph: Graph, sites: Sequence[FoundSite], alpha_shape: AlphaShape, refuse: Mapping[str, str]
) -> tuple[list[SiteRecipe], dict[str, str]]:
    """What would be done at each site, and which are declined without a try.

    Returns:
        The recipes of the sites to convert, and by site id why others are not.
    """
    declined = dict(refuse)
    plans: list[SiteRecipe] = []
    runs = _activation_runs(graph)
    servants = _sites_served(sites)
    for site in sites:
        reason = declined.get(site.id) or _not_for_surgery(site, runs, servants)
        if reason:
            declined[site.id] = reason
            continue
        swap = _swappable(model, graph, site)
        places = [_swap(site)] if swap else _rewrites(site, runs)
        plans.append(SiteRecipe(site=site.id, shape=_slope_shape(graph, site, alpha_shape), places=places))
    return plans, declined


def apply_recipes(
    surgery: Surgery,
    recipes: Iterable[SiteRecipe],
    *,
    alpha_shape: AlphaShape,
    slope: float,
    none_arguments: Mapping[str, Sequence[str]],
) -> None:
    """Carries out recipes on the surgery's model; what cannot be done is declined, and its model part left alone."""
    shared: nn.Parameter | None = None
    rewrites: dict[str, list[tuple[SiteRecipe, Place, nn.PReLU]]] = defaultdict(list)
    for recipe in recipes:
        prelu = build_prelu(recipe.shape, slope, surgery.model)
        if alpha_shape == "tied":
            shared = shared if shared is not None else prelu.weight
            prelu.weight = shared
        surgery.done.append(recipe)
        for place in recipe.places:
            if place.how == "swap":
                _put(surgery.model, place.module, prelu)
            else:
                rewrites[place.owner].append((recipe, place, prelu))
    for owner, group in rewrites.items():
        _rewrite_owner(surgery, owner, group, none_arguments.get(owner, ()))


def _rewrite_owner(
    surgery: Surgery, owner: str, group: list[tuple[SiteRecipe, Place, nn.PReLU]], none_arguments: Sequence[str]
) -> None:
    module = surgery.model.get_submodule(owner)
    replacements = {place.rank: (place.module.rpartition(".")[2], prelu) for _, place, prelu in group}
    try:
        rewrite_forward(module, replacements, of=group[0][1].of, none_arguments=none_arguments)
    except CannotRewriteError as error:
        for recipe, _, _ in group:
            surgery.declined[recipe.site] = f"{owner or 'the model'} cannot be rewritten: {error}"
            surgery.done = [other for other in surgery.done if other.site != recipe.site]


def _put(model: nn.Module, path: str, prelu: nn.Module) -> None:
    """Puts a module where another one is, under each of its names."""
    for alias in aliases_of(model, model.get_submodule(path)):
        parent, _, name = alias.rpartition(".")
        setattr(model.get_submodule(parent), name, prelu)


def _not_for_surgery(
    site: FoundSite, runs: Mapping[str, set[int]], servants: Mapping[tuple[str, int], set[str]]
) -> str:
    """Why a site keeps its activation, or an empty string."""
    if site.activation.function in ("prelu", "leaky_relu"):
        return f"{site.activation.function} already passes a gradient on its negative side"
    unregistered = [call for call in site.calls if call.position and call.position.owner.startswith("<")]
    if unregistered:
        return f"{site.position.source}: the module that makes the call is not registered in the model"
    others = {other for place in _owner_ranks(site.calls) for other in servants[place]} - {site.id}
    if others and site.position.module is None:
        names = ", ".join(sorted(others))
        return f"{site.position.source}: the same line of {site.position.owner or 'the model'} also serves {names}"
    if not site.position.module and any(len(runs[owner]) != 1 for owner, _ in _owner_ranks(site.calls)):
        return f"{site.position.source}: its owner's forward makes another number of activation calls from run to run"
    return ""


def _sites_served(sites: Sequence[FoundSite]) -> dict[tuple[str, int], set[str]]:
    served: dict[tuple[str, int], set[str]] = defaultdict(set)
    for site in sites:
        for place in _owner_ranks(site.calls):
            served[place].add(site.id)
    return served


def _owner_ranks(calls: Iterable[Call]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((call.position.owner, call.position.rank) for call in calls if call.position))


def _activation_runs(graph: Graph) -> dict[str, set[int]]:
    """By owner path, how many activation calls a run of its forward makes: one number where all runs agree."""
    counts: dict[tuple[tuple[str, ...], str], int] = defaultdict(int)
    for call in graph.activations():
        if call.position:
            counts[call.position.path[:-1], call.position.owner] += 1
    runs: dict[str, set[int]] = defaultdict(set)
    for (_, owner), count in counts.items():
        runs[owner].add(count)
    return runs


def _swappable(model: nn.Module, graph: Graph, site: FoundSite) -> bool:
    """True where every call of the site's module, under whatever name, belongs to the site."""
    modules = {call.position.module for call in site.calls if call.position}
    if None in modules or len(modules) != 1:
        return False
    aliases = set(aliases_of(model, model.get_submodule(str(next(iter(modules))))))
    own = {call.index for call in site.calls}
    return all(call.index in own for call in graph.activations() if call.position and call.position.module in aliases)


def _swap(site: FoundSite) -> Place:
    return Place(how="swap", owner=site.position.owner, module=str(site.position.module))


def _rewrites(site: FoundSite, runs: Mapping[str, set[int]]) -> list[Place]:
    places = []
    for owner, rank in _owner_ranks(site.calls):
        name = f"prelu_{rank + 1}"
        module = f"{owner}.{name}" if owner else name
        places.append(Place(how="rewrite", owner=owner, module=module, rank=rank, of=next(iter(runs[owner]))))
    return places


def _slope_shape(graph: Graph, site: FoundSite, alpha_shape: AlphaShape) -> SlopeShape:
    """One slope a unit where the axis is known; one for the site where it was only assumed."""
    rank = len(graph.shapes[site.calls[0].reads[0]])
    single = alpha_shape != "channel" or site.axis_assumed
    return SlopeShape(
        count=1 if single else site.units,
        axis=1 if site.unit_axis == 1 else site.unit_axis - rank,
        ceiling=site.activation.ceiling,
    )

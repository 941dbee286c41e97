"""Puts a PReLU at every site: plans on the traced graph, operates on a copy, and returns what it declined."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from prelu_doctor.records import Function
from prelu_doctor.sites.activations import (
    CONVERTED,
    LEAKY,
    RECOGNISED,
    RECTIFIERS,
    is_activation_function,
    is_activation_module,
)
from prelu_doctor.sites.aliases import aliases_of
from prelu_doctor.sites.find import FoundSite
from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.treatment.recipe import Place, SiteRecipe
from prelu_doctor.treatment.rewriting import CannotRewriteError, rewrite_forward, traced_activations
from prelu_doctor.treatment.slopes import AlphaShape, SlopeShape, build_prelu, first_module


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

    def put(self, site: str, prelu: nn.PReLU) -> None:
        """Puts another PReLU at a converted site, wherever its PReLU stands now."""
        recipe = next(recipe for recipe in self.done if recipe.site == site)
        _put(self.model, recipe.places[0].module, prelu)


def operate(
    model: nn.Module,
    graph: Graph,
    sites: Sequence[FoundSite],
    *,
    alpha_shape: AlphaShape = "channel",
    slope: float = 0.0,
    none_arguments: Mapping[str, Sequence[str]] | None = None,
    refuse: Mapping[str, str] | None = None,
    converts: Collection[Function] = CONVERTED,
) -> Surgery:
    """Replaces every ReLU and ReLU6 of a model by a PReLU, and other activations where asked to.

    Args:
        model: The traced model; it is left as it is.
        graph: Its traced forward.
        sites: The sites found in it.
        alpha_shape: One slope a channel, a site, or for the whole net.
        slope: Where the slopes start; 0 keeps the function.
        none_arguments: By owner path, arguments of its forward that are None whenever the model runs.
        refuse: Sites that must not be converted, and why.
        converts: The functions to replace. A smooth one is replaced by a stand-in that computes it.

    Returns:
        The operated copy, and what was declined.
    """
    done, declined = plan_surgery(model, graph, sites, alpha_shape, refuse or {}, converts)
    surgery = Surgery(copy_of(model), declined=declined)
    activations = {site.id: site.activation for site in sites}
    apply_recipes(
        surgery,
        done,
        alpha_shape=alpha_shape,
        none_arguments=none_arguments or {},
        functions=graph.functions,
        build=lambda recipe: first_module(activations[recipe.site], recipe.shape, slope, surgery.model),
    )
    return surgery


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that keeps computed tensors (weight norm): every forward computes them anew."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo = {id(value): value.detach().clone() for value in kept if value.grad_fn is not None}
    return copy.deepcopy(model, memo)


def plan_surgery(
    model: nn.Module,
    graph: Graph,
    sites: Sequence[FoundSite],
    alpha_shape: AlphaShape,
    refuse: Mapping[str, str],
    converts: Collection[Function] = CONVERTED,
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
        reason = declined.get(site.id) or _not_for_surgery(site, runs, servants, converts)
        if reason:
            declined[site.id] = reason
            continue
        places = _swaps(model, graph, site, runs) or _rewrites(model, site, runs)
        plans.append(SiteRecipe(site=site.id, shape=_slope_shape(graph, site, alpha_shape), places=places))
    return plans, declined


def apply_recipes(
    surgery: Surgery,
    recipes: Iterable[SiteRecipe],
    *,
    alpha_shape: AlphaShape,
    none_arguments: Mapping[str, Sequence[str]],
    functions: Collection[Function] = RECOGNISED,
    build: Callable[[SiteRecipe], nn.PReLU] | None = None,
) -> None:
    """Carries out recipes on the surgery's model; what cannot be done is declined, and its model part left alone.

    Args:
        surgery: The model, with the sites that are declined already.
        recipes: What to do.
        alpha_shape: `tied` where all sites share one slope.
        none_arguments: By owner path, arguments of its forward that are None whenever the model runs.
        functions: What counted as an activation when the recipes were made: calls in a forward are numbered by it.
        build: Makes what is put at a site; a PReLU with slopes of 0 where None.
    """
    build = build or (lambda recipe: build_prelu(recipe.shape, 0.0, surgery.model))
    shared: nn.Parameter | None = None
    rewrites: dict[str, list[tuple[SiteRecipe, Place, nn.PReLU]]] = defaultdict(list)
    for recipe in recipes:
        prelu = build(recipe)
        if alpha_shape == "tied":
            shared = shared if shared is not None else prelu.weight
            prelu.weight = shared
        surgery.done.append(recipe)
        for place in recipe.places:
            if place.how == "swap":
                _put(surgery.model, place.module, prelu, functions)
            else:
                rewrites[place.owner].append((recipe, place, prelu))
    _decline_untraceable(surgery, rewrites, none_arguments, functions)
    for owner, group in rewrites.items():
        kept = [(place, prelu) for recipe, place, prelu in group if recipe.site not in surgery.declined]
        if kept:
            module = surgery.model.get_submodule(owner)
            replacements = {
                place.rank: (place.module.rpartition(".")[2], prelu.train(module.training)) for place, prelu in kept
            }
            nones = none_arguments.get(owner, ())
            rewrite_forward(module, replacements, of=kept[0][0].of, none_arguments=nones, functions=functions)


def _decline_untraceable(
    surgery: Surgery,
    rewrites: Mapping[str, list[tuple[SiteRecipe, Place, nn.PReLU]]],
    none_arguments: Mapping[str, Sequence[str]],
    functions: Collection[Function],
) -> None:
    """Declines sites before any owner is rewritten: a site of several owners is converted as a whole or not at all."""
    for owner, group in rewrites.items():
        module = surgery.model.get_submodule(owner)
        try:
            nones = none_arguments.get(owner, ())
            traced_activations(module, of=group[0][1].of, none_arguments=nones, functions=functions)
        except CannotRewriteError as error:
            for recipe, _, _ in group:
                surgery.declined[recipe.site] = f"{owner or 'the model'} cannot be rewritten: {error}"
    surgery.done = [recipe for recipe in surgery.done if recipe.site not in surgery.declined]


def _put(model: nn.Module, path: str, prelu: nn.PReLU, functions: Collection[Function] = RECOGNISED) -> None:
    """Puts a PReLU where an activation is, under each of its names."""
    parent, _, name = path.rpartition(".")
    current = getattr(model.get_submodule(parent), name)
    if is_activation_function(current, functions):
        _set(model.get_submodule(parent), name, prelu)
        return
    if not is_activation_module(current, functions):
        raise CannotRewriteError(f"{path} is no activation")
    prelu.train(current.training)
    vars(prelu).update({key: value for key, value in vars(current).items() if key.endswith(_HOOKS)})
    for alias in aliases_of(model, current):
        parent, _, name = alias.rpartition(".")
        _set(model.get_submodule(parent), name, prelu)


_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called", "_is_full_backward_hook")


def _set(parent: nn.Module, name: str, prelu: nn.PReLU) -> None:
    setattr(parent, name, prelu)
    if isinstance(parent, nn.TransformerEncoderLayer):
        parent.activation_relu_or_gelu = 0  # its fused kernel would go on computing a ReLU


def _not_for_surgery(
    site: FoundSite,
    runs: Mapping[str, set[int]],
    servants: Mapping[tuple[str, int], set[str]],
    converts: Collection[Function],
) -> str:
    """Why a site keeps its activation, or an empty string."""
    if not site.calls:
        return f"{site.position.source}: its branch does not run on the first samples"
    if site.activation.function == "prelu" or site.activation.function in LEAKY - frozenset(converts):
        return f"it is a {site.activation.function} already, with a negative side of its own"
    if site.activation.function not in converts:
        return f"it is a {site.activation.function}, and --activations does not name it"
    if site.position.module == "":
        return "the model itself is the activation; there is no module to put a PReLU into"
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
    path = str(site.position.module)
    if len(modules) != 1 or site.position.module is None or path.startswith("<"):
        return False
    aliases = set(aliases_of(model, model.get_submodule(path)))
    own = {call.index for call in site.calls}
    return all(call.index in own for call in graph.activations() if call.position and call.position.module in aliases)


def _swaps(model: nn.Module, graph: Graph, site: FoundSite, runs: Mapping[str, set[int]]) -> list[Place]:
    """The module, or the function that an attribute holds, in whose place a PReLU can stand; empty where there is none.

    `nn.TransformerEncoderLayer` keeps `F.relu` in its attribute `activation`, and cannot be traced.
    """
    owner = site.position.owner
    if _swappable(model, graph, site):
        return [Place(how="swap", owner=owner, module=str(site.position.module))]
    only_call = runs[owner] == {1} and {call.position.owner for call in site.calls if call.position} == {owner}
    if site.position.module is not None or not only_call or not _takes_one_argument(site):
        return []
    values = vars(model.get_submodule(owner)).items()
    held = [name for name, value in values if is_activation_function(value, graph.functions)]
    return [Place(how="swap", owner=owner, module=_inside(owner, held[0]))] if len(held) == 1 else []


def _rewrites(model: nn.Module, site: FoundSite, runs: Mapping[str, set[int]]) -> list[Place]:
    places = []
    for owner, rank in _owner_ranks(site.calls):
        module = _inside(owner, _free_name(model.get_submodule(owner), f"prelu_{rank + 1}"))
        places.append(Place(how="rewrite", owner=owner, module=module, rank=rank, of=next(iter(runs[owner]))))
    return places


def _takes_one_argument(site: FoundSite) -> bool:
    """False where a function is given more than its input, as in `act(x, 0.2)`: a module would not take that."""
    if site.activation.function in RECTIFIERS:
        return True
    return all(len(call.args) == 1 and not call.kwargs for call in site.calls) and not site.activation.in_place


def _inside(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner else name


def _free_name(owner: nn.Module, wanted: str) -> str:
    while hasattr(owner, wanted):
        wanted += "_"
    return wanted


def _slope_shape(graph: Graph, site: FoundSite, alpha_shape: AlphaShape) -> SlopeShape:
    """One slope a unit where the axis is known; one for the site where it was only assumed."""
    rank = len(graph.shapes[site.calls[0].reads[0]])
    single = alpha_shape != "channel" or site.axis_assumed
    return SlopeShape(
        count=1 if single else site.units,
        axis=1 if site.unit_axis == 1 else site.unit_axis - rank,
        ceiling=site.activation.ceiling,
    )

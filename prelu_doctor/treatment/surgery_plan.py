"""Decides how a PReLU gets to every site: a module swapped, a call rewritten or routed, or declined with the reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from prelu_doctor.records import Function, replace
from prelu_doctor.sites.activations import CONVERTED, LEAKY, RECOGNISED, RECTIFIERS, Activation, is_activation_function
from prelu_doctor.sites.aliases import aliases_of
from prelu_doctor.sites.find import FoundSite, Sites
from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.recorder import FUSED
from prelu_doctor.sites.spots import Spot
from prelu_doctor.treatment.recipe import Place, SiteRecipe
from prelu_doctor.treatment.rewriting import CannotRewriteError, names_taken, traced_activations
from prelu_doctor.treatment.routing import check_routable
from prelu_doctor.treatment.slopes import AlphaShape, SlopeShape, dtype_and_device


@dataclass
class SurgeryPlan:
    """What is to be done at each site.

    Attributes:
        recipes: The sites to convert.
        declined: By site id why others are not.
        activations: By site id what stands there.
        functions: What counts as an activation: the calls of a forward are numbered by it.
    """

    recipes: list[SiteRecipe] = field(default_factory=list)
    declined: dict[str, str] = field(default_factory=dict)
    activations: dict[str, Activation] = field(default_factory=dict)
    functions: Collection[Function] = RECOGNISED

    @property
    def rewritten(self) -> set[str]:
        """Paths of the modules whose forward is to be rewritten."""
        return {place.owner for recipe in self.recipes for place in recipe.places if place.how == "rewrite"}


class Planner:
    """Plans surgery on one model.

    Args:
        model: The traced model.
        graph: Its first traced forward.
        sites: The sites found in it and in later ones.
        none_arguments: By path of a module, arguments of its forward that are None whenever the model runs.
        converts: The functions to replace.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        sites: Sites,
        none_arguments: Mapping[str, Sequence[str]],
        converts: Collection[Function] = CONVERTED,
    ) -> None:
        self._model = model
        self._graph = graph
        self._sites = sites
        self._nones = none_arguments
        self._converts = frozenset(converts)
        self._runs = _activation_runs(graph)
        self._served = _sites_served(sites.found)
        self._untraceable: dict[str, str] = {}

    def plan(
        self,
        alpha_shape: AlphaShape,
        *,
        refuse: Mapping[str, str] | None = None,
        inplace: Collection[str] = (),
        route: Mapping[str, str] | None = None,
    ) -> SurgeryPlan:
        """How a PReLU gets to every site.

        Args:
            alpha_shape: One slope a channel, a site, or for the whole net.
            refuse: Sites that must not be converted, and why.
            inplace: Sites whose PReLU is to overwrite its input, as their activation did.
            route: Sites whose calls are to be routed, although they could be replaced otherwise, and why.
        """
        route = route or {}
        activations = {site.id: site.activation for site in self._sites.found}
        plan = SurgeryPlan([], dict(refuse or {}), activations, self._graph.functions)
        for site in self._sites.found:
            reason = plan.declined.get(site.id) or _not_for_surgery(site, self._converts)
            if reason:
                plan.declined[site.id] = reason
        left = [site for site in self._sites.found if site.id not in plan.declined]
        swapped = {site.id: places for site in left if site.id not in route and (places := self._swaps(site))}
        why_routed = self._why_routed([site for site in left if site.id not in swapped], route)
        for site in left:
            try:
                places = swapped.get(site.id) or self._replaced(site, why_routed)
            except CannotRewriteError as reason:
                plan.declined[site.id] = str(reason)
                continue
            shape = self._slope_shape(site, alpha_shape, inplace=site.id in inplace)
            plan.recipes.append(SiteRecipe(site=site.id, shape=shape, places=places))
        return plan

    def _swaps(self, site: FoundSite) -> list[Place]:
        """The module, or the function that an attribute holds, in whose place a PReLU can stand; empty for none.

        `nn.TransformerEncoderLayer` keeps `F.relu` in its attribute `activation`, and cannot be traced.
        """
        owner, module = site.position.home, site.position.module
        if module is not None and site.position.program is None:
            return [Place(how="swap", owner=owner, module=module)] if self._is_alone(site, module) else []
        only_call = self._runs[owner] == {1} and self._owners(site) == {owner}
        if not only_call or _is_unregistered(owner) or not _takes_one_argument(site):
            return []
        values = vars(self._model.get_submodule(owner)).items()
        held = [name for name, value in values if is_activation_function(value, self._graph.functions)]
        return [Place(how="swap", owner=owner, module=_inside(owner, held[0]))] if len(held) == 1 else []

    def _is_alone(self, site: FoundSite, module: str) -> bool:
        """True where the module, under whatever name, makes all calls of the site and no others."""
        if _is_unregistered(module):
            return False
        by_path = self._sites.spots.modules
        aliases = aliases_of(self._model, self._model.get_submodule(module))
        served = {number for path in aliases for number in by_path.get(path, ())}
        return served == {site.number} and {path for path, sites in by_path.items() if site.number in sites} == {module}

    def _owners(self, site: FoundSite) -> set[str]:
        return {spot.owner for spot in self._sites.spots.of_site(site.number)}

    def _why_routed(self, sites: Sequence[FoundSite], route: Mapping[str, str]) -> dict[str, str]:
        """By path of an owner why the calls of its sites are routed.

        Empty where its forward can be replaced by a graph, which costs nothing when it runs and can be compiled.
        """
        by_owner: dict[str, list[FoundSite]] = defaultdict(list)
        for site in sites:
            for owner in self._owners(site):
                by_owner[owner].append(site)
        return {owner: self._why_not_rewritten(owner, group, route) for owner, group in by_owner.items()}

    def _why_not_rewritten(self, owner: str, sites: Sequence[FoundSite], route: Mapping[str, str]) -> str:
        if _is_unregistered(owner):
            return "it is not registered in the model"
        for site in sites:
            if site.id in route:
                return route[site.id]
            if not any(call.position and call.position.home == owner for call in site.calls):
                return "a branch of it does not run on the first samples"
            if any(self._served[place] != {site.id} for place in _owner_ranks(site.calls)):
                return "a line of it serves several sites"
        if any(not spot.location for spot in self._sites.spots.sites if spot.owner == owner):
            return "a call of it could not be told again"
        if self._nones.get(owner):
            return f"a graph would freeze that {', '.join(self._nones[owner])} is None"
        if len(self._runs[owner]) != 1:
            return "its forward makes another number of activation calls from run to run"
        return self._why_untraceable(owner)

    def _why_untraceable(self, owner: str) -> str:
        if owner not in self._untraceable:
            (of,) = self._runs[owner]
            try:
                module = self._model.get_submodule(owner)
                nones = self._nones.get(owner, ())
                traced_activations(module, of=of, none_arguments=nones, functions=self._graph.functions)
                self._untraceable[owner] = ""
            except CannotRewriteError as error:
                self._untraceable[owner] = str(error)
        return self._untraceable[owner]

    def _replaced(self, site: FoundSite, why_routed: Mapping[str, str]) -> list[Place]:
        """A place for every call of the site.

        Raises:
            CannotRewriteError: One of them can neither be rewritten nor routed.
        """
        ranks = [(owner, rank) for owner, rank in _owner_ranks(site.calls) if not why_routed[owner]]
        places = [self._rewritten(owner, rank) for owner, rank in ranks]
        for spot in self._sites.spots.of_site(site.number):
            if why_routed[spot.owner]:
                places += self._routed(site, spot, why_routed[spot.owner])
        return places

    def _rewritten(self, owner: str, rank: int) -> Place:
        module = _inside(owner, _free_name(self._model.get_submodule(owner), f"prelu_{rank + 1}"))
        (of,) = self._runs[owner]
        return Place(how="rewrite", owner=owner, module=module, rank=rank, of=of)

    def _routed(self, site: FoundSite, spot: Spot, why: str) -> list[Place]:
        place = f"{site.position.source}: {spot.owner or 'the model'}"
        if _is_unregistered(spot.owner):
            raise CannotRewriteError(f"{site.position.source}: the module that makes the call is not registered")
        owner, spots = self._model.get_submodule(spot.owner), self._sites.spots
        try:
            check_routable(owner)
        except CannotRewriteError as error:
            reasons = dict.fromkeys((why, str(error)))
            raise CannotRewriteError(f"{place} cannot be rewritten: {', and '.join(reasons)}") from error
        if not spot.location:
            raise CannotRewriteError(
                f"{site.position.source}: the call is made by a hook, or under checkpoint, vmap or an "
                "autograd.Function, or Python keeps no columns: it could not be told again"
            )
        turns = (spots.sections if spot.location.endswith(_FUSED) else spots.turns)(spot, site.number)
        if turns is None:
            raise CannotRewriteError(
                f"{place} calls it for other sites too, in an order that differs between runs ({why})"
            )
        name = _free_name(owner, f"prelu_{spots.of_owner(spot.owner).index(site.number) + 1}")
        module = _inside(spot.owner, name)
        routed = Place(how="route", owner=spot.owner, module=module, location=spot.location)
        return [replace(routed, turn=turn.turn, turns=turn.every) for turn in turns]

    def _slope_shape(self, site: FoundSite, alpha_shape: AlphaShape, *, inplace: bool) -> SlopeShape:
        """One slope a unit where the axis is known; one for the site where it was only assumed."""
        single = alpha_shape != "channel" or site.axis_assumed
        return SlopeShape(
            count=1 if single else site.units,
            axis=1 if site.unit_axis == 1 else site.unit_axis - site.rank,
            ceiling=site.activation.ceiling,
            inplace=inplace,
            casts=site.dtype != dtype_and_device(self._model)[0],
        )


_FUSED = tuple(f">{name}" for name in FUSED)


def _takes_one_argument(site: FoundSite) -> bool:
    """False where a function is given more than its input, as in `act(x, 0.2)`: a module would not take that."""
    if site.activation.function in RECTIFIERS:
        return True
    return all(len(call.args) == 1 and not call.kwargs for call in site.calls) and not site.activation.in_place


def _is_unregistered(path: str) -> bool:
    return path.startswith("<")


def _not_for_surgery(site: FoundSite, converts: frozenset[Function]) -> str:
    """Why a site keeps its activation, or an empty string."""
    function = site.activation.function
    if function == "prelu" or function in LEAKY - converts:
        return f"{function} has a negative side of its own already"
    if function not in converts:
        return f"it is a {function}, and --activations does not name it"
    if site.position.module == "" and site.position.program is None:
        return "the model itself is the activation; there is no module to put a PReLU into"
    return ""


def _sites_served(sites: Sequence[FoundSite]) -> dict[tuple[str, int], set[str]]:
    served: dict[tuple[str, int], set[str]] = defaultdict(set)
    for site in sites:
        for place in _owner_ranks(site.calls):
            served[place].add(site.id)
    return served


def _owner_ranks(calls: Iterable[Call]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((call.position.home, call.position.rank) for call in calls if call.position))


def _activation_runs(graph: Graph) -> dict[str, set[int]]:
    """By owner path, how many activation calls a run of its forward makes: one number where all runs agree."""
    counts: dict[tuple[tuple[str, ...], str], int] = defaultdict(int)
    for call in graph.activations():
        if call.position:
            counts[call.position.run, call.position.home] += 1
    runs: dict[str, set[int]] = defaultdict(set)
    for (_, owner), count in counts.items():
        runs[owner].add(count)
    return runs


def _inside(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner else name


def _free_name(owner: nn.Module, wanted: str) -> str:
    taken = names_taken(owner)
    while wanted in taken:
        wanted += "_"
    return wanted

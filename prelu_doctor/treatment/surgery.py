"""Carries out a surgery plan on a copy of the model, or a recipe on a fresh one."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prelu_doctor.records import Function
from prelu_doctor.sites.activations import RECOGNISED, is_activation_function, is_activation_module
from prelu_doctor.sites.aliases import aliases_of
from prelu_doctor.treatment.recipe import Place, SiteRecipe
from prelu_doctor.treatment.rewriting import CannotRewriteError, add_child, rewrite_forward
from prelu_doctor.treatment.routing import Route, route_forward
from prelu_doctor.treatment.slopes import AlphaShape, build_prelu, first_module
from prelu_doctor.treatment.surgery_plan import SurgeryPlan


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
    plan: SurgeryPlan,
    *,
    alpha_shape: AlphaShape = "channel",
    slope: float = 0.0,
    none_arguments: Mapping[str, Sequence[str]] | None = None,
) -> Surgery:
    """Replaces the activations of a model by PReLUs; a smooth one by a stand-in that computes it.

    Args:
        model: The model; it is left as it is.
        plan: What is to be done.
        alpha_shape: One slope a channel, a site, or for the whole net.
        slope: Where the slopes start; 0 keeps the function.
        none_arguments: By owner path, arguments of its forward that are None whenever the model runs.

    Returns:
        The operated copy, and what was declined.
    """
    surgery = Surgery(copy_of(model), declined=dict(plan.declined))
    apply_recipes(
        surgery,
        plan.recipes,
        alpha_shape=alpha_shape,
        none_arguments=none_arguments or {},
        functions=plan.functions,
        build=lambda recipe: first_module(plan.activations[recipe.site], recipe.shape, slope, surgery.model),
    )
    return surgery


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that keeps computed tensors (weight norm): every forward computes them anew.

    The copy of a scripted module is given parameters of its own: torch gives it clones that hang on the original's.
    """
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo = {id(value): value.detach().clone() for value in kept if value.grad_fn is not None}
    copied = copy.deepcopy(model, memo)
    for module in (part for part in copied.modules() if isinstance(part, torch.jit.ScriptModule)):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.is_leaf:
                module._c.setattr(name, parameter.detach().requires_grad_(parameter.requires_grad))
    return copied


def apply_recipes(
    surgery: Surgery,
    recipes: Iterable[SiteRecipe],
    *,
    alpha_shape: AlphaShape,
    none_arguments: Mapping[str, Sequence[str]],
    functions: Collection[Function] = RECOGNISED,
    build: Callable[[SiteRecipe], nn.PReLU] | None = None,
) -> None:
    """Carries out recipes on the surgery's model.

    Args:
        surgery: The model, with the sites that are declined already.
        recipes: What to do.
        alpha_shape: `tied` where all sites share one slope.
        none_arguments: By owner path, arguments of its forward that are None whenever the model runs.
        functions: What counted as an activation when the recipes were made: calls in a forward are numbered by it.
        build: Makes what is put at a site; a PReLU with slopes of 0 where None.

    Raises:
        CannotRewriteError: They were made for another model.
    """
    build = build or (lambda recipe: build_prelu(recipe.shape, 0.0, surgery.model))
    shared: nn.Parameter | None = None
    rewrites: dict[str, list[tuple[Place, nn.PReLU]]] = defaultdict(list)
    routed: dict[str, list[tuple[Place, nn.PReLU]]] = defaultdict(list)
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
                (rewrites if place.how == "rewrite" else routed)[place.owner].append((place, prelu))
    for path, group in rewrites.items():
        owner = surgery.model.get_submodule(path)
        replacements = {place.rank: (_name(place), prelu.train(owner.training)) for place, prelu in group}
        of = group[0][0].of
        nones = none_arguments.get(path, ())
        rewrite_forward(owner, replacements, of=of, none_arguments=nones, functions=functions)
    for path, group in routed.items():
        owner = surgery.model.get_submodule(path)
        for place, prelu in group:
            add_child(owner, _name(place), prelu.train(owner.training))
        routes = [Route(place.location, place.turn, place.turns, _name(place)) for place, _ in group]
        route_forward(owner, routes, functions)


def _name(place: Place) -> str:
    return place.module.rpartition(".")[2]


def _put(model: nn.Module, path: str, prelu: nn.PReLU, functions: Collection[Function] = RECOGNISED) -> None:
    """Puts a PReLU where an activation is, under each of its names."""
    parent, _, name = path.rpartition(".")
    current = getattr(model.get_submodule(parent), name)
    if is_activation_function(current, functions):
        owner = model.get_submodule(parent)
        _set(owner, name, prelu.train(owner.training))
        return
    if not is_activation_module(current, functions):
        raise CannotRewriteError(f"{path} is no activation")
    prelu.train(current.training)
    # A dictionary of its own: whoever still holds the old module must not call hooks that are added to the new one.
    vars(prelu).update({key: copy.copy(value) for key, value in vars(current).items() if key.endswith(_HOOKS)})
    for alias in aliases_of(model, current):
        parent, _, name = alias.rpartition(".")
        _set(model.get_submodule(parent), name, prelu)


_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called", "_is_full_backward_hook")


def _set(parent: nn.Module, name: str, prelu: nn.PReLU) -> None:
    setattr(parent, name, prelu)
    if isinstance(parent, nn.TransformerEncoderLayer):
        parent.activation_relu_or_gelu = 0  # its fused kernel would go on computing a ReLU

"""The recipe: what surgery did, so that `load` can do it again on a fresh model."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, is_plain_name
from prelu_doctor.records import Function, Record, replace
from prelu_doctor.treatment.slopes import AlphaShape, SlopeShape

RECIPE_VERSION: Final = 1


class Place(Record, frozen=True, kw_only=True):
    """One call of a site, and how its PReLU was put there."""

    how: Literal["swap", "rewrite", "route"]
    """`swap`: the activation module at `module` was replaced. `rewrite`: the call was, in its owner's forward. `route`:
    the call is sent to the PReLU while the forward runs."""
    owner: str
    """Path of the module whose forward makes the call."""
    module: str
    """Path of the PReLU."""
    rank: int = 0
    """For a rewritten call: which activation call of the owner's forward it is, from 0."""
    of: int = 0
    """For a rewritten call: how many activation calls the owner's forward makes."""
    location: str = ""
    """For a routed call: where in the owner's code it stands."""
    turn: int = 0
    """For a routed call: which call there in one run of the forward, from 0."""
    turns: int = 0
    """For a routed call: after how many calls it comes again; 0 where it never does."""


class SiteRecipe(Record, frozen=True, kw_only=True):
    """One converted site."""

    site: str
    shape: SlopeShape
    places: list[Place]
    """More than one where calls in several places share their producers; they share the PReLU too."""


class Recipe(Record, frozen=True, kw_only=True):
    """Everything `load` needs to repeat the surgery."""

    version: Literal[1] = RECIPE_VERSION
    tool_version: str
    source_sha256: str
    """Of the checkpoint that was converted."""
    alpha_shape: AlphaShape
    sites: list[SiteRecipe]
    none_arguments: dict[str, list[str]]
    """By rewritten owner: arguments of its forward that were None, and were traced as None."""
    options: dict[str, str | int | float | bool | None]
    """The treatment's options, for the reader."""
    functions: tuple[Function, ...] = ("relu", "relu6", "prelu", "leaky_relu")
    """What counted as an activation: the calls of a forward are numbered by it."""
    method: str | None = None
    """What was converted instead of the model's `forward`."""
    weights_sha256: str = ""
    """Of the weights file beside it, where the recipe is a file of its own."""
    earlier: tuple[Recipe, ...] = ()
    """Of the conversions before this one, the first one first: a converted file may be converted again."""

    @property
    def steps(self) -> tuple[Recipe, ...]:
        """Every conversion in the order in which it was done; this one is the last."""
        return (*self.earlier, self)

    def after(self, earlier: Recipe | None) -> Recipe:
        """This recipe as the one that follows another; None where nothing came before."""
        if earlier is None:
            return self
        # Only the last one tells of a file beside it.
        before = (replace(step, earlier=(), weights_sha256="") for step in earlier.steps)
        return replace(self, earlier=tuple(before))


def encode_recipe(recipe: Recipe) -> str:
    """The recipe as JSON text."""
    return msgspec.json.encode(recipe).decode()


def decode_recipe(text: str) -> Recipe:
    """The recipe of a converted file.

    Raises:
        CheckpointError: The text is no recipe of this version.
    """
    try:
        recipe = msgspec.json.decode(text, type=Recipe)
        for step in recipe.steps:
            _check_names(step)
        return recipe
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the recipe of the converted file cannot be read: {escaped(error, 300)}",
            f"a recipe of version {RECIPE_VERSION}",
            "convert the original checkpoint again, or use the version that wrote the file",
        ) from error


def _check_names(recipe: Recipe) -> None:
    """A recipe is a file, and its names go into a forward's code."""
    names = [name for site in recipe.sites for place in site.places for name in (place.module, place.owner)]
    odd = [name for name in names if name and not is_plain_name(name)]
    if odd:
        raise ValueError(f"it names the module {escaped(odd[0])}")
    for place in (place for site in recipe.sites for place in site.places if place.how == "route"):
        if place.module.rpartition(".")[0] != place.owner or not place.location or min(place.turn, place.turns) < 0:
            raise ValueError(f"it routes no call of {escaped(place.owner or 'the model')} to {escaped(place.module)}")

"""The converted checkpoint: weights under the original names, new slopes beside them, and the recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.checkpoints.keys import load_weights
from prelu_doctor.checkpoints.recipes import RECIPE_SUFFIX
from prelu_doctor.checkpoints.safetensors_files import RECIPE_KEY
from prelu_doctor.errors import CheckpointError, UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.methods import run_method
from prelu_doctor.records import replace
from prelu_doctor.treatment.recipe import Recipe, decode_recipe, encode_recipe
from prelu_doctor.treatment.surgery import Surgery, apply_recipes, copy_of


def load(module_or_factory: nn.Module | Callable[[], nn.Module], path: str | Path) -> nn.Module:
    """Loads a converted checkpoint into the original architecture.

    Args:
        module_or_factory: The original model, with any weights, or a callable that makes one. A module is not changed:
            a copy is operated on.
        path: What `convert` wrote, `.safetensors` or `.pt`.

    Returns:
        The model with its PReLUs, all weights loaded strictly.

    Raises:
        CheckpointError: The file is not a converted checkpoint, or does not fit the architecture.
    """
    stored = read_checkpoint(Path(path))
    if stored.recipe_text is None or stored.state is None:
        raise CheckpointError(
            f"{path} holds no recipe", "a file that `prelu-doctor convert` wrote", "load it the way it was saved"
        )
    given = module_or_factory
    fresh = copy_of(given) if isinstance(given, nn.Module) else given()
    return restore(fresh, stored.recipe_text, stored.state)


def restore(fresh: nn.Module, recipe_text: str, state: dict[str, Tensor], *, method: str | None = None) -> nn.Module:
    """Repeats the surgery of a recipe on a fresh model, in place, and loads the converted weights strictly.

    Args:
        fresh: The model; where the recipe is one for another method than `forward`, calling it will run that.
        recipe_text: The recipe as JSON.
        state: The converted weights by name.
        method: The method that the user named; None for that of the recipe.

    Raises:
        CheckpointError: The recipe or the weights do not fit the model.
        UsageError: The method is none of the model's.
    """
    recipe = decode_recipe(recipe_text)
    if recipe.method is not None and not isinstance(fresh, fx.GraphModule):
        if method not in (None, recipe.method):
            raise UsageError(
                f"--method {escaped(method)}: the method that was converted is {escaped(recipe.method)}",
                "the same method",
                "leave --method out",
            )
        run_method(fresh, recipe.method)
    _check_slopes(recipe, state)
    try:
        for step in recipe.steps:
            apply_recipes(
                Surgery(fresh),
                step.sites,
                alpha_shape=step.alpha_shape,
                none_arguments=step.none_arguments,
                functions=step.functions,
            )
    except Exception as error:  # a recipe is a file: it may name anything
        raise _misfit(
            f"{type(error).__name__}: {error}" if str(error) else "no activation where it puts a PReLU"
        ) from error
    load_weights(fresh, state)
    return fresh


def _check_slopes(recipe: Recipe, state: dict[str, Tensor]) -> None:
    """No PReLU is made that the file holds no slopes for: a recipe of a few bytes could ask for one of gigabytes."""
    for site in (site for step in recipe.steps for site in step.sites):
        for name in (f"{place.module}.weight" for place in site.places[:1]):
            if name not in state or state[name].numel() != site.shape.count:
                raise _misfit(f"{site.shape.count} slopes at {name}, which the file does not hold")


def _misfit(reason: str) -> CheckpointError:
    return CheckpointError(
        f"the recipe does not fit this architecture: {escaped(reason, 300)}",
        "the architecture that was converted",
        "check --arch and --arch-arg",
    )


def files_of(target: Path) -> list[Path]:
    """The files that a converted checkpoint consists of.

    Raises:
        UsageError: Its name is one for another kind of file.
    """
    if target.suffix == ".onnx":
        raise UsageError(
            f"-o {escaped(target)}: the converted checkpoint, under a name for ONNX",
            "a checkpoint, and the ONNX file beside it",
            f"-o healed.safetensors --onnx {escaped(target)}",
        )
    return [target] if target.suffix in (".safetensors", ".pt2") else [target, _recipe_path(target)]


def _recipe_path(target: Path) -> Path:
    return target.with_name(target.name + RECIPE_SUFFIX)


def converted_writers(model: nn.Module, recipe: Recipe, target: Path) -> Sequence[tuple[Path, Callable[[Path], None]]]:
    """The files that make up a converted checkpoint, each with its writer.

    Args:
        model: The treated model.
        recipe: Its recipe.
        target: Where it goes: `.safetensors` holds everything; any other ending gets a plain state dict, its recipe in
            a file of its own beside it.
    """
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)  # extra state is the class's own business
    }
    files_of(target)  # refuses a name that means something else
    if target.suffix == ".safetensors":
        metadata = {RECIPE_KEY: encode_recipe(recipe)}  # one entry: safetensors writes several in any order
        return [(target, lambda path: save_file(state, path, metadata))]
    digest: dict[str, str] = {}

    def write_weights(path: Path) -> None:
        torch.save(state, path)
        with path.open("rb") as file:
            digest["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()

    def write_recipe(path: Path) -> None:
        path.write_text(encode_recipe(replace(recipe, weights_sha256=digest["sha256"])))

    return [(target, write_weights), (_recipe_path(target), write_recipe)]

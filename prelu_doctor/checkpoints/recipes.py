"""The recipe file that stands beside a converted `.pt` file."""

from __future__ import annotations

import json
from pathlib import Path

from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped

RECIPE_SUFFIX = ".recipe.json"
_LONGEST = 64 * 2**20


def recipe_beside(weights: Path, weights_sha256: str) -> str | None:
    """The text of `WEIGHTS.recipe.json`; None where there is no such file.

    Args:
        weights: The file of the weights.
        weights_sha256: Of its bytes, in hex; the recipe names the weights it was written with.

    Raises:
        CheckpointError: Where the recipe cannot be read, or belongs to other weights.
    """
    path = weights.with_name(weights.name + RECIPE_SUFFIX)
    if not path.is_file():
        return None
    text = _text(path)
    if _named_sha256(text, path) != weights_sha256:
        raise CheckpointError(
            f"{escaped(path)}: its weights_sha256 is not that of {escaped(weights.name)}",
            "the recipe and the weights of one conversion",
            "convert again, or remove the recipe if the weights have nothing to do with it",
        )
    return text


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LONGEST:
            raise _unsound(path, f"longer than {_LONGEST} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unsound(path, str(error)) from error


def _named_sha256(text: str, path: Path) -> object:
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unsound(path, str(error)) from error
    if not isinstance(recipe, dict) or "weights_sha256" not in recipe:
        raise _unsound(path, "no weights_sha256 in it")
    return recipe["weights_sha256"]


def _unsound(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{escaped(path)}: not a recipe: {escaped(reason, 200)}",
        "the JSON that convert writes beside a .pt file",
        "convert again, or remove it",
    )

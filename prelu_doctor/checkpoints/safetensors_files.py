"""Safetensors files: weights, and the recipe in the metadata of a converted one."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from prelu_doctor.checkpoints.contents import Contents
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped

RECIPE_KEY = "prelu_doctor.recipe"


def read_safetensors(path: Path, reading: Reading) -> Contents:
    """The tensors by name, on the CPU, and the recipe's text where the file has one.

    Args:
        path: The file.
        reading: Nothing in such a file needs anybody's word.

    Raises:
        CheckpointError: Where the header does not fit the file, or it holds no tensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:  # the reader raises its own, and torch's for a type it does not know
        raise CheckpointError(
            f"{escaped(path)}: not a sound safetensors file: {escaped(error, 200)}",
            "a header that fits the file",
            "copy or download it again, or save it anew",
        ) from error
    if not state:
        raise CheckpointError(f"{escaped(path)}: holds no tensors", "a model's weights", "save it anew")
    return Contents(state=state, recipe_text=metadata.get(RECIPE_KEY))

"""A folder of a Hugging Face model: `config.json` and weights, put together by transformers, from local files alone."""

from __future__ import annotations

from pathlib import Path

from prelu_doctor.checkpoints.contents import Contents
from prelu_doctor.checkpoints.folders import text_in_folder, weights_in
from prelu_doctor.checkpoints.hugging_face_config import LONGEST, plain_config
from prelu_doctor.checkpoints.mapped_memory import aligned
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.checkpoints.sharded import ReadFile
from prelu_doctor.checkpoints.transformers_models import built_model
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped

CONFIG = "config.json"


def read_hugging_face(folder: Path, reading: Reading, *, read_file: ReadFile) -> Contents:
    """The module that the folder describes; its weights alone where the user names the architecture.

    The weights are read by this program's own readers, and handed to the class of transformers that `config.json`
    names. Nothing is fetched, and no code that the folder holds or names is run.

    Args:
        folder: With `config.json` in it.
        reading: As for the weights by themselves.
        read_file: Reads a file of weights, or an index of several.

    Raises:
        CheckpointError: Where the weights or the configuration cannot be read, are refused, or do not fit each other,
            or transformers is not installed.
    """
    weights = weights_in(folder)
    held = read_file(weights, reading)
    content, described = text_in_folder(folder, CONFIG, LONGEST)
    parts = (*held.parts, described)
    if held.state is None:
        raise CheckpointError(
            f"{escaped(weights)}: holds a module", "a state dict beside config.json", "give that file"
        )
    if reading.weights_alone or held.recipe_text is not None:
        return Contents(state=held.state, note=held.note, recipe_text=held.recipe_text, parts=parts)
    config = plain_config(folder / CONFIG, content, most=sum(tensor.nbytes for tensor in held.state.values()))
    module, note = built_model(folder, config, aligned(held.state))
    return Contents(module=module, note=", ".join(part for part in (held.note, note) if part), parts=parts)

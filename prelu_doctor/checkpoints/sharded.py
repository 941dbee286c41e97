"""Weights in several files beside an index (`model.safetensors.index.json`) that says which name stands in which."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from prelu_doctor.checkpoints.contents import Contents
from prelu_doctor.checkpoints.folders import file_in_folder
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, listed
from prelu_doctor.file_kinds import WEIGHT_MAP

ReadFile = Callable[[Path, Reading], Contents]
"""Reads one weights file, of whatever kind it is."""


def read_sharded(index: Path, reading: Reading, *, read_file: ReadFile) -> Contents:
    """The tensors by name, in the order of the index, each from the file that the index names.

    Args:
        index: A JSON object whose `weight_map` gives the file of each tensor.
        reading: As for each of the files by itself.
        read_file: Reads one of them.

    Raises:
        CheckpointError: Where the index is not sound, a file does not lie in its folder or cannot be read, a tensor is
            not where the index says, or one stands in two files.
    """
    weight_map = _weight_map(index)
    state: dict[str, Tensor] = {}
    files = _files(index, weight_map)
    for name, path in files.items():
        held = _weights(read_file(path, reading), path)
        twice = held.keys() & state.keys()
        if twice:
            raise _unsound(index, f"{listed(sorted(twice), 3)} stands in '{escaped(name)}' and in a file before it")
        state.update(held)
        _check_all_there(index, name, (tensor for tensor, file in weight_map.items() if file == name), held)
    unnamed = len(state) - len(weight_map)
    return Contents(
        state={name: state[name] for name in weight_map},
        note=f"{unnamed} tensors that the index does not name left out" if unnamed else "",
        files=(index, *files.values()),
    )


def shards_of(index: Path) -> list[Path]:
    """The files that an index names, wherever they are; [] where it is no sound index."""
    try:
        return [index.parent / name for name in dict.fromkeys(_weight_map(index).values())]
    except CheckpointError:
        return []


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_bytes(), object_pairs_hook=_each_key_once)
    except (OSError, ValueError, RecursionError) as error:
        raise _unsound(index, escaped(error, 200)) from error
    found = content.get(WEIGHT_MAP) if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
        raise _unsound(index, f"its '{WEIGHT_MAP}' names no file for each tensor")
    return found


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _files(index: Path, weight_map: dict[str, str]) -> dict[str, Path]:
    """The path of each file, by the name that the index gives it."""
    return {name: file_in_folder(index.parent, name, named_by=index) for name in dict.fromkeys(weight_map.values())}


def _weights(contents: Contents, path: Path) -> dict[str, Tensor]:
    if contents.state is None:
        raise CheckpointError(f"{escaped(path)}: holds a module", "a part of a model's weights: tensors by name")
    return contents.state


def _check_all_there(index: Path, file: str, named: Iterable[str], held: dict[str, Tensor]) -> None:
    lacking = [name for name in named if name not in held]
    if lacking:
        raise _unsound(index, f"'{escaped(file)}' has no tensor {listed(lacking, 3)}, which the index says it has")


def _unsound(index: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{escaped(index)}: not a sound index of weights: {problem}",
        f"a '{WEIGHT_MAP}' that names for each tensor the file beside the index which holds it",
        "copy or download the whole folder again",
    )

"""Weights in several files beside an index (`model.safetensors.index.json`) that says which name stands in which."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from prelu_doctor.checkpoints.contents import Contents
from prelu_doctor.checkpoints.folders import file_in_folder, text_in_folder
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, listed
from prelu_doctor.file_kinds import WEIGHT_MAP, FileKind, recognised
from prelu_doctor.untrusted.opened_files import bytes_of

_LONGEST = 64 * 2**20

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
    content, described = text_in_folder(index.parent, index.name, _LONGEST)
    weight_map = _weight_map(content, index)
    state: dict[str, Tensor] = {}
    parts = [described]
    for name, path in _files(index, weight_map).items():
        contents = read_file(path, reading)
        parts += contents.parts
        held = _weights(contents, path)
        twice = held.keys() & state.keys()
        if twice:
            raise _unsound(index, f"{listed(sorted(twice), 3)} stands in '{escaped(name)}' and in a file before it")
        state.update(held)
        _check_all_there(index, name, (tensor for tensor, file in weight_map.items() if file == name), held)
    unnamed = len(state) - len(weight_map)
    return Contents(
        state={name: state[name] for name in weight_map},
        note=f"{unnamed} tensors that the index does not name left out" if unnamed else "",
        parts=tuple(parts),
    )


def shards_of(index: Path) -> list[Path]:
    """The files that an index names, wherever they are; [] where it is none, or no sound one."""
    try:
        if recognised(index, error=CheckpointError) is not FileKind.SHARDED:
            return []
        weight_map = _weight_map(bytes_of(index, _LONGEST, error=CheckpointError), index)
        return [index.parent / name for name in dict.fromkeys(weight_map.values())]
    except CheckpointError:
        return []


def _weight_map(content: bytes, index: Path) -> dict[str, str]:
    try:
        read = json.loads(content, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise _unsound(index, escaped(error, 200)) from error
    found = read.get(WEIGHT_MAP) if isinstance(read, dict) else None
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

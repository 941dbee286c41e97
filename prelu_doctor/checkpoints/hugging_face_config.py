"""The `config.json` of a Hugging Face model, as plain values that cannot make transformers fetch or run anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped

LONGEST = 8 * 2**20
_DEEPEST = 50
_ALWAYS_FINE = 2**20
_MOST_LABELS = 2**16

# What makes transformers import code, patch its classes, or ask the hub for something; each with why it is refused.
_REFUSED = {
    "auto_map": "which is code that comes with the model",
    "custom_pipelines": "which is code that comes with the model",
    "quantization_config": "by which other packages pack and unpack the weights",
    "compression_config": "by which other packages pack and unpack the weights",
    "fusion_config": "which patches the classes of transformers",
    "kernel_config": "which fetches compiled code",
    "distributed_config": "which spreads the model over processes",
    "transformers_weights": "which names another file of weights",
    "backbone": "which names another model to fetch",
    "use_timm_backbone": "which names another model to fetch",
}
_OTHER_LIBRARIES = frozenset({"timm_backbone", "timm_wrapper"})
# How to compute, and where the model came from: not what the model is. An implementation may name code on the hub.
_LEFT_OUT = frozenset({"attn_implementation", "experts_implementation", "name_or_path", "transformers_version"})
_TYPES = frozenset({"dtype", "torch_dtype"})
_NAMES_OF_TYPES = frozenset({"float16", "bfloat16", "float32", "float64", "auto"})
_ANY_SIZE = frozenset({"rope_theta", "rope_local_base_freq", "seed", "total_flos"})


def plain_config(path: Path, content: bytes, *, most: int) -> dict[str, Any]:
    """The values of a `config.json`, without those that say how to compute instead of what.

    Args:
        path: The file, for messages.
        content: Its bytes.
        most: The largest whole number that makes sense: the bytes of the weights. A model of that many layers, labels
            or channels has more weights than the file.

    Raises:
        CheckpointError: Where it cannot be read, or something in it is refused.
    """
    config = _read(path, content)
    for key, value, depth in _walked(config):
        _check(path, key, value, depth, max(most, _ALWAYS_FINE))
    plain: dict[str, Any] = _plain(config)
    return plain


def _read(path: Path, content: bytes) -> dict[str, Any]:
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _unsound(path, escaped(error, 200)) from error
    if not isinstance(config, dict):
        raise _unsound(path, "not an object")
    return config


def _walked(config: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """Every value with the key that it stands under, also within lists, and how deep."""
    waiting: list[tuple[str, Any, int]] = [("", config, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        yield key, value, depth
        if isinstance(value, dict):
            waiting.extend((inner, entry, depth + 1) for inner, entry in value.items())
        elif isinstance(value, list):
            waiting.extend((key, entry, depth + 1) for entry in value)


def _check(path: Path, key: str, value: Any, depth: int, most: int) -> None:
    if key in _REFUSED and value:
        raise _refused(path, f"'{key}', {_REFUSED[key]}")
    if key == "model_type" and isinstance(value, str) and value in _OTHER_LIBRARIES:
        raise _refused(path, f"'{value}', which is a model of another library")
    if key in _TYPES and value is not None and not _is_type(value):
        raise _unsound(path, f"'{escaped(value)}' is not a floating type of weights")
    if depth > _DEEPEST:
        raise _unsound(path, "nested too deep")
    if isinstance(value, int) and abs(value) > most and key not in _ANY_SIZE:
        raise _unsound(path, f"'{escaped(key)}' is {escaped(value, 40)}, more than the weights have bytes ({most})")
    if key == "num_labels" and isinstance(value, int) and value > _MOST_LABELS:
        raise _unsound(path, f"'num_labels' is {escaped(value, 40)}, and transformers would name that many labels")


def _is_type(value: Any) -> bool:
    return isinstance(value, str) and value.removeprefix("torch.") in _NAMES_OF_TYPES


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        kept = {key: entry for key, entry in value.items() if not key.startswith("_") and key not in _LEFT_OUT}
        return {key: _plain(entry) for key, entry in kept.items() if key not in (*_TYPES, *_REFUSED)}
    return value


def _refused(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{escaped(path)}: refused, because it asks for {what}",
        "a model of a class of transformers, told by its configuration alone",
        "build the model in a function of your own, and pass it with --arch module:callable",
    )


def _unsound(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{escaped(path)}: not a sound configuration: {problem}",
        "a config.json as transformers writes it, with sizes that belong to the weights beside it",
        "copy or download the folder again, or pass --arch module:callable",
    )

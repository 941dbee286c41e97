"""The versions of classes that a state dict carries beside its tensors, by the path of the module."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def versions_of(state: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """The versions in a state dict; empty where it has none, as one out of a safetensors file.

    Args:
        state: Its attribute `_metadata` may be anything that a file holds.
    """
    metadata = getattr(state, "_metadata", None)
    if not isinstance(metadata, Mapping):
        return {}
    return {
        path: {"version": entry["version"]}
        for path, entry in metadata.items()
        if isinstance(path, str) and isinstance(entry, Mapping) and isinstance(entry.get("version"), int)
    }


def with_versions_of(
    source: Mapping[str, Any], state: Mapping[str, Tensor], renamed: Callable[[str], str | None] = str
) -> OrderedDict[str, Tensor]:
    """The weights with the versions that another state dict carries.

    Args:
        source: Carries the versions.
        state: The weights.
        renamed: What became of a module's path; None where it is no part of these weights.
    """
    result = OrderedDict(state)
    versions = ((renamed(path), entry) for path, entry in versions_of(source).items())
    result._metadata = {path: entry for path, entry in versions if path is not None}  # type: ignore[attr-defined]
    return result


def below(prefix: str) -> Callable[[str], str | None]:
    """What becomes of a module's path where weights lose the prefix, which ends with a dot."""

    def renamed(path: str) -> str | None:
        return path.removeprefix(prefix) if path.startswith(prefix) else "" if f"{path}." == prefix else None

    return renamed

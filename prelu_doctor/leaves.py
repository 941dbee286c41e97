"""What a forward returns, taken apart: tuples, mappings, dataclasses, nested as they come."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

PLAIN = (bool, int, float, complex, str, bytes, type(None))
"""Values that are compared by `==`."""

LeafPath = tuple[Any, ...]


def leaves_of(output: Any) -> Iterator[tuple[LeafPath, Any]]:
    """Every leaf of a forward's output with the path of keys to it, depth first.

    Takes tuples, lists, mappings, dataclasses, registered pytree nodes and objects that have attributes (caches, say)
    apart. What is none of them is a leaf: a tensor, a plain value, or an object that cannot be looked into.
    """
    return _walk(output, (), ())


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors among the leaves, in order."""
    return [leaf for _, leaf in leaves_of(output) if isinstance(leaf, Tensor)]


def opaque_leaf(output: Any) -> str:
    """The type of a leaf that cannot be looked into, or an empty string."""
    odd = (type(leaf).__name__ for _, leaf in leaves_of(output) if not isinstance(leaf, (Tensor, *PLAIN)))
    return next(odd, "")


def path_text(path: LeafPath) -> str:
    """(0, "mean") -> output_0_mean; () -> output."""
    steps = path if path and not isinstance(path[0], int) else ("output", *path)
    return "_".join(str(step) for step in steps)


def _walk(value: Any, path: LeafPath, inside: tuple[int, ...]) -> Iterator[tuple[LeafPath, Any]]:
    if id(value) in inside:  # an object may hold itself, and is being taken apart
        return
    children = _children(value)
    if children is None:
        yield path, value
        return
    for key, child in children:
        yield from _walk(child, (*path, key), (*inside, id(value)))


def _children(value: Any) -> list[tuple[Any, Any]] | None:
    """Keys and values of a container; None for a leaf."""
    if isinstance(value, (Tensor, *PLAIN)):
        return None
    if isinstance(value, Mapping):
        return list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    leaves = pytree.tree_leaves(value)
    if len(leaves) != 1 or leaves[0] is not value:
        return list(enumerate(leaves))
    return _attributes(value)


def _attributes(value: Any) -> list[tuple[str, Any]] | None:
    """The tensors and containers that a plain object holds; None for what does something rather than hold something."""
    if callable(value) or isinstance(value, type | ModuleType) or not hasattr(value, "__dict__"):
        return None
    passive = (torch.dtype, torch.device, *PLAIN)  # how the object does its work, and nothing that anybody computes
    held = {name: held for name, held in vars(value).items() if not callable(held) and not isinstance(held, passive)}
    return list(held.items()) or None

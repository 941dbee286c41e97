"""Looks a TorchScript program through: its code before torch compiles it, its graphs before they run.

The code in an archive is written in a subset of Python. Loading it runs its `__setstate__` methods, so that the code
has to be known before; the graphs are what the compiler made of it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from prelu_doctor.checkpoints.program_archives import UnsafeProgramError
from prelu_doctor.checkpoints.program_operators import is_forbidden

NAMESPACES = frozenset({"aten", "prim", "quantized", "torchvision", "profiler"})
"""Of operators that come with torch and torchvision and compute with tensors and numbers, or take times."""
_OBJECTS = frozenset({"quantized", "profiler"})
"""Namespaces of classes written in C++ whose objects hold packed weights or a time."""
_CLASS = re.compile(rb"torch\.classes\.(\w+)")
_ROOTS = ("ops", "torch")
_LONGEST = 2**21
"""Most bytes of code: to look it through takes a few kilobytes of memory a line. A large network has a tenth of it."""


def check_code(sources: Mapping[str, bytes], pickles: Mapping[str, bytes]) -> None:
    """Raises unless the code of an archive does nothing but compute.

    Args:
        sources: Every `.py` record by name.
        pickles: Every `.pkl` record by name; torch's own reader builds tensors and the archive's classes from them.

    Raises:
        UnsafeProgramError: It asks for a file, for an operator or a class from elsewhere, or cannot be read.
    """
    for name, data in pickles.items():
        for space in _CLASS.findall(data):
            _check_object(space.decode(), name)
    if sum(map(len, sources.values())) > _LONGEST:
        raise UnsafeProgramError(f"its code is longer than {_LONGEST} bytes, too long to be looked through")
    for name, source in sources.items():
        for reason in _reasons(name, source):
            raise UnsafeProgramError(f"{name} {reason}")


def check_graphs(graphs: Iterable[Any]) -> None:
    """Raises unless the nodes of compiled graphs do nothing but compute.

    Args:
        graphs: Inlined `torch._C.Graph`s.

    Raises:
        UnsafeProgramError: A node is an operator that is not known to be harmless.
    """
    for graph in graphs:
        for node in nodes_of(graph):
            space, _, name = node.kind().partition("::")
            if space not in NAMESPACES or is_forbidden(name):
                raise UnsafeProgramError(f"its graph calls {node.kind()}")


def nodes_of(block: Any) -> Iterator[Any]:
    """Every node of a graph or block, those of inner blocks behind the node that has them."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from nodes_of(inner)
        for attribute in node.attributeNames():
            if node.kindOf(attribute) == "g":
                yield from nodes_of(node.g(attribute))


def _check_object(space: str, name: str) -> None:
    if space not in _OBJECTS:
        raise UnsafeProgramError(f"{name} holds an object of torch.classes.{space}, which is code of its own")


def _reasons(name: str, source: bytes) -> Iterator[str]:
    """Why a piece of code is not let through."""
    if not source.isascii() or b"\0" in source:
        yield "is no plain text"
        return
    try:
        tree = ast.parse(source.decode())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnsafeProgramError(f"{name} cannot be read as code") from error
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_forbidden(node.attr):
            yield f"calls {node.attr}, as in {ast.unparse(node)[:80]}"
        elif isinstance(node, ast.Name):
            yield from _about_name(node, parents)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            yield from _about_getattr(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (f"imports {alias.name[:80]}" for alias in node.names if not alias.name.startswith("__torch__"))


def _about_name(node: ast.Name, parents: Mapping[ast.AST, ast.AST]) -> Iterator[str]:
    if is_forbidden(node.id):
        yield f"calls {node.id}"
    if node.id not in (*_ROOTS, "__torch__"):
        return
    chain, top = [node.id], node  # type: tuple[list[str], ast.AST]
    while isinstance(parents.get(top), ast.Attribute):
        top = parents[top]
        chain.append(top.attr)  # type: ignore[attr-defined]
    called = isinstance(parents.get(top), ast.Call) and parents[top].func is top  # type: ignore[attr-defined]
    if chain[:3] == ["__torch__", "torch", "classes"]:
        if chain[3:4] and chain[3] not in _OBJECTS:
            yield f"uses the class {'.'.join(chain[1:])[:80]}, which is code of its own"
    elif node.id == "ops" and (len(chain) != 3 or not called):
        yield f"takes {'.'.join(chain)[:80]} for a value"
    elif node.id == "ops" and chain[1] not in NAMESPACES:
        yield f"calls the custom operator {chain[1]}::{chain[2]}"[:120]
    elif node.id == "torch" and (len(chain) != 2 or not called):
        yield f"takes {'.'.join(chain)[:80]} for a value"


def _about_getattr(node: ast.Call) -> Iterator[str]:
    name = node.args[1] if len(node.args) > 1 else None
    if not isinstance(name, ast.Constant) or not isinstance(name.value, str) or is_forbidden(name.value):
        yield f"takes a part by its name, as in {ast.unparse(node)[:80]}"


def inlined_graphs(module: torch.jit.ScriptModule, methods: Iterable[str]) -> list[Any]:
    """The graph of each method with everything that it calls inside it."""
    return [module._c._get_method(name).inlined_graph for name in methods]

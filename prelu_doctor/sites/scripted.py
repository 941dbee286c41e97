"""TorchScript: the modules that its calls stand in, read off its graphs.

TorchScript runs the modules inside it without calling them through Python, so that no hook sees them. Its graphs tell
which method calls which: where no loop or branch makes the number of calls a matter of the data, the k-th call of an
operation in a run is the k-th of its nodes.
"""

from __future__ import annotations

import re
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import torch

from prelu_doctor.sites.whereabouts import Whereabouts, source_line, stack_of

_OPS = frozenset(
    """
    relu relu6 prelu clamp clip clamp_min hardtanh threshold leaky_relu rrelu gelu silu hardswish rnn_relu rnn_relu_cell
    """.split()
)
_PLACE = re.compile(r'(?:File "([^"\n]*)", line (\d+))|(?:^\s*(\S+?)\((\d+)\): )', re.MULTILINE)
_OWN = re.compile(r"(\.?(UNKNOWN_INSTANCE\(UNKNOWN_TYPE\)|SELF\([^)]*\)))*")
_MANGLED = re.compile(r"\.___torch_mangle_\d+")


_Places = dict[str, list[Whereabouts | None]]
_KNOWN: weakref.WeakKeyDictionary[Any, _Places | None] = weakref.WeakKeyDictionary()
"""What was read off the graphs of a module, which never change."""


class ScriptedProgram:
    """Where the calls of one run of a TorchScript method stand.

    Args:
        places: By operation, where its calls stand, in order.
    """

    def __init__(self, places: _Places) -> None:
        self._places = places
        self._seen: Counter[str] = Counter()

    @classmethod
    def of(cls, module: Any) -> ScriptedProgram | None:
        """The program that a module is; None where it is none, or its graphs do not tell."""
        if not isinstance(module, torch.jit.ScriptModule):
            return None
        if module not in _KNOWN:
            _KNOWN[module] = _places_in(module)
        places = _KNOWN[module]
        return None if places is None else cls(places)

    def next(self, op: str) -> Whereabouts | None:
        """Where the next call of an operation stands; None where it cannot be told.

        Args:
            op: Name of the operation, in place or not.
        """
        plain = op.removesuffix("_")
        places = self._places.get(plain, [])
        self._seen[plain] += 1
        return places[self._seen[plain] - 1] if self._seen[plain] <= len(places) else None

    def counts(self, op: str) -> bool:
        """True for an operation whose calls are numbered."""
        return op.removesuffix("_") in _OPS


def _places_in(module: Any) -> _Places | None:
    try:
        found = _Walk().calls(module, vars(type(module)).get("_method", "forward"), (), ())
    except (RuntimeError, AttributeError, KeyError, _Unknown):
        return None
    places: _Places = defaultdict(list)
    for op, where in found:
        places[op].append(where)
    return places


class _Unknown(Exception):
    """A loop or a branch decides how many calls there are."""


_Calls = list[tuple[str, Whereabouts | None]]
_Stack = tuple[tuple[str, str], ...]


class _Walk:
    """Follows a method through the methods that it calls."""

    def __init__(self) -> None:
        self._number = 0

    def calls(self, module: Any, method: str, stack: _Stack, callers: tuple[str, ...]) -> _Calls:
        """The activation calls of a run, in order.

        Args:
            module: The scripted module.
            method: Which of its methods runs.
            stack: The calls of modules that led to it.
            callers: Source ranges of these calls, the innermost first.
        """
        compiled = module._c._get_method(method)
        inlined = compiled.inlined_graph.copy()
        torch._C._jit_pass_constant_propagation(inlined)
        every = list(_activations(inlined))
        if any(nested for _, nested in every):
            raise _Unknown
        nodes = [node for node, _ in every]
        found: _Calls = []
        carriers: list[str] = []
        kind = _MANGLED.sub("", str(module._c._type().str()).removeprefix("__torch__."))

        def own(until: int) -> None:
            """Takes the calls that the method itself makes, or functions for it."""
            mine = nodes[len(found) : until]
            sources = carriers if len(carriers) == len(mine) else [""] * len(mine)
            known = stack_of(stack, kind)
            for node, source in zip(mine, sources, strict=True):
                if not _OWN.fullmatch(node.getModuleHierarchy()):
                    raise _Unknown
                ranges = [node.sourceRange(), source, *callers]
                places = [place for text in ranges for place in _places(text)]
                found.append((_op(node), known and Whereabouts(*known, source_line(places))))
            carriers.clear()

        graph = compiled.graph.copy()
        torch._C._jit_pass_constant_propagation(graph)
        for node in graph.nodes():
            if node.kind() == "prim::CallMethod" and (path := _path(node.inputsAt(0))) is not None:
                child = dict(module.named_modules(remove_duplicate=False))[path]
                before = len(found)
                self._number += 1
                full = ".".join(part for part in (stack[-1][1] if stack else "", path) if part)
                inner = (*stack, (str(self._number), full)) if path else stack
                theirs = self.calls(child, node.s("name"), inner, (node.sourceRange(), *callers))
                if theirs:
                    own(before + _until_child(nodes[before:], path))
                    found += theirs
            elif node.kind() == "prim::CallFunction" or _op(node) in _OPS:
                if node.kind() != "prim::CallFunction" or _is_activation_function(node):
                    carriers.append(node.sourceRange())
        own(len(nodes))
        if [op for op, _ in found] != [_op(node) for node in nodes]:
            raise _Unknown
        return found


def _until_child(nodes: list[Any], path: str) -> int:
    """How many nodes come before the first that stands inside a child, or inside another method."""
    if not path:
        return next((k for k, node in enumerate(nodes) if "SELF" in node.getModuleHierarchy()), 0)
    inside = re.compile(
        "".join(rf"{re.escape(part)}\([^)]*\)\." for part in path.split(".")).removesuffix(r"\.") + r"(\.|$)"
    )
    return next((k for k, node in enumerate(nodes) if inside.match(node.getModuleHierarchy())), len(nodes))


def _activations(block: Any, *, nested: bool = False) -> Iterator[tuple[Any, bool]]:
    for node in block.nodes():
        if _op(node) in _OPS:
            yield node, nested
        for inner in node.blocks():
            yield from _activations(inner, nested=True)


def _op(node: Any) -> str:
    space, _, name = node.kind().partition("::")
    return name.removesuffix("_") if space == "aten" else ""


def _path(value: Any) -> str | None:
    """The path of a submodule from the method's own module; None where it is none."""
    names: list[str] = []
    node = value.node()
    while node.kind() == "prim::GetAttr":
        names.append(node.s("name"))
        node = node.inputsAt(0).node()
    return ".".join(reversed(names)) if node.kind() == "prim::Param" else None


def _is_activation_function(node: Any) -> bool:
    function = node.inputsAt(0).node()
    return function.hasAttribute("name") and function.s("name").removesuffix("_") in _OPS


def _places(text: str) -> list[tuple[str, int]]:
    original = text.partition("Serialized")[0]
    return [(one or other, int(line or number)) for one, line, other, number in _PLACE.findall(original)]

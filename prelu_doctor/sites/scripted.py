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
    linear matmul mm addmm bmm _convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    convolution batch_norm layer_norm group_norm instance_norm
    """.split()
)
"""Activations and layers: the owner of a layer is what it is called by where its weights are computed."""
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
    method = vars(type(module)).get("_method", "forward")
    try:
        every = _activations(_folded(module._c._get_method(method).inlined_graph))
        found = _Walk({_op(node) for node, nested in every if nested}).calls(module, method)
    except (RuntimeError, AttributeError, _UnknownError):
        return None
    places: _Places = defaultdict(list)
    for op, where in found:
        places[op].append(where)
    return places


def _folded(graph: Any) -> Any:
    """A copy of a graph as it runs in eval mode, without branches that constants decide."""
    copied = graph.copy()
    with_flags = [node for node in copied.findAllNodes("prim::GetAttr") if node.s("name") == "training"]
    for node in with_flags:
        copied.setInsertPoint(next(iter(copied.nodes())))
        node.output().replaceAllUsesWith(copied.insertConstant(False))
    torch._C._jit_pass_constant_propagation(copied)
    return copied


class _UnknownError(Exception):
    """The graphs do not tell which call is whose."""


_Calls = list[tuple[str, Whereabouts | None]]
_Stack = tuple[tuple[str, str], ...]
_Given = tuple[tuple[Any, str] | None, ...]


class _Walk:
    """Follows a method through the methods that it calls.

    Args:
        untold: Operations that a loop or a branch calls.
    """

    def __init__(self, untold: set[str]) -> None:
        self._number = 0
        self._ops = _OPS - untold

    def calls(
        self, module: Any, method: str, stack: _Stack = (), callers: tuple[str, ...] = (), given: _Given = ()
    ) -> _Calls:
        """The calls of a run, in order.

        Args:
            module: The scripted module.
            method: Which of its methods runs.
            stack: The calls of modules that led to it.
            callers: Source ranges of these calls, the innermost first.
            given: The module and its path for each argument of the method that is one, None for others.
        """
        compiled = module._c._get_method(method)
        nodes = [node for node, _ in _activations(_folded(compiled.inlined_graph)) if _op(node) in self._ops]
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
                    raise _UnknownError
                ranges = [node.sourceRange(), source, *callers]
                places = [place for text in ranges for place in _places(text)]
                found.append((_op(node), known and Whereabouts(*known, source_line(places))))
            carriers.clear()

        graph = _folded(compiled.graph)
        me = (module, stack[-1][1] if stack else "")
        modules = dict(zip((value.unique() for value in graph.inputs()), (me, *given), strict=False))
        for node in graph.nodes():
            if node.kind() == "prim::CallMethod" and (called := _module(node.inputsAt(0), modules)) is not None:
                child, path = called
                self._number += 1
                inner = stack if child is module else (*stack, (str(self._number), path))
                passed = tuple(_module(value, modules) for value in list(node.inputs())[1:])
                theirs = self.calls(child, node.s("name"), inner, (node.sourceRange(), *callers), passed)
                if theirs:
                    before = len(found)
                    own(before + _until_child(nodes[before:], "" if child is module else path.rpartition(".")[2]))
                    found += theirs
            elif _op(node) in self._ops or (node.kind() == "prim::CallFunction" and _is_activation_function(node)):
                carriers.append(node.sourceRange())
        own(len(nodes))
        if [op for op, _ in found] != [_op(node) for node in nodes]:
            raise _UnknownError
        return found


def _until_child(nodes: list[Any], name: str) -> int:
    """How many nodes come before the first that stands inside a child, or inside another method."""
    inside = re.compile(rf"({re.escape(name)}|INSTANCE_NAME_UNKNOWN)\(" if name else r"SELF\(")
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


def _module(value: Any, modules: dict[int, tuple[Any, str] | None]) -> tuple[Any, str] | None:
    """The module that a value is, and its path; None where it is none."""
    names: list[str] = []
    while value.node().kind() == "prim::GetAttr":
        names.append(value.node().s("name"))
        value = value.node().inputsAt(0)
    root = modules.get(value.unique()) if value.node().kind() == "prim::Param" else None
    if root is None:
        return None
    module, path = root
    for name in reversed(names):
        module = _children(module).get(name)
        if module is None:
            return None
        path = f"{path}.{name}" if path else name
    return module, path


def _children(module: Any) -> dict[str, Any]:
    """Its children by name, one that is there twice under each."""
    return dict(module._modules.items())


def _is_activation_function(node: Any) -> bool:
    function = node.inputsAt(0).node()
    return function.hasAttribute("name") and function.s("name").removesuffix("_") in _OPS


def _places(text: str) -> list[tuple[str, int]]:
    original = text.partition("Serialized")[0]
    return [(one or other, int(line or number)) for one, line, other, number in _PLACE.findall(original)]

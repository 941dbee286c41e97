"""Exported programs: the node that is running, and where it stood in the modules that were exported."""

from __future__ import annotations

import re
from types import FrameType
from typing import Any

from torch import fx, nn

from prelu_doctor.sites.whereabouts import Whereabouts, source_line, stack_of

_FRAME = re.compile(r'File "([^"\n]*)", line (\d+)')


class FlattenedProgram:
    """A graph module whose nodes tell the modules that they came from.

    Args:
        module: The graph module.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self._code = type(module).forward.__code__
        self._nodes = list(module.graph.nodes)
        self._indices = getattr(module, "_lineno_map", None) or {}
        self._known: dict[int, Whereabouts | None] = {}

    @classmethod
    def of(cls, module: nn.Module | None) -> FlattenedProgram | None:
        """The program that a module is; None where it is none."""
        if not isinstance(module, fx.GraphModule) or not any(map(_stack, module.graph.nodes)):
            return None
        return cls(module)

    def running(self, frame: FrameType | None) -> Whereabouts | None:
        """Where the node stood that is running, told by the line of the generated code.

        Args:
            frame: The innermost frame.
        """
        while frame is not None and frame.f_code is not self._code:
            frame = frame.f_back
        if frame is None:
            return None
        index = self._indices.get(frame.f_lineno - frame.f_code.co_firstlineno)
        if index is None:
            return None
        if index not in self._known:
            self._known[index] = whereabouts_of(self._nodes[index])
        return self._known[index]


def whereabouts_of(node: fx.Node) -> Whereabouts | None:
    """Where a node of an exported graph stood; None where it does not tell."""
    entries = _stack(node)
    if not entries:
        return None
    calls = [(str(key), str(path)) for key, (path, _) in entries[1:]]
    kind = entries[-1][1][1]
    found = stack_of(calls, kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}")
    if found is None:
        return None
    places = [(file, int(line)) for file, line in _FRAME.findall(str(node.meta.get("stack_trace", "")))]
    return Whereabouts(*found, source_line(places[::-1]))


def _stack(node: fx.Node) -> list[tuple[str, tuple[str, Any]]]:
    """The node's module calls, the root first; empty where it was not exported."""
    stack = node.meta.get("nn_module_stack")
    entries = list(stack.items()) if isinstance(stack, dict) else []
    sound = all(isinstance(entry, tuple) and len(entry) == 2 for _, entry in entries)
    return entries if entries and sound and entries[0][1][0] == "" else []

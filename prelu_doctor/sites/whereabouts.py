"""Where a call stood in the modules that a program was made of, before one forward took in the calls of all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from prelu_doctor.escaping import escaped, is_plain_name

ACTIVATIONS = frozenset(
    {"ReLU", "ReLU6", "Hardtanh", "Threshold", "LeakyReLU", "RReLU", "PReLU", "AxisPReLU", "GELU", "SiLU", "Hardswish"}
)
"""Classes of torch.nn, and of this package, whose call is an activation call."""


@dataclass(frozen=True)
class Whereabouts:
    """Where one call stood.

    Attributes:
        stack: The calls of modules that led to it, from the root's children inwards: what tells a call from another
            call of the same module, and the module's path.
        by_module: True where the innermost of them was the activation's own module.
        source: File name and line.
    """

    stack: tuple[tuple[str, str], ...]
    by_module: bool
    source: str


@dataclass
class _Run:
    path: str
    call_path: tuple[str, ...]
    calls: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Name:
    """What a call is called, in the fields of a `Position`."""

    path: tuple[str, ...]
    owner: str
    module: str | None
    ordinal: int


class Naming:
    """Names the calls of one run as they would be named, had every module run its own forward.

    Args:
        path: Path of the program in the model.
        call_path: The run of its forward.
    """

    def __init__(self, path: str, call_path: tuple[str, ...]) -> None:
        self._path = path
        self._runs: dict[tuple[str, ...], _Run] = {(): _Run(path, call_path)}

    def name(self, where: Whereabouts, function: str) -> Name:
        """The name of the next call.

        Args:
            where: Where it stood.
            function: Its canonical name.
        """
        runs = [self._runs[()]]
        for depth, (_, path) in enumerate(where.stack):
            runs.append(self._run(tuple(key for key, _ in where.stack[: depth + 1]), self._inside(path), runs[-1]))
        run = runs[-1]
        if where.by_module:
            caller = runs[-2]
            return Name(run.call_path, caller.path, run.path, caller.calls[run.path])
        name = f":{function}"
        run.calls[name] += 1
        return Name((*run.call_path, f"{name}#{run.calls[name]}"), run.path, None, run.calls[name])

    def owner(self, where: Whereabouts) -> str:
        """Path of the module whose forward made a call."""
        return self._inside(where.stack[-1][1]) if where.stack else self._path

    def _run(self, key: tuple[str, ...], path: str, caller: _Run) -> _Run:
        if key not in self._runs:
            caller.calls[path] += 1
            self._runs[key] = _Run(path, (*caller.call_path, f"{path}#{caller.calls[path]}"))
        return self._runs[key]

    def _inside(self, path: str) -> str:
        return f"{self._path}.{path}" if self._path else path


def stack_of(calls: Sequence[tuple[str, str]], kind: str) -> tuple[tuple[tuple[str, str], ...], bool] | None:
    """The stack and whether its last call is an activation module's; None where a file says what no module is called.

    Args:
        calls: As in `Whereabouts.stack`.
        kind: Full name of the class of the innermost module.
    """
    if not all(path and is_plain_name(path) for _, path in calls):
        return None
    home, _, name = kind.rpartition(".")
    known = name in ACTIVATIONS and home.startswith(("torch.nn.modules.", "prelu_doctor.treatment."))
    return tuple(calls), bool(calls) and known


def source_line(places: Sequence[tuple[str, int]]) -> str:
    """File name and line of the innermost place that is not torch's.

    Args:
        places: File and line of each frame, the innermost first.
    """
    users = [(file, line) for file, line in places if not _OF_TORCH.search(file)]
    container = [(file, line) for file, line in places if re.split(r"[\\/]", file)[-1] == "container.py"]
    for file, line in (*users[:1], *container[:1]):
        name = re.split(r"[\\/]", file)[-1]
        return f"{escaped(name)}:{line}"
    return "unknown"


_OF_TORCH = re.compile(
    r"((-packages|lib)[\\/]|^)(torch|prelu_doctor)[\\/]|^<|[\\/]torch[\\/]nn[\\/]|[\\/]prelu_doctor[\\/]treatment[\\/]"
)

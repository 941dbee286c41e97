"""TorchScript archives, opened once their code was looked through."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prelu_doctor.checkpoints.contents import Contents
from prelu_doctor.checkpoints.program_archives import ProgramArchive, UnsafeProgramError, damage
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.checkpoints.torchscript_checks import check_code, check_graphs, inlined_graphs, nodes_of
from prelu_doctor.errors import CheckpointError, UsageError
from prelu_doctor.escaping import escaped, listed


def read_torchscript(path: Path, reading: Reading) -> Contents:
    """The module in a TorchScript archive, on the CPU; calling it runs the method that was asked for.

    Args:
        path: The file.
        reading: Its `method` is run instead of `forward`; with its `trust` nothing is looked through.

    Raises:
        CheckpointError: The file is damaged, or its code asks for more than arithmetic.
        UsageError: It has no such method.
    """
    archive = ProgramArchive.of(path)
    try:
        if not reading.trust:
            check_code(*(_records(archive, ending) for ending in (".py", ".pkl")))
        module = _loaded(archive)
        methods = list(module._c._method_names())
        if not reading.trust:
            check_graphs(inlined_graphs(module, methods))
    except UnsafeProgramError as error:
        raise CheckpointError(
            f"{escaped(path)}: refused, because {escaped(error, 300)}",
            "TorchScript of torch's own operators that touches no file",
            "--trust, if you made the file yourself; or pass the class, --arch module:callable, and the weights alone",
        ) from error
    module = running(module, reading.method or "forward", name=escaped(path))
    return Contents(module=module, note=_note(module))


def running(module: torch.jit.ScriptModule, method: str, *, name: str = "the model") -> torch.jit.ScriptModule:
    """The module, whose call runs a method, prints nothing, and leaves its attributes as they were.

    Args:
        module: Changed in place.
        method: Of its methods one that was compiled.
        name: Of the module, for messages.

    Raises:
        UsageError: It has no such method.
    """
    methods = list(module._c._method_names())
    if method not in methods:
        raise _unknown(name, methods, method)
    nodes = list(nodes_of(*inlined_graphs(module, [method])))
    attributes = _plain_attributes(nodes)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _silence(), _as_before(self, attributes):
            return self._c._get_method(method)(*args, **kwargs)

    plain = type(module)
    constants = list(_constants(module._c._get_method(method).graph))

    def named_buffers(self: Any, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        yield from plain.named_buffers(self, *args, **kwargs)
        yield from constants  # of a frozen program, whose weights have no names

    members = {
        "forward": forward,
        "named_buffers": named_buffers,
        "_method": method,
        "_changes": _changes(nodes),
        "__module__": plain.__module__,
    }
    module.__class__ = type(plain.__name__, (plain,), members)
    return module


def _constants(graph: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a graph holds, named after the first operation that reads them, as `conv2d_1.weight`."""
    numbers: Counter[str] = Counter()
    named: set[int] = set()
    for node in nodes_of(graph):
        space, _, op = node.kind().partition("::")
        if space != "aten":
            continue
        numbers[op] += 1
        arguments = torch._C.parse_schema(node.schema()).arguments
        for argument, value in zip(arguments, node.inputs(), strict=False):
            maker = value.node()
            if maker.kind() != "prim::Constant" or not maker.hasAttribute("value") or maker.kindOf("value") != "t":
                continue
            if value.unique() not in named:
                named.add(value.unique())
                yield f"{op}_{numbers[op]}.{argument.name}", maker.t("value")


def _note(module: Any) -> str:
    changed = module._changes
    return f"it sets {listed(changed, 5)} when it runs: every batch starts from what the file holds" if changed else ""


def _changes(nodes: Iterable[Any]) -> list[str]:
    return sorted({node.s("name") for node in nodes if node.kind() == "prim::SetAttr"})


def _plain_attributes(nodes: Iterable[Any]) -> frozenset[str]:
    """Names of the attributes that a graph reads or sets, but for modules and objects."""
    read = {node.s("name"): node.output().type() for node in nodes if node.kind() == "prim::GetAttr"}
    return frozenset(name for name, kind in read.items() if kind.kind() != "ClassType") | {
        node.s("name") for node in nodes if node.kind() == "prim::SetAttr"
    }


def _records(archive: ProgramArchive, ending: str) -> dict[str, bytes]:
    return {name: archive.read(name) for name in archive.names if name.casefold().endswith(ending)}


def _loaded(archive: ProgramArchive) -> torch.jit.ScriptModule:
    with _silence():
        try:
            return torch.jit.load(io.BytesIO(archive.content), map_location="cpu")
        except Exception as error:
            raise damage(archive.path, error) from error


def _unknown(name: str, methods: list[str], method: str) -> UsageError:
    public = [other for other in methods if not other.startswith("_")]
    return UsageError(
        f"{name} has no method '{escaped(method)}'",
        f"one of {listed(public)}" if public else "a method that can be run",
        f"--method {escaped(public[0])}" if public else "",
    )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps what a program prints or warns off the streams: torch writes both through Python."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _as_before(module: torch.jit.ScriptModule, names: frozenset[str]) -> Iterator[None]:
    """Puts back what a program sets on its modules; parameters and buffers are the caller's care."""
    before = [(part, name, value) for part in module.modules() for name, value in _values(part, names)]
    try:
        yield
    finally:
        for part, name, value in before:
            part._c.setattr(name, value)


def _values(part: Any, names: frozenset[str]) -> Iterator[tuple[str, Any]]:
    kept = {name for name, _ in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))}
    for name in names - kept:
        if part._c.hasattr(name) and not isinstance(part._c.getattr(name), torch.ScriptObject):
            yield name, copy.deepcopy(part._c.getattr(name))

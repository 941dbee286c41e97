"""TorchScript archives, opened once their code was looked through."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import itertools
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prelu_doctor.checkpoints.contents import Contents
from prelu_doctor.checkpoints.program_archives import ProgramArchive, UnsafeProgramError, damage
from prelu_doctor.checkpoints.program_devices import rename_device
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
            records = _records(archive)
            check_code(*({name: records[name] for name in records if name.endswith(end)} for end in (".py", ".pkl")))
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
        # Unoptimised, it runs the same operations every time, none of them fused.
        with _silence(), _as_before(self, attributes), _unoptimised():
            try:
                return self._c._get_method(method)(*args, **kwargs)
            except (RuntimeError, torch.jit.Error) as error:
                raise RuntimeError(_told(error)) from error

    plain = type(module)

    @functools.cache
    def constants() -> list[tuple[str, Tensor]]:
        """Weights of a frozen program, which have no names; asked for once it lies where it runs."""
        return list(_constants(module._c._get_method(method).graph))

    def named_buffers(self: Any, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        yield from plain.named_buffers(self, *args, **kwargs)
        yield from constants()

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


def _told(error: Exception) -> str:
    """What went wrong, without the listing of the program's code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "Error: " in line), lines[-1] if lines else "no message")
    pointed = next((before for before, line in itertools.pairwise(lines) if line.endswith("~ <--- HERE")), "")
    said += f" at {pointed}" if said.endswith(":") and pointed else ""
    return f"{said} (what was traced may keep the batch size that it was traced with)"


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


def _records(archive: ProgramArchive) -> dict[str, bytes]:
    """The records of code and pickles by name in lower case, as the reader sees them that will load them."""
    found: dict[str, bytes] = {}
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(archive.content))
        for name in reader.get_all_records():
            folded = name.casefold()
            if folded in found:
                raise UnsafeProgramError(f"two of its records are called '{name}'")
            if folded.endswith((".py", ".pkl")):
                found[folded] = reader.get_record(name)
    except RuntimeError as error:
        raise damage(archive.path, error) from error
    return found


def _loaded(archive: ProgramArchive) -> torch.jit.ScriptModule:
    with _silence():
        try:
            module: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(archive.content), map_location="cpu")
            rename_device(module, torch.device("cpu"))
            return module
        except Exception as error:
            raise damage(archive.path, error) from error


def _unknown(name: str, methods: list[str], method: str) -> UsageError:
    public = [other for other in methods if not other.startswith("_")]
    return UsageError(
        f"{name} has no method '{escaped(method)}'",
        f"one of {listed(public)}" if public else "a method that can be run",
        f"--method {escaped(public[0])}" if public else "",
    )


def _unoptimised() -> contextlib.AbstractContextManager[None]:
    unoptimised: contextlib.AbstractContextManager[None] = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
    return unoptimised


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps what a program prints or warns off the streams: torch writes both through Python."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _as_before(module: torch.jit.ScriptModule, names: frozenset[str]) -> Iterator[None]:
    """Puts back what a program sets on its modules; parameters and buffers are the caller's care.

    A transformer layer is told meanwhile that its activation has no fused kernel, which would hide it.
    """
    parts: list[Any] = list(module.modules())
    before = [(part, name, _Kept(part._c.getattr(name))) for part in parts for name in _names(part, names)]
    try:
        for part, name, _ in before:
            if name == "activation_relu_or_gelu":
                _set(part, name, 0)
        yield
    finally:
        for part, name, kept in before:
            _set(part, name, kept.restored())


class _Kept:
    """A value as it was: tensors keep their identity, by which weights are known, and get their numbers back."""

    def __init__(self, value: Any) -> None:
        self._value: Any = copy.copy(value) if isinstance(value, list | dict) else value
        self._numbers = value.detach().clone() if isinstance(value, Tensor) else None

    def restored(self) -> Any:
        if self._numbers is not None and not torch.equal(self._value, self._numbers):
            with torch.no_grad():
                self._value.copy_(self._numbers)
        return self._value


def _set(part: Any, name: str, value: Any) -> None:
    with contextlib.suppress(RuntimeError):  # a constant, which nothing changes
        part._c.setattr(name, value)


def _names(part: Any, names: frozenset[str]) -> list[str]:
    tensors = {name for name, _ in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))}
    plain = (name for name in sorted(names - tensors) if part._c.hasattr(name))
    return [name for name in plain if not isinstance(part._c.getattr(name), torch.ScriptObject)]

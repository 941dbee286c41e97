"""Where in the code a call stands: told the same way when the model is traced and when the converted one runs."""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from prelu_doctor.sites.activations import is_activation_module

_TORCH = str(Path(torch.__file__).parent) + os.sep
_LAYERS = str(Path(_TORCH, "nn", "modules")) + os.sep
_OURS = str(Path(__file__).parents[1]) + os.sep
_STDLIB = str(Path(sysconfig.get_path("stdlib"))) + os.sep
_ELSEWHERE = tuple(str(Path(_TORCH, *part)) for part in (("utils", "checkpoint.py"), ("_functorch",)))
"""What runs a function of the user's in a way of its own: again in backward, or over other shapes."""
_CALL = nn.Module._call_impl.__code__
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>")


ENTRIES: set[CodeType] = {_CALL}
"""Functions that run the forward of the module that they call `self`."""

OPAQUE: set[CodeType] = set()
"""Functions behind which no call belongs to a forward of the user's."""


def located(frame: FrameType | None) -> tuple[nn.Module | None, str]:
    """The module whose forward leads to a frame without another module's in between, and the way there.

    An activation module at the end of the way counts as a function. Torch's own plumbing is left out, so that the way
    does not depend on how deep inside torch somebody looks.

    Args:
        frame: The innermost frame.

    Returns:
        The module and the way from its forward to the call: `forward@1f2e3d4c+3:8>helper@...+1:15`, each step a
        function, a digest of its source, and the line and column in it. No way, where it cannot be told again: a hook
        makes the call, `torch.utils.checkpoint`, `torch.vmap` or an `autograd.Function` does, or Python keeps no
        columns. No module either, where no module's forward is running.
    """
    steps: list[str] = []
    tellable = True
    outermost: CodeType | None = None
    inside: tuple[int, int] | None = None  # line of the file and column inside a comprehension
    while frame is not None:
        code = frame.f_code
        if code in OPAQUE:
            return None, ""
        if code in ENTRIES:
            module = frame.f_locals["self"]
            if steps or not is_activation_module(module):
                tellable = tellable and outermost in _codes_of(module)
                return module, ">".join(reversed(steps)) if tellable else ""
        elif not _is_plumbing(code.co_filename):
            place = inside or _place(code, frame.f_lasti)
            inside = None
            tellable = tellable and place[1] >= 0 and not _has_own_gradient(frame)
            if code.co_name in _COMPREHENSIONS:
                inside = place  # from Python 3.12 on a comprehension has no frame of its own
            else:
                steps.append(f"{code.co_qualname}@{_digest(code)}+{place[0] - code.co_firstlineno}:{place[1]}")
                outermost = code
        elif code.co_filename.startswith(_ELSEWHERE):
            tellable = False
        frame = frame.f_back
    return None, ""


def functions_of(location: str) -> list[str]:
    """The functions on the way, each with the digest of its source."""
    return [step.partition("+")[0] for step in location.split(">")]


def names_of(location: str) -> list[str]:
    """The names of the functions on the way."""
    return [step.partition("@")[0] for step in location.split(">")]


def user_line(frame: FrameType | None, entry: CodeType) -> str:
    """File name and line of the nearest frame that is the user's; torch's container where that makes the call.

    Args:
        frame: The innermost frame.
        entry: The function that runs the model: what calls it is none of the model's source.
    """
    container = "unknown"
    while frame is not None and frame.f_code is not entry:
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _OURS, "<")):
            return f"{Path(file).name}:{frame.f_lineno}"
        if container == "unknown" and Path(file).name == "container.py":
            container = f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return container


def _is_plumbing(file: str) -> bool:
    if file.startswith(_LAYERS):
        return file.endswith(("module.py", "activation.py"))
    in_stdlib = file.startswith(_STDLIB) and "-packages" not in file
    return in_stdlib or file.startswith((_TORCH, _OURS, "<frozen"))


def _has_own_gradient(frame: FrameType) -> bool:
    """True in the forward of an `autograd.Function`, which is a forward of no module."""
    code = frame.f_code
    if code.co_name != "forward" or not code.co_argcount:
        return False
    return not isinstance(frame.f_locals.get(code.co_varnames[0]), nn.Module)


def _codes_of(module: nn.Module) -> set[CodeType]:
    """Where a run of a module's forward may begin: its own function, or what a decorator wraps; not in TorchScript."""
    if isinstance(module, torch.jit.ScriptModule):
        return set()
    return {*_wrapped_codes(type(module).forward), *_wrapped_codes(vars(module).get("forward"))}


def _wrapped_codes(function: Any) -> Iterator[CodeType]:
    while function is not None:
        inner = getattr(function, "__func__", function)
        if hasattr(inner, "__code__"):
            yield inner.__code__
        function = getattr(inner, "__wrapped__", None)


@functools.cache
def _place(code: CodeType, instruction: int) -> tuple[int, int]:
    positions = next(itertools.islice(code.co_positions(), instruction // 2, None), (None,) * 4)
    line, column = positions[0], positions[2]
    return (line if line is not None else code.co_firstlineno, column if column is not None else -1)


@functools.cache
def _digest(code: CodeType) -> str:
    """Of a function's source, so that a place in another version of it is not taken for the same."""
    try:
        text: Any = inspect.getsource(code)
    except (OSError, TypeError, IndentationError):
        text = repr((code.co_names, code.co_varnames, code.co_code))  # typed into a console, or generated
    return hashlib.sha256(text.encode()).hexdigest()[:8]

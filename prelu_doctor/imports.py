"""The user's own code: found by `module:callable` or `file.py:callable`, run, and its errors shown as theirs."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from prelu_doctor.errors import DoctorError
from prelu_doctor.escaping import escaped

_OURS = str(Path(__file__).parent)


def imported_object(spec: str, *, option: str, error: type[DoctorError]) -> Any:
    """The object that `module:attribute` or `path/to/file.py:attribute` names; the attribute may be dotted.

    The current directory comes first on `sys.path` while the user's module runs (then the file's own folder), and
    what was added is taken away afterwards.

    Args:
        spec: What the user wrote.
        option: The option it was written for, as `--arch`.
        error: The leaf to raise.

    Raises:
        DoctorError: Of that leaf, where the module or the attribute does not exist or its code raises.
    """
    target, _, attribute = spec.rpartition(":")
    if not target or not attribute:
        raise error(
            f"{option} {escaped(spec)}: no ':' between a module and what to take from it",
            "module:callable or path/to/file.py:callable",
            f"name the callable, as {option} {escaped(spec).strip(':') or 'module'}:build",
        )
    module = _module_of_file(Path(target), error) if target.endswith(".py") else _module_by_name(target, error)
    return _attribute(module, attribute, f"{option} {escaped(spec)}", error)


def call_user_code(function: Any, arguments: dict[str, object], *, what: str, error: type[DoctorError]) -> Any:
    """What the user's callable returns.

    Args:
        function: Any callable.
        arguments: Its keyword arguments.
        what: The name of the thing in messages.
        error: The leaf to raise.

    Raises:
        DoctorError: Of that leaf, with the user's own lines of the traceback where the callable raises.
    """
    signature = _signature(function)
    try:
        signature.bind(**arguments)
    except TypeError as problem:
        raise error(
            f"{what}: {problem}", f"arguments for {what.rpartition(':')[2]}{signature}", "pass them as key=value"
        ) from problem
    with user_code(what, error=error):
        return function(**arguments)


def _signature(function: Any) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # a builtin that tells nothing of its arguments: anything may go
        return inspect.signature(lambda *args, **kwargs: None)


@contextlib.contextmanager
def user_code(what: str, *, error: type[DoctorError], folder: Path | None = None) -> Iterator[None]:
    """Run the user's code here: their folders on `sys.path`, what they print on stderr, their errors as `error`.

    stdout carries the report alone, so a `print` in the user's code must not end up there.

    Args:
        what: The name of the thing in messages.
        error: The leaf that an error in the user's code becomes.
        folder: Second on `sys.path`, behind the current directory.
    """
    with _search_path(Path.cwd(), folder), contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        except DoctorError:
            raise
        except (Exception, SystemExit) as problem:
            raise error(
                f"{what} raised an error:\n{_own_lines(problem)}", remedy="run that code by itself and mend it"
            ) from problem


@contextlib.contextmanager
def _search_path(*folders: Path | None) -> Iterator[None]:
    added = [str(folder) for folder in folders if folder is not None and str(folder) not in sys.path[:1]]
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for entry in added:
            # The user's code may have rebuilt sys.path; only our own entries go.
            with contextlib.suppress(ValueError):
                sys.path.remove(entry)


def _own_lines(problem: BaseException) -> str:
    """The traceback without the lines of this program, of the import machinery and of torch."""
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if _is_users(frame.filename)]
    lines = [*traceback.format_list(frames), *traceback.format_exception_only(problem)]
    return "".join(lines).rstrip()


def _is_users(file_name: str) -> bool:
    return not file_name.startswith(("<frozen", *_foreign_folders()))


def _foreign_folders() -> tuple[str, ...]:
    torch_init = getattr(sys.modules.get("torch"), "__file__", None)
    torch_folder = (str(Path(torch_init).parent),) if torch_init else ()
    return (_OURS, str(Path(importlib.__file__).parent), contextlib.__file__, *torch_folder)


def _module_of_file(path: Path, error: type[DoctorError]) -> ModuleType:
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        near = _nearest(path.name, [other.name for other in folder.glob("*.py")])
        raise error(f"{escaped(path)}: no such file{near}", "a Python file that exists", "check the path")
    full = path.resolve()
    # One name a path: --arch and --data may name the same file, whose code should run once.
    name = f"{path.stem}_{hashlib.sha256(str(full).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:
        raise error(f"{escaped(path)}: cannot be imported", "a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with user_code(escaped(path), error=error, folder=full.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_by_name(name: str, error: type[DoctorError]) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise error(f"{escaped(name)}: not the name of a module", "module:callable or path/to/file.py:callable")
    with user_code(escaped(name), error=error):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as problem:
            if problem.name is None or not f"{name}.".startswith(f"{problem.name}."):
                raise  # the module is there, and something that it imports is not
            near = _nearest(problem.name.rpartition(".")[2], _siblings(problem.name))
            raise error(
                f"there is no module '{escaped(problem.name)}'{near}",
                "a module that is installed, or in the current directory",
                "check its name, install its package, or change to its directory",
            ) from problem


def _siblings(name: str) -> list[str]:
    parent = sys.modules.get(name.rpartition(".")[0])
    return [found.name for found in pkgutil.iter_modules(parent.__path__ if parent else None)]


def _attribute(module: ModuleType, dotted: str, what: str, error: type[DoctorError]) -> Any:
    found: Any = module
    for name in dotted.split("."):
        if not hasattr(found, name):
            near = _nearest(name, [other for other in dir(found) if not other.startswith("_")])
            raise error(f"{what}: '{escaped(name)}' is not there{near}", "a name that the module defines")
        found = getattr(found, name)
    return found


def _nearest(name: str, others: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, others, n=3)
    return f" (nearest: {', '.join(escaped(other) for other in near)})" if near else ""

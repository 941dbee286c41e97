"""Whether a module that came out of a pickle is sound: whole, finite, and without code of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, is_plain_name
from prelu_doctor.untrusted.pickle_names import activation_functions

_DEEPEST = 200
_MOST_PATHS = 1_000_000


def check_trusted_module(module: nn.Module, path: Path) -> None:
    """Check that the parts of a module the user vouched for can be listed and have their shapes.

    Raises:
        CheckpointError: Where they cannot.
    """
    try:
        tensors = [*module.named_parameters(), *module.named_buffers()]
        parts = [type(part) for _, part in module.named_modules()]
    except Exception as error:  # attributes are missing, or it holds itself
        raise _unsound(path, f"its parts cannot be listed: {escaped(error, 200)}") from error
    lazy = [name for name, tensor in tensors if torch.nn.parameter.is_lazy(tensor)]
    if lazy or any(issubclass(part, nn.modules.lazy.LazyModuleMixin) for part in parts):
        raise _unsound(path, "a lazy layer in it has no shape yet", "run it once on a batch before saving it")


def check_restored_module(module: nn.Module, path: Path, classes: frozenset[type] = frozenset()) -> None:
    """Check a module made of known classes, whose attributes a hostile file may have chosen freely.

    Every part must have what `nn.Module.__init__` gives it, and nothing that runs: no hooks, nothing callable among
    its attributes (a `forward` of its own), nothing that stands in for a method. A class of torch.nn's or an activation
    function is fine, where the module's class keeps such a thing by a name of its own. No part may contain itself, nor
    be reached by so many paths that walking them would not end.

    Args:
        module: Not changed.
        path: For messages.
        classes: Those of the user's that may stand among attributes.

    Raises:
        CheckpointError: Where one of this does not hold.
    """
    problem = _first_problem(module, classes)
    if problem:
        raise _unsound(path, problem)
    check_trusted_module(module, path)


def _first_problem(root: nn.Module, classes: frozenset[type]) -> str:
    # Depth first with a stack of its own: a chain of thousands of modules must not end in a RecursionError.
    paths: dict[int, int] = {}
    trail: set[int] = set()
    stack: list[tuple[nn.Module, bool]] = [(root, False)]
    while stack:
        module, left = stack.pop()
        if left:
            trail.discard(id(module))
            paths[id(module)] = 1 + sum(paths[id(child)] for child in _children(module))
            continue
        if id(module) in trail:
            return "a module in it contains itself"
        if id(module) in paths:
            continue
        problem = _part_problem(module, classes) or (
            "its modules are nested too deep" if len(trail) >= _DEEPEST else ""
        )
        if problem:
            return problem
        trail.add(id(module))
        stack.append((module, True))
        stack.extend((child, False) for child in _children(module))
    return "its modules contain each other too many times" if paths[id(root)] > _MOST_PATHS else ""


def _children(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.__dict__["_modules"].values() if child is not None]


def _part_problem(module: nn.Module, classes: frozenset[type]) -> str:
    attributes = module.__dict__
    name = type(module).__name__
    if not isinstance(attributes.get("training"), bool):
        return f"a {name} in it lacks its attributes"
    for key, allowed in (("_parameters", nn.Parameter), ("_buffers", Tensor), ("_modules", nn.Module)):
        if not _holds(attributes.get(key), allowed):
            return f"the {key} of a {name} in it are not what they should be"
    foreign = [key for key, value in attributes.items() if _runs(module, key, value, classes)]
    if foreign:
        return f"a {name} in it carries code: '{escaped(foreign[0])}'"
    if any(_has_hooks(tensor) for key in ("_parameters", "_buffers") for tensor in attributes[key].values()):
        return f"a tensor of a {name} in it carries hooks"
    return ""


def _holds(entries: Any, allowed: type) -> bool:
    return isinstance(entries, dict) and all(
        isinstance(name, str)
        and "." not in name
        and is_plain_name(name)
        and (value is None or isinstance(value, allowed))
        for name, value in entries.items()
    )


def _runs(module: nn.Module, key: str, value: object, classes: frozenset[type]) -> bool:
    if "hooks" in key:
        # `is_full_backward_hook` is a flag and has no "hooks" in its name.
        return not (isinstance(value, Mapping) and not value)
    if callable(getattr(type(module), str(key), None)):
        return True
    return callable(value) and not _is_known(value, classes)


def _is_known(value: object, classes: frozenset[type]) -> bool:
    if isinstance(value, type):
        return value in classes or value.__module__.startswith("torch.nn.modules.")
    return any(value is function for function in activation_functions())


def _has_hooks(tensor: Tensor | None) -> bool:
    return tensor is not None and bool(getattr(tensor, "_backward_hooks", None))


def _unsound(path: Path, problem: str, remedy: str = "") -> CheckpointError:
    return CheckpointError(
        f"{escaped(path)}: {problem}",
        "a sound module of torch.nn's own classes, without hooks",
        remedy or "save model.state_dict() and pass --arch module:callable; or --trust, if you made the file yourself",
    )

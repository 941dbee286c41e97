"""Pickles, read by torch's weights-only reader; torch.nn's own modules are the only classes it is allowed besides."""

from __future__ import annotations

import importlib
import pickle
import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, listed, reason_of
from prelu_doctor.imports import user_code

_UNSUPPORTED = re.compile(r"Unsupported (?:global: GLOBAL|class) (\S+)|unsupported GLOBAL (\S+)")


def unpickled(path: Path, *, zipped: bool, trust: bool) -> Any:
    """The object in a torch.save file, its tensors on the CPU.

    Args:
        path: The file.
        zipped: True for the zip format, False for the one before it (which holds weights only).
        trust: Read classes of any origin, by which the file may run any code.

    Raises:
        CheckpointError: Where the file is damaged, or asks for a class that is not one of torch.nn's modules.
    """
    if trust:
        return _trusted(path, zipped=zipped)
    classes = _module_classes(path) if zipped else []
    try:
        with torch.serialization.safe_globals(list(classes)):
            return _loaded(path, zipped=zipped, weights_only=True)
    except Exception as error:
        refused = _UNSUPPORTED.search(str(error))
        if refused:
            raise _refusal(path, [refused[1] or refused[2]]) from error
        raise _damage(path, error) from error


def _trusted(path: Path, *, zipped: bool) -> Any:
    with user_code(escaped(path), error=CheckpointError):
        try:
            return _loaded(path, zipped=zipped, weights_only=False)
        except (ImportError, AttributeError) as error:
            raise CheckpointError(
                f"{escaped(path)}: needs code that is not here: {escaped(error, 200)}",
                "the modules of its classes, installed or in the current directory",
                "run this where they are, or save model.state_dict() and pass --arch module:callable",
            ) from error
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise _damage(path, error) from error


def _loaded(path: Path, *, zipped: bool, weights_only: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old storages and protocols: what matters comes as an error
        if zipped and _mappable(path):
            return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=True)
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=weights_only)


def _mappable(path: Path) -> bool:
    """Whether torch can map the file: by its name it does not take it for safetensors, and nothing is compressed.

    Mapping a compressed entry would show its packed bytes as weights.
    """
    with zipfile.ZipFile(path) as archive:
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    return stored and not path.name.endswith(".safetensors")


def _module_classes(path: Path) -> list[type[nn.Module]]:
    """The torch.nn classes that the file asks for.

    Raises:
        CheckpointError: Where it asks for anything else, or cannot be listed.
    """
    try:
        asked = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception as error:
        raise _damage(path, error) from error
    classes = {name: _module_class(name) for name in asked}
    foreign = [name for name, cls in classes.items() if cls is None]
    if foreign:
        raise _refusal(path, foreign)
    return [cls for cls in classes.values() if cls is not None]


def _module_class(name: str) -> type[nn.Module] | None:
    """The class of `torch.nn.modules` that goes by exactly this name; None where the name is anything else.

    Allowing a class lets its `__new__` and `__setstate__` run; nothing outside of torch is imported to find it.
    """
    if not re.fullmatch(r"torch\.nn\.modules\.\w+\.\w+", name, re.ASCII):
        return None
    module_name, _, class_name = name.rpartition(".")
    try:
        module = sys.modules.get(module_name) or importlib.import_module(module_name)
    except ImportError:
        return None
    found = vars(module).get(class_name)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        return None
    return found if f"{found.__module__}.{found.__qualname__}" == name else None


def _refusal(path: Path, names: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{escaped(path)}: refused, because reading it would run the code of {listed(names, 5)}",
        "weights alone, or a module made of torch.nn's own classes",
        "save the weights with torch.save(model.state_dict(), 'weights.pt') and pass --arch module:callable; "
        "or pass --trust, if you made the file yourself",
    )


def _damage(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{escaped(path)}: cannot be read: {reason_of(error)}",
        "a whole file as torch.save writes it (pickle protocol 2, which is its default)",
        "copy or download it again, or save it anew",
    )

"""Pickles: read by torch's weights-only reader after a survey, or, where the user trusts the file, as they are."""

from __future__ import annotations

import pickle
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prelu_doctor.checkpoints.allowed_classes import imported_classes
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, listed
from prelu_doctor.imports import user_code
from prelu_doctor.untrusted.torch_saves import Advice, damage, mappable, read_torch_save

_ADVICE = Advice(
    CheckpointError,
    "weights as torch.save writes them, or a module made of torch.nn's own classes",
    "save the weights with torch.save(model.state_dict(), 'weights.pt') and pass --arch module:callable",
    may_trust=True,
)


@dataclass(frozen=True)
class Unpickled:
    """An object out of a file.

    Attributes:
        content: Its tensors lie on the CPU.
        classes: Those of the user's that it may be made of.
        note: What became of classes that are not torch's; may be empty.
    """

    content: Any
    classes: frozenset[type]
    note: str


def unpickled(path: Path, *, zipped: bool, reading: Reading) -> Unpickled:
    """The object in a torch.save file.

    Args:
        path: The file.
        zipped: True for the zip format, False for the one before it (which holds weights only).
        reading: Where the user trusts the file, classes of any origin are read, by which it may run any code.

    Raises:
        CheckpointError: Where the file is damaged, or asks for what is not granted.
        UsageError: Where a class that is allowed has no full name.
    """
    if reading.trust:
        return Unpickled(_trusted(path, zipped=zipped), frozenset(), "")
    allowed = imported_classes(reading.allow_classes)
    saved = read_torch_save(path, zipped=zipped, advice=_ADVICE, allowed=allowed)
    # Where an architecture is named, the classes may be for the file that holds it.
    unused = [] if reading.weights_alone else sorted(allowed.keys() - saved.asked)
    notes = [
        saved.stand_ins and f"read as inert stand-ins: {listed(saved.stand_ins, 5)}",
        unused and f"allowed, but not asked for: {listed(unused, 5)}",
    ]
    return Unpickled(saved.content, frozenset(allowed.values()), ", ".join(note for note in notes if note))


def _trusted(path: Path, *, zipped: bool) -> Any:
    with user_code(escaped(path), error=CheckpointError):
        try:
            return _loaded(path, zipped=zipped)
        except (ImportError, AttributeError) as error:
            raise CheckpointError(
                f"{escaped(path)}: needs code that is not here: {escaped(error, 200)}",
                "the modules of its classes, installed or in the current directory",
                _way_to_the_class(str(error)),
            ) from error
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise damage(path, error, CheckpointError) from error


def _way_to_the_class(problem: str) -> str:
    """Where a script was run, its classes are called `__main__.Class`, and nobody can import them by that name."""
    found = re.search(r"attribute '(\w+)' on .*__main__", problem)
    if found:
        name = found[1]
        return (
            f"--allow-class __main__.{name}=path/to/script.py:{name} in place of --trust, for each class of the script"
        )
    return "run this where they are, or save model.state_dict() and pass --arch module:callable"


def _loaded(path: Path, *, zipped: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old storages and protocols: what matters comes as an error
        if zipped and mappable(path):
            return torch.load(path, map_location="cpu", weights_only=False, mmap=True)
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=False)

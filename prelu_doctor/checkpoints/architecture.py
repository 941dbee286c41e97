"""The user's architecture: a callable that builds the module the weights go into."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.errors import CheckpointError, UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.expected_inputs import ExpectedInputs
from prelu_doctor.imports import call_user_code, imported_object

_PYTHON_WORDS: dict[str, object] = {"True": True, "False": False, "None": None}
_CALLABLE = "a callable that returns an nn.Module (a class counts)"


@dataclass(frozen=True)
class Architecture:
    """What `--arch` names.

    Attributes:
        module: With whatever weights it comes with.
        expected: What it takes, where it comes out of a file that tells.
        files: That were read for it.
    """

    module: nn.Module
    expected: ExpectedInputs | None = None
    files: tuple[Path, ...] = ()


def build_architecture(spec: str, arguments: dict[str, object], reading: Reading | None = None) -> Architecture:
    """The module that `--arch` names.

    Args:
        spec: `module:callable`, `path/to/file.py:callable` (imported with the current directory first on
            `sys.path`), or the path of a checkpoint that holds a module: a pickled one of torch.nn classes, a program
            of torch.export, or the folder of a Hugging Face model.
        arguments: Keyword arguments of the callable.
        reading: How such a checkpoint may be read, and which of its programs to take; None: classes of torch.nn alone.

    Raises:
        CheckpointError: Where there is no such callable, its code raises, or it returns something else.
        UsageError: Where arguments are given to something that takes none.
    """
    if spec and (Path(spec).is_dir() or (Path(spec).is_file() and not spec.endswith(".py"))):
        return _stored_module(spec, arguments, reading or Reading())
    built = imported_object(spec, option="--arch", error=CheckpointError)
    if not callable(built) and not isinstance(built, nn.Module):
        raise CheckpointError(f"--arch {escaped(spec)}: a {type(built).__name__}", _CALLABLE)
    if not isinstance(built, nn.Module):
        built = call_user_code(built, arguments, what=f"--arch {escaped(spec)}", error=CheckpointError)
    elif arguments:
        raise UsageError(f"--arch {escaped(spec)}: a module already", "no --arch-arg", "leave --arch-arg out")
    if not isinstance(built, nn.Module):
        raise CheckpointError(f"--arch {escaped(spec)}: returned a {type(built).__name__}", _CALLABLE)
    return Architecture(built)


def parse_arch_args(pairs: list[str]) -> dict[str, object]:
    """The keyword arguments in `key=value` pairs; values as JSON or Python's True, False, None, else as strings.

    Raises:
        UsageError: Where a pair has no `=`, no name before it, or a name comes twice.
    """
    arguments: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--arch-arg {escaped(pair)}", "key=value", "--arch-arg num_classes=10")
        if name in arguments:
            raise UsageError(f"--arch-arg {name}: given twice", "each name once", "leave one of them out")
        arguments[name] = _value(value)
    return arguments


def _stored_module(spec: str, arguments: dict[str, object], reading: Reading) -> Architecture:
    if arguments:
        raise UsageError(f"--arch {escaped(spec)}: a file", "no --arch-arg with it", "leave --arch-arg out")
    stored = read_checkpoint(spec, replace(reading, weights_key=None, weights_alone=False))
    if stored.module is None:
        raise CheckpointError(
            f"--arch {escaped(spec)}: holds weights, but no module",
            "a pickled module of torch.nn classes, a program of torch.export, or the folder of a Hugging Face model",
            "--arch module:callable",
        )
    return Architecture(stored.module, stored.expected, stored.files)


def _value(text: str) -> object:
    if text in _PYTHON_WORDS:
        return _PYTHON_WORDS[text]
    try:
        return json.loads(text, parse_constant=str)  # NaN and Infinity are no JSON: they stay words
    except (ValueError, RecursionError):
        return text

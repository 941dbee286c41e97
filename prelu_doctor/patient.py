"""A model under examination: opened from a checkpoint, or handed over in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from prelu_doctor import records
from prelu_doctor.bare_weights import BareWeights
from prelu_doctor.checkpoints.architecture import Architecture, build_architecture
from prelu_doctor.checkpoints.checkpoint import StoredCheckpoint, read_checkpoint
from prelu_doctor.checkpoints.finiteness import non_finite_names
from prelu_doctor.checkpoints.keys import load_weights
from prelu_doctor.checkpoints.program_devices import move
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.checkpoints.torchscript import running
from prelu_doctor.devices import chosen_device
from prelu_doctor.errors import CheckpointError, UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.expected_inputs import ExpectedInputs
from prelu_doctor.file_kinds import FileKind, recognised
from prelu_doctor.methods import run_method
from prelu_doctor.onnx_patient import OnnxPatient, open_onnx_patient
from prelu_doctor.treatment.converted_file import restore
from prelu_doctor.treatment.recipe import Recipe, decode_recipe


@dataclass(frozen=True)
class Patient:
    """A model and what the report says of it.

    Attributes:
        module: The eager module, on its device.
        record: Its path, hash and kind.
        note: What was done to open it; may be empty.
        expected: What it takes, where its file tells.
        recipe: Of a converted file: what was done to the architecture's sites.
        files: All that were read for it.
    """

    module: nn.Module
    record: records.Model
    note: str = ""
    expected: ExpectedInputs | None = None
    recipe: Recipe | None = None
    files: tuple[Path, ...] = ()


def open_patient(
    source: nn.Module | str | Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, object] | None = None,
    trust: bool = False,
    allow_classes: Sequence[str] = (),
    weights_key: str | None = None,
    method: str | None = None,
    device: str = "auto",
) -> Patient:
    """Opens a checkpoint, or takes a module as it is.

    Args:
        source: A checkpoint (a file or a folder), or a module (which stays where it is).
        arch: For a file that holds weights alone: `module:callable`, `file.py:callable`, or a file or folder that
            holds a module.
        arch_args: Keyword arguments of the callable.
        trust: Read pickles of any class.
        allow_classes: Names of classes, `package.module.Class`, that a pickled module may use.
        weights_key: Where in a training dictionary the weights stand.
        method: What to run instead of `forward`.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        CheckpointError: The file cannot be read, is refused, or does not fit its architecture.
        UsageError: The architecture or the device is missing.
    """
    reading = Reading(trust=trust, allow_classes=tuple(allow_classes), weights_key=weights_key, method=method)
    examined = open_checkpoint(source, Opening(arch=arch, arch_args=arch_args or {}, reading=reading, device=device))
    if isinstance(examined, BareWeights):
        raise examined.needs_architecture()
    if isinstance(examined, OnnxPatient):
        raise examined.needs_checkpoint()
    return examined


@dataclass(frozen=True)
class Opening:
    """How a checkpoint is opened.

    Attributes:
        arch: For a file that holds weights alone: `module:callable`, `file.py:callable`, or a file or folder that
            holds a module.
        arch_args: Keyword arguments of the callable.
        reading: What the user allows, and which part of the file they want.
        device: `auto`, `cpu`, `cuda`, ...
    """

    arch: str | None = None
    arch_args: Mapping[str, object] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    device: str = "auto"


def open_checkpoint(
    source: nn.Module | str | Path, opening: Opening | None = None
) -> Patient | BareWeights | OnnxPatient:
    """Like `open_patient`; a file of weights alone without an architecture is no error but the weights.

    Nor is an ONNX model, which can be scanned although it has no module.
    """
    opening = opening or Opening()
    arch, reading = opening.arch, opening.reading
    if isinstance(source, nn.Module):
        return _in_memory(source, reading.method)
    if recognised(Path(source), error=CheckpointError) is FileKind.ONNX:
        return open_onnx_patient(Path(source), device=opening.device, unheeded=_unheeded_by_onnx(opening))
    target = chosen_device(opening.device)
    # With an architecture beside it the file's own module, and which of its programs, do not matter.
    stored = read_checkpoint(source, replace(reading, weights_alone=True, method=None) if arch else reading)
    if stored.state is not None and arch is None:
        return _bare(stored, str(source))
    if arch is None and opening.arch_args:
        raise UsageError(
            f"--arch-arg: {escaped(stored.path)} holds a whole module, which is built already",
            "--arch-arg beside the --arch that it is an argument of",
            "leave --arch-arg out",
        )
    architecture, fitted = _module_of(stored, opening)
    module = move(architecture.module, target)
    recipe = None if stored.recipe_text is None else decode_recipe(stored.recipe_text)
    note = ", ".join(part for part in (stored.note, fitted) if part)
    record = records.replace(
        _record(module, path=str(source), sha256=stored.sha256, kind=stored.kind),
        arch=arch,
        arch_args=dict(opening.arch_args),
        method=reading.method or (recipe.method if recipe else None),
        weights_key=reading.weights_key,
        allow_classes=list(reading.allow_classes),
        trust=reading.trust,
        note=note,
    )
    return Patient(module, record, note, architecture.expected, recipe, (*stored.files, *architecture.files))


def _in_memory(source: nn.Module, method: str | None) -> Patient:
    module = source if method is None else _with_method(copy.copy(source), method)
    return Patient(module, records.replace(_record(module, path="", sha256="", kind="in-memory"), method=method))


def _unheeded_by_onnx(opening: Opening) -> list[str]:
    """The options that were given and that say nothing about an ONNX file."""
    options = {
        "--arch": opening.arch,
        "--arch-arg": opening.arch_args,
        "--weights-key": opening.reading.weights_key,
        "--allow-class": opening.reading.allow_classes,
        "--method": opening.reading.method,
    }
    return [name for name, given in options.items() if given]


def _bare(stored: StoredCheckpoint, path: str) -> BareWeights:
    assert stored.state is not None
    steps = decode_recipe(stored.recipe_text).steps if stored.recipe_text is not None else ()
    slopes = frozenset(place.module for step in steps for site in step.sites for place in site.places)
    return BareWeights(path, stored.sha256, stored.kind, stored.state, slopes, stored.note)


def _module_of(stored: StoredCheckpoint, opening: Opening) -> tuple[Architecture, str]:
    """The module with its weights, and what was done to make names fit."""
    arch, method = opening.arch, opening.reading.method
    if stored.module is not None and arch is None:
        as_it_is = stored.kind in _PROGRAMS or method is None
        module = stored.module if as_it_is else _with_method(stored.module, str(method))
        return Architecture(module, stored.expected), ""
    state = stored.state if stored.module is None else _weights_of_program(stored)
    assert state is not None
    assert arch is not None
    with torch.random.fork_rng(devices=[]):
        fresh = build_architecture(arch, dict(opening.arch_args), opening.reading)
    if stored.recipe_text is not None:
        return replace(fresh, module=restore(fresh.module, stored.recipe_text, state, method=method)), ""
    note = load_weights(fresh.module, state)
    return fresh if method is None else replace(fresh, module=_with_method(fresh.module, method)), note


_PROGRAMS = ("torchscript", "pt2")
"""Kinds of files that hold a program, whose reader picks the method; its weights fit the class that it was made of."""


def _weights_of_program(stored: StoredCheckpoint) -> dict[str, Tensor]:
    assert stored.module is not None
    if stored.kind not in _PROGRAMS:
        raise UsageError(
            f"{escaped(stored.path)} holds a whole module, and --arch names another one",
            "--arch for files that hold weights alone",
            "leave --arch out",
        )
    state = dict(stored.module.state_dict())
    if not state:
        raise UsageError(
            f"{escaped(stored.path)} is a frozen program: its weights are constants without names",
            "weights by name",
            "leave --arch out to scan it as it is, or save the program again unfrozen",
        )
    return state


def _with_method(module: nn.Module, method: str) -> nn.Module:
    """The module, changed so that calling it runs the method."""
    if isinstance(module, torch.jit.ScriptModule):
        return running(module, method)
    if not (isinstance(module, fx.GraphModule) and method == "forward"):
        run_method(module, method)
    return module


def _record(module: nn.Module, *, path: str, sha256: str, kind: str) -> records.Model:
    return records.Model(
        path=path,
        sha256=sha256,
        kind=kind,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        non_finite=non_finite_names(module),
    )

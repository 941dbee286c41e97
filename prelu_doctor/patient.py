"""A model under examination: opened from a checkpoint, or handed over in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from prelu_doctor import records
from prelu_doctor.bare_weights import BareWeights
from prelu_doctor.checkpoints.architecture import build_architecture
from prelu_doctor.checkpoints.checkpoint import StoredCheckpoint, read_checkpoint
from prelu_doctor.checkpoints.finiteness import non_finite_names
from prelu_doctor.checkpoints.keys import load_weights
from prelu_doctor.devices import chosen_device
from prelu_doctor.errors import UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.expected_inputs import ExpectedInputs
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
    """

    module: nn.Module
    record: records.Model
    note: str = ""
    expected: ExpectedInputs | None = None
    recipe: Recipe | None = None


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
        source: A checkpoint file, or a module (which stays where it is).
        arch: For a file that holds weights alone: `module:callable`, `file.py:callable` or a file that holds a module.
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
    examined = open_weights_or_patient(
        source,
        arch=arch,
        arch_args=arch_args,
        trust=trust,
        allow_classes=allow_classes,
        weights_key=weights_key,
        method=method,
        device=device,
    )
    if isinstance(examined, BareWeights):
        raise examined.needs_architecture()
    return examined


def open_weights_or_patient(
    source: nn.Module | str | Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, object] | None = None,
    trust: bool = False,
    allow_classes: Sequence[str] = (),
    weights_key: str | None = None,
    method: str | None = None,
    device: str = "auto",
) -> Patient | BareWeights:
    """Like `open_patient`; a file of weights alone without an architecture is no error but the weights."""
    if isinstance(source, nn.Module):
        return Patient(source, _record(source, path="", sha256="", kind="in-memory"))
    target = chosen_device(device)
    stored = read_checkpoint(source, trust=trust, allow_classes=allow_classes, weights_key=weights_key)
    if stored.state is not None and arch is None:
        return _bare(stored, str(source))
    module = _module_of(stored, arch, arch_args or {}).to(target)
    record = _record(module, path=str(source), sha256=stored.sha256, kind=stored.kind)
    record = records.replace(record, arch=arch, arch_args=dict(arch_args or {}))
    recipe = None if stored.recipe_text is None else decode_recipe(stored.recipe_text)
    return Patient(module, record, stored.note, stored.expected, recipe)


def _bare(stored: StoredCheckpoint, path: str) -> BareWeights:
    assert stored.state is not None
    steps = decode_recipe(stored.recipe_text).steps if stored.recipe_text is not None else ()
    slopes = frozenset(place.module for step in steps for site in step.sites for place in site.places)
    return BareWeights(path, stored.sha256, stored.kind, stored.state, slopes, stored.note)


def _module_of(stored: StoredCheckpoint, arch: str | None, arch_args: Mapping[str, object]) -> nn.Module:
    if stored.module is not None:
        if arch is not None:
            raise UsageError(
                f"{escaped(stored.path)} holds a whole module, and --arch names another one",
                "--arch for files that hold weights alone",
                "leave --arch out",
            )
        return stored.module
    assert stored.state is not None
    assert arch is not None
    with torch.random.fork_rng(devices=[]):
        fresh = build_architecture(arch, dict(arch_args))
    if stored.recipe_text is not None:
        return restore(fresh, stored.recipe_text, stored.state)
    load_weights(fresh, stored.state)
    return fresh


def _record(module: nn.Module, *, path: str, sha256: str, kind: str) -> records.Model:
    return records.Model(
        path=path,
        sha256=sha256,
        kind=kind,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        non_finite=non_finite_names(module),
    )

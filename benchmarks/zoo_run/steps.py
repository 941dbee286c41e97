"""What is tried on one model, step by step; every step gives figures, or the error that ended it."""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.zoo_models import ZooModel
from benchmarks.zoo_run.comparing import difference
from benchmarks.zoo_run.dispatched import dispatched_rectifiers, rectifiers, silent_units
from benchmarks.zoo_run.naive import hooked_calls, naive_conversion
from benchmarks.zoo_run.planting import Planted, plant_dead_units
from prelu_doctor import Conversion, Training, Treatment, convert, export_onnx, load
from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.deployment.quiet import quiet
from prelu_doctor.scanning.scan import Scan, scan_model
from prelu_doctor.sites.find import find_sites
from prelu_doctor.sites.trace import trace
from prelu_doctor.treatment.proven_surgery import operate_and_prove

Figures = dict[str, Any]

RECTIFIERS = ("relu", "relu6")

LARGEST_FILE = 1 << 30
"""Bytes of parameters above which a converted file is not written and read back."""


@dataclass
class Examination:
    """A model under examination, and what its steps leave for the next ones."""

    entry: ZooModel
    model: nn.Module = field(init=False)
    scanned: Batch = field(init=False)
    held_out: Batch = field(init=False)
    other: Batch = field(init=False)
    planted: Planted = field(default_factory=list)
    before: Scan | None = None
    conversion: Conversion | None = None

    @property
    def traced(self) -> Batch:
        """The two samples that a scan traces: calls are counted on these, since a forward may loop over its samples."""
        return self.scanned.take(slice(0, 2))

    @property
    def dataset(self) -> Dataset:
        """The samples, as if they were real."""
        return Dataset(
            source="zoo",
            synthetic=False,
            seed=0,
            scanned=lambda: iter([self.scanned]),
            held_out=lambda: iter([self.held_out]),
        )


def build(examined: Examination) -> Figures:
    """Builds the model and draws its inputs."""
    examined.model = examined.entry.build()
    examined.scanned = examined.entry.samples(3, seed=0)
    examined.held_out = examined.entry.samples(2, seed=1)
    examined.other = examined.entry.samples(2, seed=3)
    return {"parameters": sum(parameter.numel() for parameter in examined.model.parameters())}


def count(examined: Examination) -> Figures:
    """Counts the calls that the dispatcher sees."""
    calls = dispatched_rectifiers(examined.model, examined.traced)
    return {"calls": rectifiers(calls), "relu": calls["relu"], "relu6": calls["relu6"]}


def find(examined: Examination) -> Figures:
    """Plants dead units and scans."""
    model = examined.model
    planted = plant_dead_units(model, find_sites(model, trace(model, examined.traced)).found)
    calls = rectifiers(dispatched_rectifiers(model, examined.traced))  # a dead unit may change what a detector finds
    examined.before = before = scan_model(model, examined.dataset.scanned())
    sites = [site for site in before.sites if site.function in RECTIFIERS]
    dead = {(site.id, unit) for site in sites for unit in site.dead_units}
    silent = dead | {(site.id, unit) for site in sites for unit in site.silent_outputs}
    truth = _silent_units(examined)
    examined.planted = [unit for unit in planted if truth is None or unit in truth]
    never = "never called"
    return {
        "calls": calls,
        "sites": len(sites),
        "calls_in_sites": sum(site.calls for site in sites),
        "unresolved": [[entry.id, entry.reason] for entry in before.unresolved if never not in entry.reason],
        "never_called": sum(never in entry.reason for entry in before.unresolved),
        "axis_assumed": [site.id for site in sites if site.axis_assumed],
        "counted_rows": sum(site.counted == "rows" for site in sites),
        "planted": len(examined.planted),
        "planted_found": len(dead.intersection(examined.planted)),
        "dead": len(dead),
        "truly_dead": None if truth is None else len(truth),
        "misjudged": None if truth is None else len(truth ^ silent),
    }


def _silent_units(examined: Examination) -> set[tuple[str, int]] | None:
    """Site and number of every unit that fires nowhere, told without the package's tallies.

    None where the calls of the forward do not correspond to those that the sites were found in.
    """
    graph = trace(examined.model, examined.scanned)
    found = [site for site in find_sites(examined.model, graph).found if site.activation.function in RECTIFIERS]
    site_of = {call.index: site for site in found for call in site.calls}
    calls = [call.index for call in graph.activations() if call.activation.function in RECTIFIERS]
    axes = [site_of[call].unit_axis if call in site_of else 0 for call in calls]
    silent = silent_units(examined.model, examined.scanned, axes)
    if silent is None:
        return None
    in_every_call: dict[str, frozenset[int]] = {}
    for call, units in zip(calls, silent, strict=True):
        if call in site_of:
            site = site_of[call].id
            in_every_call[site] = in_every_call.get(site, units) & units
    return {(site, unit) for site, units in in_every_call.items() for unit in units}


def operate(examined: Examination) -> Figures:
    """Puts a PReLU with slopes of 0 at every site, and compares on data that was not scanned."""
    assert examined.before is not None
    surgery, _ = operate_and_prove(examined.model, examined.dataset, examined.before, "channel")
    calls = [dispatched_rectifiers(model, examined.scanned) for model in (examined.model, surgery.model)]
    rectifying = {site.id: site.calls for site in examined.before.sites if site.function in RECTIFIERS}
    declined = {site: reason for site, reason in surgery.declined.items() if site in rectifying}
    kept = difference(examined.model, surgery.model, [examined.other])
    return {
        "declined": declined,
        "calls_declined": sum(rectifying[site] for site in declined),
        "calls_left": rectifiers(calls[1]),
        "prelu_calls": calls[1]["prelu"] - calls[0]["prelu"],
        "equal": kept.equal,
        "change": kept.change,
    }


def revive(examined: Examination) -> Figures:
    """Converts as a user would, silence on these few samples taken for death, without a fine-tune."""
    options = Treatment(revive_bound=1.0, training=Training(steps=0))
    examined.conversion = conversion = convert(examined.model, examined.dataset, options)
    changes = conversion.report.changes
    kept = difference(examined.model, conversion.model, [examined.scanned, examined.held_out])
    reasons: Counter[str] = Counter()
    for declined in (part for change in changes for part in change.declined_units):
        reasons[declined.reason] += len(declined.units)
    alive = {(change.site, unit) for change in changes for unit in change.revived}
    return {
        "dead": conversion.report.before.totals.dead,
        "dead_after": conversion.report.after.totals.dead,
        "revived": len(alive),
        "planted_revived": len(alive.intersection(examined.planted)),
        "left": dict(reasons),
        "equal": kept.equal,
        "change": kept.change,
    }


def reload(examined: Examination) -> Figures:
    """Writes the converted file and loads it onto a model that was just built."""
    assert examined.conversion is not None
    if sum(p.numel() * p.element_size() for p in examined.model.parameters()) > LARGEST_FILE:
        return {"skipped": f"more than {LARGEST_FILE >> 30} GiB of parameters"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "converted.safetensors"
        examined.conversion.save(path)
        loaded = load(examined.entry.build(), path)
    return {"equal": difference(examined.conversion.model, loaded.eval(), [examined.other]).equal}


def export(examined: Examination) -> Figures:
    """Exports the converted model and proves parity; where that fails, tells how the original fares."""
    assert examined.conversion is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            proof = export_onnx(examined.conversion.model, path, examined.dataset)
        except Exception as error:
            said = first_line(error).replace(f"{folder}/", "")
            refused = "differs from the model" not in said
            original = _taken_unchanged(examined) if refused else _parity_of_the_original(examined, path)
            wide = None if refused else _float64_difference(examined)
            return {"parity": False, "error": said, "original": original, "float64": wide}
    worst = max(check.scaled_error for check in proof.checks)
    return {
        "parity": proof.verdict == "healthy",
        "scaled_error": worst,
        "checks": len(proof.checks),
        "fixed_batch": proof.fixed_batch,
        "fixed_because": proof.fixed_because,
    }


def _taken_unchanged(examined: Examination) -> Figures:
    """Whether torch.onnx.export takes the original as it is, with any batch size, or else with one alone.

    Each is an empty string where it does, else the first line of its error.
    """
    batch = examined.traced
    names = list(inspect.signature(examined.model.forward).parameters)[: len(batch.args)]
    any_batch = _tried(examined, batch, {name: {0: "batch"} for name in (*names, *batch.kwargs)})
    return {"any_batch": any_batch, "one_batch": _tried(examined, batch, None) if any_batch else ""}


def _parity_of_the_original(examined: Examination, path: Path) -> Figures:
    """What the package says of an export of the original: an empty string where it has parity."""
    try:
        export_onnx(examined.model, path, examined.dataset, force=True)
    except Exception as error:
        return {"any_batch": "", "one_batch": "", "parity": first_line(error).replace(f"{path.parent}/", "")}
    return {"any_batch": "", "one_batch": "", "parity": ""}


def _float64_difference(examined: Examination) -> float | None:
    """How far rounding alone moves the output: the converted model against itself in double precision."""
    assert examined.conversion is not None
    model = examined.conversion.model
    try:
        return difference(copy.deepcopy(model).double(), model, [examined.scanned], widen=True).change
    except Exception:  # some forwards mix types of their own making
        return None


def _tried(examined: Examination, batch: Batch, shapes: dict[str, Any] | None) -> str:
    """An empty string where the export works, else the first line of its error."""
    with quiet():
        try:
            torch.onnx.export(
                examined.entry.build(),
                batch.args,
                kwargs=dict(batch.kwargs) or None,
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            while isinstance(error.__cause__, Exception):
                error = error.__cause__
            return first_line(error)
    return ""


def naive(examined: Examination) -> Figures:
    """What the usual recipe would have done to the same model."""
    model = examined.entry.build()
    modules, calls = hooked_calls(model, examined.traced)
    return {"modules": modules, "hooked_calls": calls, **naive_conversion(model, examined.scanned)}


Step = Callable[[Examination], Figures]

STEPS: dict[str, Step] = {
    "build": build,
    "count": count,
    "find": find,
    "operate": operate,
    "revive": revive,
    "reload": reload,
    "export": export,
    "naive": naive,
}

NEEDS = {"find": "count", "operate": "find", "revive": "find", "reload": "revive", "export": "revive", "naive": "count"}
"""The step without which another one cannot be taken."""


def first_line(error: BaseException) -> str:
    """Type and first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"

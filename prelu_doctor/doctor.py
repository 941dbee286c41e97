"""The library: scan, convert, export and prove parity without the command line. It prints nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from prelu_doctor import __version__, records
from prelu_doctor.bare_weights import BareWeights, weights_report
from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.deployment import onnx_file, parity
from prelu_doctor.deployment.freezing import why_frozen
from prelu_doctor.deployment.pt2_file import export_pt2
from prelu_doctor.devices import device_of
from prelu_doctor.diagnosis.findings import findings
from prelu_doctor.diagnosis.totals import totals
from prelu_doctor.diagnosis.verdict import verdict
from prelu_doctor.errors import BrokenPromiseError, DoctorError, ForwardError, UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.onnx_patient import OnnxPatient
from prelu_doctor.onnx_scanning.scan import OnnxScan, scan_onnx
from prelu_doctor.outputs import Writer, check_targets, write_together
from prelu_doctor.patient import Patient, open_checkpoint, open_patient
from prelu_doctor.samples import Samples, samples_for
from prelu_doctor.scanning.scan import Scan, Thresholds, scan_model
from prelu_doctor.treatment.conversion import Phase, Treated, Treatment, no_progress, treat
from prelu_doctor.treatment.converted_file import converted_writers
from prelu_doctor.treatment.recipe import Recipe

Source = Patient | nn.Module | str | Path
"""A checkpoint, a module, or an opened patient."""


def scan(
    model: Source | BareWeights | OnnxPatient,
    data: Samples = None,
    *,
    thresholds: Thresholds | None = None,
    seed: int = 0,
    phase: Phase | None = None,
) -> records.ScanReport:
    """Finds every activation call of a model and which of its units are dead, on sample data.

    Args:
        model: A module, a checkpoint, or an opened `Patient`. It is left as it was. Of a checkpoint that holds weights
            alone the report has what weights alone tell; open it with `open_patient(path, arch=...)` for more.
        data: What to run through it.
        thresholds: Where rare and dormant begin.
        seed: Of synthetic data.
        phase: Told of progress.

    Returns:
        The report, as `--format json` writes it.

    Raises:
        DoctorError: The model or the data cannot be used; the message says what was found and expected.
    """
    patient = open_checkpoint(model) if isinstance(model, nn.Module | str | Path) else model
    if isinstance(patient, BareWeights):
        patient.check_nothing_to_run([] if data is None else ["data"])
        return weights_report(patient)
    dataset = samples_for(patient.module, data, expected=patient.expected, seed=seed)
    told = phase or no_progress
    run = partial(scan_onnx, patient.model) if isinstance(patient, OnnxPatient) else partial(scan_model, patient.module)
    found: Scan | OnnxScan = run(
        dataset.scanned(),
        thresholds=thresholds or Thresholds(),
        progress=lambda samples: told("scanning", samples, None, None),
    )
    return scan_report(patient.record, dataset, found)


def scan_report(model: records.Model, dataset: Dataset, found: Scan | OnnxScan) -> records.ScanReport:
    """The report of a scan, with its findings."""
    data = records.Data(
        source=dataset.source,
        contents=dataset.contents,
        synthetic=dataset.synthetic,
        samples=found.samples,
        seed=dataset.seed,
    )
    notes = findings(model, data, found.sites, found.unresolved)
    return records.ScanReport(
        tool=records.Tool(version=__version__),
        model=model,
        data=data,
        sites=found.sites,
        unresolved=found.unresolved,
        totals=totals(found.sites),
        findings=notes,
        verdict=verdict(notes, data),
    )


@dataclass(frozen=True)
class Conversion:
    """A converted model.

    Attributes:
        model: The converted copy.
        report: What was done.
        recipe: What `load` repeats.
    """

    model: nn.Module
    report: records.ConvertReport
    recipe: Recipe
    _dataset: Dataset
    _inputs: Sequence[Path] = ()

    def save(
        self,
        path: str | Path,
        *,
        onnx: str | Path | None = None,
        pt2: str | Path | None = None,
        opset: int | None = None,
        force: bool = False,
    ) -> records.ConvertReport:
        """Writes the converted checkpoint, an ONNX file and a program, both proved equal to it: all of it or nothing.

        Args:
            path: `.safetensors` for one file, `.pt2` for a program of torch.export that needs neither the class nor
                this package; anything else gets a plain state dict with its recipe beside it.
            onnx: Where an ONNX file goes, if wanted.
            pt2: Where a program goes, if wanted beside the checkpoint.
            opset: Its operator set.
            force: Whether existing files may be replaced.

        Returns:
            The report with the parity of the ONNX file, what a program takes, and the names of what was written.

        Raises:
            BrokenPromiseError: The ONNX file or the program is not the same function; nothing was written.
            UsageError: A file exists already or cannot be written.
        """
        programs = [Path(target) for target in (path, pt2) if target is not None and Path(target).suffix == ".pt2"]
        if pt2 is not None and Path(pt2) not in programs:
            raise UsageError(f"--pt2 {escaped(pt2)}", "a file whose name ends in .pt2", "--pt2 healed.pt2")
        converted = converted_writers(self.model, self.recipe, Path(path)) if Path(path) not in programs else []
        writers: list[tuple[Path, Writer]] = [(target, _told_as_os_error(write)) for target, write in converted]
        written_programs: list[records.Program] = []
        writers += [(program, self._program_writer(program, written_programs)) for program in programs]
        proofs: list[records.ParityReport] = []
        if onnx is not None:
            export = _proved_export(self.model, self._dataset, self.report.before.model, opset, Path(onnx), proofs)
            writers.append((Path(onnx), export))
        written = write_together(writers, force=force, inputs=self._inputs)
        return records.replace(
            self.report,
            parity=proofs[0] if proofs else None,
            programs=written_programs,
            files=[str(file) for file in written],
        )

    def _program_writer(self, target: Path, written: list[records.Program]) -> Writer:
        def write(path: Path) -> None:
            made = export_pt2(self.model, self._dataset.scanned, path)
            program = records.Program(path=str(target), fixed_batch=made.fixed_batch, fixed_because=made.fixed_because)
            written.append(program)

        return write


def convert(
    model: Source, data: Samples, options: Treatment | None = None, *, phase: Phase | None = None
) -> Conversion:
    """Converts a model's ReLUs to PReLUs, revives its dead units and fine-tunes it briefly.

    Before the fine-tune the converted model computes the same function, unless the options ask for another recipe or
    for activations that no PReLU equals.

    Args:
        model: A module, a checkpoint that holds one, or an opened `Patient`. It is left as it was.
        data: Sample data with or without labels. On None (noise) nothing is revived and nothing trained.
        options: How to treat it.
        phase: Told of progress.

    Returns:
        The converted copy; its `save` writes the files.

    Raises:
        BrokenPromiseError: The output moved although it must not.
        UsageError: An option is no finite number.
        DoctorError: The model or the data cannot be used.
    """
    options = options or Treatment()
    _check_numbers(options)
    patient = _opened(model)
    _check_python_model(patient.module, patient.record, "converted")
    dataset = samples_for(patient.module, data, expected=patient.expected, seed=options.seed)
    treated = treat(patient.module, dataset, options, phase or no_progress)
    recipe = Recipe(
        tool_version=__version__,
        source_sha256=patient.record.sha256,
        alpha_shape=options.alpha_shape,
        sites=treated.recipes,
        none_arguments=treated.none_arguments,
        functions=tuple(sorted(options.functions)),
        method=patient.record.method,
        options=_plain_options(options),
    ).after(patient.recipe)
    report = _convert_report(patient, dataset, treated)
    return Conversion(treated.model, report, recipe, dataset, _read(patient, dataset))


def export_onnx(
    model: Source,
    path: str | Path,
    data: Samples = None,
    *,
    opset: int | None = None,
    force: bool = False,
    seed: int = 0,
) -> records.ParityReport:
    """Writes a model as ONNX once onnxruntime has proved it to be the same function.

    Raises:
        BrokenPromiseError: It is not, or cannot be exported; nothing was written.
        DoctorError: The model or the data cannot be used.
    """
    patient = _opened(model)
    _check_python_model(patient.module, patient.record, "exported")
    check_targets([Path(path)], force=force)
    dataset = samples_for(patient.module, data, expected=patient.expected, seed=seed)
    proofs: list[records.ParityReport] = []
    export = _proved_export(patient.module, dataset, patient.record, opset, Path(path), proofs)
    write_together([(Path(path), export)], force=force, inputs=_read(patient, dataset))
    return proofs[0]


def check_parity(
    model: Source, onnx_path: str | Path, data: Samples = None, *, tolerance: float = 1e-5, seed: int = 0
) -> records.ParityReport:
    """Compares an ONNX file with the eager model, output by output, at several batch sizes.

    Args:
        model: A module, a checkpoint that holds one, or an opened `Patient`.
        onnx_path: The file.
        data: What to run through both.
        tolerance: Largest max |onnx - torch| / max |torch| that passes.
        seed: Of synthetic data.

    Raises:
        DoctorError: The model, the file or the data cannot be used.
    """
    patient = _opened(model)
    dataset = samples_for(patient.module, data, expected=patient.expected, seed=seed)
    return parity.check_parity(
        patient.module,
        Path(onnx_path),
        dataset.scanned,
        tolerance=tolerance,
        synthetic=dataset.synthetic,
        model_record=patient.record,
    )


def _read(patient: Patient, dataset: Dataset) -> list[Path]:
    """The files that this run has read, which it must not write."""
    return [*patient.files, *(Path(name) for name in (dataset.source,) if name and Path(name).exists())]


def _opened(model: Source) -> Patient:
    return model if isinstance(model, Patient) else open_patient(model)


def _check_numbers(options: Treatment) -> None:
    numbers = {**asdict(options), **asdict(options.training)}
    for name, value in numbers.items():
        parts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(part, float) and not math.isfinite(part) for part in parts):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {', '.join(map(str, parts))}", "a finite number", f"leave {option} out")
    bounds = options.training.alpha_range
    if bounds is not None and not bounds[0] <= options.alpha <= bounds[1]:
        raise UsageError(
            f"--alpha {options.alpha:g} lies outside --alpha-range {bounds[0]:g},{bounds[1]:g}",
            "slopes that start within their range",
            f"--alpha {bounds[0]:g}, or a range that holds {options.alpha:g}",
        )


def _check_python_model(module: nn.Module, model: records.Model, done: str) -> None:
    """Refuses TorchScript, which is compiled and can be neither operated on nor exported."""
    if isinstance(module, torch.jit.ScriptModule):
        raise UsageError(
            f"{escaped(model.path) or 'the model'} is TorchScript, compiled code, which cannot be {done}",
            "the model's Python class, which takes the weights out of the same file",
            "--arch module:callable beside it, with the class that was scripted or traced",
        )


def _told_as_os_error(write: Writer) -> Writer:
    """The writer, whose failure on a full disk is an OSError: its serialisers have errors of their own for that."""

    def written(path: Path) -> None:
        try:
            write(path)
        except (SafetensorError, RuntimeError) as error:
            raise OSError(str(error).splitlines()[0]) from error

    return written


def _proved_export(
    model: nn.Module,
    dataset: Dataset,
    record: records.Model,
    opset: int | None,
    target: Path,
    proofs: list[records.ParityReport],
) -> Callable[[Path], None]:
    """A writer that exports and raises unless the file is proved equal to the model."""

    def tried(example: Batch, path: Path, *, open_batch: bool = True) -> records.ParityReport:
        written = onnx_file.export_onnx(model, example, path, opset=opset, open_batch=open_batch)
        proof = parity.check_parity(model, path, dataset.scanned, synthetic=dataset.synthetic, model_record=record)
        return records.replace(proof, fixed_because=written.fixed_because)

    def open_or_fixed(example: Batch, path: Path) -> records.ParityReport:
        proof = tried(example, path)
        frozen = why_frozen(proof)
        if not frozen:
            return proof
        try:
            fixed = tried(example, path, open_batch=False)
        except (BrokenPromiseError, ForwardError):
            return proof
        return records.replace(fixed, fixed_because=frozen) if fixed.verdict == "healthy" else proof

    def in_the_data_form(batch: Batch, path: Path) -> records.ParityReport:
        """For any batch size where the forward allows it; else for what the data holds."""
        if not batch.resizable:
            proof = tried(batch, path, open_batch=False)
            why = "the data yields whole calls" if batch.whole else "the model takes batches of this size alone"
            return records.replace(proof, fixed_because=why)
        try:
            return open_or_fixed(batch.take(slice(0, 2)), path)
        except ForwardError as error:
            if batch.size <= 2:
                raise
            # A forward that takes neither one sample nor two may take whole batches.
            proof = tried(batch, path, open_batch=False)
            return records.replace(proof, fixed_because=error.found.splitlines()[0])

    def write(path: Path) -> None:
        try:
            proof = in_the_data_form(dataset.first().to(device_of(model)), path)
        except DoctorError as error:
            raise type(error)(*(part.replace(str(path), str(target)) for part in error.args)) from error
        failed = [check for check in proof.checks if not check.passed]
        if failed:
            raise _not_equal(target, failed)
        proofs.append(records.replace(proof, onnx_path=str(target)))

    return write


def _not_equal(target: Path, failed: Sequence[records.ParityCheck]) -> BrokenPromiseError:
    worst = max(failed, key=lambda check: check.scaled_error)
    detail = f" ({worst.detail})" if worst.detail else ""
    return BrokenPromiseError(
        f"{target}: the exported file differs from the model in {len(failed)} checks; worst: {worst.output} at batch "
        f"size {worst.batch_size}, scaled error {worst.scaled_error:.3g}{detail}",
        "the same outputs at every batch size",
        "look for a forward that depends on the batch size, draws random numbers, or computes in less than float32; "
        "nothing was written",
    )


def _convert_report(patient: Patient, dataset: Dataset, treated: Treated) -> records.ConvertReport:
    after = records.replace(
        patient.record,
        path="",
        sha256="",
        kind="in-memory",
        parameters=sum(parameter.numel() for parameter in treated.model.parameters()),
    )
    tuned = treated.fine_tune
    return records.ConvertReport(
        tool=records.Tool(version=__version__),
        before=scan_report(patient.record, dataset, treated.before),
        after=scan_report(after, dataset, treated.after),
        changes=treated.changes,
        preservation=treated.preservation,
        before_fitting=treated.before_fitting,
        fine_tune=tuned if isinstance(tuned, records.FineTune) else None,
        not_trained="" if isinstance(tuned, records.FineTune) else tuned,
    )


def _plain_options(options: Treatment) -> dict[str, str | int | float | bool | None]:
    flat = {**asdict(options.training), **asdict(options)}
    flat["activations"] = ",".join(options.activations)
    flat["alpha_range"] = options.training.alpha_range and "{},{}".format(*options.training.alpha_range)
    return {name: value for name, value in flat.items() if isinstance(value, str | int | float | bool | None)}

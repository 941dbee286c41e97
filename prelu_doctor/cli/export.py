"""`prelu-doctor export`: a checkpoint as ONNX, written once it is proved equal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prelu_doctor.cli import options
from prelu_doctor.cli.formats import Format, ReportFormat
from prelu_doctor.cli.inputs import Inputs, takes_inputs
from prelu_doctor.cli.terminal import deliver, exit_codes, live_progress, note

NAME = "export"


@takes_inputs
def run(
    checkpoint: options.Checkpoint,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="The ONNX file.")],
    *,
    inputs: Inputs,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set.", show_default="the exporter's own")] = None,
    form: Format = ReportFormat.TEXT,
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Export a checkpoint to ONNX. The file is written once onnxruntime gives the model's own outputs."""
    with exit_codes(debug=debug):
        from prelu_doctor.doctor import export_onnx
        from prelu_doctor.outputs import check_targets

        check_targets([output], force=force, inputs=inputs.files(checkpoint))
        patient = inputs.patient(checkpoint)
        if patient.note:
            note(patient.note, quiet=quiet)
        with live_progress(quiet=quiet) as phase:
            phase("exporting and proving", 0, None, None)
            report = export_onnx(patient, output, inputs.dataset(patient), opset=opset, force=force)
        deliver(report, form, None, force=force, quiet=quiet)

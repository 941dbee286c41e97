"""`prelu-doctor parity`: is the ONNX file the same function?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prelu_doctor.cli import options
from prelu_doctor.cli.formats import Format, ReportFormat
from prelu_doctor.cli.inputs import Inputs, takes_inputs
from prelu_doctor.cli.terminal import FINDINGS, deliver, exit_codes, live_progress, note

NAME = "parity"


@takes_inputs
def run(
    checkpoint: options.Checkpoint,
    onnx: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The file to judge.")],
    *,
    inputs: Inputs,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest max |onnx - torch| / max |torch| that passes.")
    ] = 1e-5,
    form: Format = ReportFormat.TEXT,
    output: options.Output = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Compare an ONNX file with the eager model, output by output: exit code 0 the same, 1 not, 2 could not tell."""
    with exit_codes(debug=debug):
        from prelu_doctor.doctor import check_parity
        from prelu_doctor.outputs import check_targets

        check_targets([output] if output else [], force=force, inputs=[*inputs.files(checkpoint), onnx])
        patient = inputs.patient(checkpoint)
        if patient.note:
            note(patient.note, quiet=quiet)
        with live_progress(quiet=quiet) as phase:
            phase("comparing", 0, None, None)
            report = check_parity(patient, onnx, inputs.dataset(patient), tolerance=tolerance)
        deliver(report, form, output, force=force, quiet=quiet)
        if report.verdict != "healthy":
            raise typer.Exit(FINDINGS)

"""`prelu-doctor scan`: which units are dead, how sure is that, and why?"""

from __future__ import annotations

from typing import Annotated

import typer

from prelu_doctor.cli import options
from prelu_doctor.cli.formats import Format, ReportFormat
from prelu_doctor.cli.inputs import Inputs, takes_inputs
from prelu_doctor.cli.terminal import deliver, exit_codes, live_progress, note

NAME = "scan"


@takes_inputs
def run(
    checkpoint: options.Checkpoint,
    *,
    inputs: Inputs,
    rare: Annotated[
        float, typer.Option(min=0, max=1, help="A unit that fires on less than this share of samples is rare.")
    ] = 0.01,
    tau: Annotated[float, typer.Option(min=0, help="A unit with at most this Sokar score is dormant.")] = 0.025,
    form: Format = ReportFormat.TEXT,
    output: options.Output = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Find every ReLU call of a model and which of its units are dead.

    Of weights alone, without --arch, it tells what weights can tell.
    Findings do not change the exit code; `prelu-doctor check` is the gate.
    """
    with exit_codes(debug=debug):
        from prelu_doctor.bare_weights import BareWeights, weights_report
        from prelu_doctor.outputs import check_targets

        check_targets([output] if output else [], force=force, inputs=inputs.files(checkpoint))
        examined = inputs.examined(checkpoint)
        if examined.note:
            note(examined.note, quiet=quiet)
        if isinstance(examined, BareWeights):
            deliver(weights_report(examined), form, output, force=force, quiet=quiet)
            return
        from prelu_doctor.doctor import scan  # it brings the exporters, which weights alone do not need
        from prelu_doctor.scanning.scan import Thresholds

        with live_progress(quiet=quiet) as phase:
            report = scan(examined, inputs.dataset(examined), thresholds=Thresholds(rare, tau), phase=phase)
        deliver(report, form, output, force=force, quiet=quiet)

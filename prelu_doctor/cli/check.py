"""`prelu-doctor check`: may this checkpoint ship?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prelu_doctor.cli import options
from prelu_doctor.cli.formats import FormatOfCheck, GateFormat
from prelu_doctor.cli.inputs import Inputs, takes_inputs
from prelu_doctor.cli.terminal import Phase, deliver, exit_codes, live_progress, note, say, show
from prelu_doctor.errors import DoctorError, UsageError

if TYPE_CHECKING:
    from prelu_doctor.records import ModelVerdict, ScanReport

NAME = "check"


@takes_inputs
def run(
    checkpoints: Annotated[list[Path] | None, typer.Argument(metavar="CHECKPOINT...", help="Files to judge.")] = None,
    *,
    inputs: Inputs,
    max_dead: Annotated[float, typer.Option(help="Largest share of dead units in the whole net.")] = 0.05,
    max_dead_site: Annotated[float, typer.Option(help="Largest share of dead units at any one site.")] = 0.5,
    allow_synthetic: Annotated[
        bool, typer.Option("--allow-synthetic", help="Let noise instead of data decide.")
    ] = False,
    form: FormatOfCheck = GateFormat.TEXT,
    output: options.Output = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Gate a pipeline on model health: exit code 0 healthy, 1 over a limit, 2 could not tell."""
    with exit_codes(debug=debug):
        from prelu_doctor import __version__, records
        from prelu_doctor.gate.judgement import check_limits
        from prelu_doctor.gate.summary import exit_code, summarise
        from prelu_doctor.outputs import check_targets

        check_limits(max_dead, max_dead_site)
        files = checkpoints or []
        if not files:
            raise UsageError("no checkpoint to check", "one file or more", "prelu-doctor check model.pt")
        check_targets([output] if output else [], force=force, inputs=inputs.files(*files))
        with live_progress(quiet=quiet) as phase:
            limits = {"max_dead": max_dead, "max_dead_site": max_dead_site}
            judge = partial(_judged, inputs=inputs, limits=limits, allow_synthetic=allow_synthetic, phase=phase)
            verdicts = [judge(file, quiet=quiet, debug=debug) for file in files]
        report = summarise(verdicts, tool=records.Tool(version=__version__), **limits)
        deliver(report, form, output, force=force, quiet=quiet)
        raise typer.Exit(exit_code(report.verdict))


def _judged(
    file: Path,
    *,
    inputs: Inputs,
    limits: dict[str, float],
    allow_synthetic: bool,
    phase: Phase,
    quiet: bool,
    debug: bool,
) -> ModelVerdict:
    """One checkpoint's verdict; a file that cannot be scanned is undecided and does not stop the others."""
    from prelu_doctor.gate.judgement import judge, undecided

    try:
        report = _report_of(file, inputs=inputs, phase=phase, quiet=quiet)
    except DoctorError as error:
        if debug:
            show(error, debug=True)
        else:  # the report has the whole of it
            say(f"error: {_named(file, error)}")
        return undecided(str(file), str(error))
    return judge(report, allow_synthetic=allow_synthetic, **limits)


def _named(file: Path, error: DoctorError) -> str:
    """What was found, in one line that names the file."""
    from prelu_doctor.escaping import escaped, plain

    found = error.found.partition("\n")[0]
    return found if any(name in found for name in (plain(str(file)), escaped(file))) else f"{plain(str(file))}: {found}"


def _report_of(file: Path, *, inputs: Inputs, phase: Phase, quiet: bool) -> ScanReport:
    from prelu_doctor.bare_weights import BareWeights, weights_report

    examined = inputs.examined(file)
    if examined.note:
        note(f"{file}: {examined.note}", quiet=quiet)
    if isinstance(examined, BareWeights):
        return weights_report(examined)
    from prelu_doctor.doctor import scan  # it brings the exporters, which weights alone do not need

    return scan(examined, inputs.dataset(examined), phase=phase)

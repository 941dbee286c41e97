"""`prelu-doctor convert`: cure a model without breaking it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prelu_doctor.cli import options
from prelu_doctor.cli.formats import Format, ReportFormat
from prelu_doctor.cli.inputs import Inputs, takes_inputs
from prelu_doctor.cli.terminal import deliver, exit_codes, live_progress, note
from prelu_doctor.errors import UsageError

if TYPE_CHECKING:
    from prelu_doctor.treatment.conversion import Treatment

NAME = "convert"
_TREATMENT = "Treatment options"
_TRAINING = "Fine-tuning options"


class AlphaShape(StrEnum):
    """How many slopes there are."""

    CHANNEL = "channel"
    SITE = "site"
    TIED = "tied"


class Reinit(StrEnum):
    """Which units are He re-initialised."""

    DEAD = "dead"
    ALL = "all"
    NONE = "none"


class Optimizer(StrEnum):
    """How to descend."""

    ADAM = "adam"
    ADAMW = "adamw"
    SGD = "sgd"


@takes_inputs
def run(
    checkpoint: options.Checkpoint,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT.safetensors",
            help="The converted checkpoint; OUT.pt2 is a program that needs no class. Any other ending: a plain state"
            " dict, its recipe in a file beside it.",
        ),
    ],
    onnx: Annotated[
        Path | None, typer.Option("--onnx", metavar="OUT.onnx", help="Also export, and prove the file equal.")
    ] = None,
    pt2: Annotated[
        Path | None,
        typer.Option(
            "--pt2",
            metavar="OUT.pt2",
            rich_help_panel="Output options",
            help="Also write a torch.export program, proved to be the same function; it needs no class.",
        ),
    ] = None,
    *,
    inputs: Inputs,
    alpha: Annotated[
        float,
        typer.Option(
            rich_help_panel=_TREATMENT, help="Where the slopes of ReLUs start. 0 keeps the function; recipes say 0.25."
        ),
    ] = 0.0,
    alpha_shape: Annotated[
        AlphaShape,
        typer.Option(rich_help_panel=_TREATMENT, help="One slope a channel, a site, or for the whole net."),
    ] = AlphaShape.CHANNEL,
    activations: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            rich_help_panel=_TREATMENT,
            help="What becomes a PReLU: relu, relu6, leaky_relu, gelu, silu, hardswish. No PReLU equals the last three:"
            " their slopes are fitted, and the output moves.",
        ),
    ] = "relu,relu6",
    reinit: Annotated[
        Reinit, typer.Option(rich_help_panel=_TREATMENT, help="Which units are He re-initialised.")
    ] = Reinit.DEAD,
    revive_bound: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel=_TREATMENT,
            help="Largest firing-rate bound at which silence counts as death (0.01 asks for 299 samples).",
        ),
    ] = 0.01,
    epochs: Annotated[float, typer.Option(min=0, rich_help_panel=_TRAINING, help="Passes over the data; 0: none.")] = 5,
    steps: Annotated[
        int | None,
        typer.Option(min=0, rich_help_panel=_TRAINING, help="Steps instead of epochs; 0: none.", show_default="epochs"),
    ] = None,
    optimizer: Annotated[Optimizer, typer.Option(rich_help_panel=_TRAINING, help="The optimiser.")] = Optimizer.ADAM,
    lr: Annotated[float, typer.Option(min=0, rich_help_panel=_TRAINING, help="Learning rate of the weights.")] = 1e-3,
    alpha_lr: Annotated[
        float | None,
        typer.Option(min=0, rich_help_panel=_TRAINING, help="Learning rate of the slopes.", show_default="10 x --lr"),
    ] = None,
    alpha_weight_decay: Annotated[
        float, typer.Option(min=0, rich_help_panel=_TRAINING, help="Weight decay of the slopes; it pushes them to 0.")
    ] = 0.0,
    alpha_range: Annotated[
        str | None,
        typer.Option(
            metavar="LO,HI", rich_help_panel=_TRAINING, help="Keep the slopes within bounds.", show_default="no bounds"
        ),
    ] = None,
    freeze_alpha_after: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="STEPS", rich_help_panel=_TRAINING, help="Stop training the slopes.", show_default="never"
        ),
    ] = None,
    control: Annotated[
        bool,
        typer.Option(
            "--control/--no-control",
            rich_help_panel=_TRAINING,
            help="Also train the untouched model by the same steps, to tell whether the surgery helped.",
        ),
    ] = True,
    form: Format = ReportFormat.TEXT,
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Turn ReLUs into learnable PReLUs and revive dead units, without moving the output until the fine-tune.

    The report goes to stdout. Exit code 1: the promise could not be kept, and nothing was written.
    """
    with exit_codes(debug=debug):
        from prelu_doctor.doctor import convert
        from prelu_doctor.outputs import check_targets
        from prelu_doctor.treatment.converted_file import files_of

        check_targets(
            [*files_of(output), *(file for file in (onnx, pt2) if file)], force=force, inputs=inputs.files(checkpoint)
        )
        treatment = _treatment(
            alpha=alpha,
            alpha_shape=alpha_shape.value,
            activations=activations,
            reinit=reinit.value,
            revive_bound=revive_bound,
            epochs=epochs,
            steps=steps,
            optimizer=optimizer.value,
            lr=lr,
            alpha_lr=alpha_lr,
            alpha_weight_decay=alpha_weight_decay,
            alpha_range=_bounds(alpha_range),
            freeze_alpha_after=freeze_alpha_after,
            control=control,
            seed=inputs.seed,
        )
        patient = inputs.patient(checkpoint)
        if patient.note:
            note(patient.note, quiet=quiet)
        with live_progress(quiet=quiet) as phase:
            conversion = convert(patient, inputs.dataset(patient), treatment, phase=phase)
            if onnx or pt2 or output.suffix == ".pt2":
                phase("exporting and proving", 0, None, None)
            report = conversion.save(output, onnx=onnx, pt2=pt2, force=force)
        deliver(report, form, None, force=force, quiet=quiet)


def _treatment(
    *, alpha: float, alpha_shape: str, activations: str, reinit: str, revive_bound: float, seed: int, **training: object
) -> Treatment:
    from prelu_doctor.treatment.conversion import Treatment
    from prelu_doctor.treatment.fine_tuning import Training

    return Treatment(
        alpha=alpha,
        alpha_shape=alpha_shape,  # type: ignore[arg-type]  # the enum's values are the literals
        activations=tuple(name.strip() for name in activations.split(",")),
        reinit=reinit,  # type: ignore[arg-type]
        revive_bound=revive_bound,
        training=Training(seed=seed, **training),  # type: ignore[arg-type]
        seed=seed,
    )


def _bounds(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not low <= high:
        raise UsageError(f"--alpha-range {text!r}", "two numbers, the lower first, as 0,1")
    return low, high

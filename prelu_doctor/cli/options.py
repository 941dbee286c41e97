"""Options that commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_INPUT = "Input options"
_OUTPUT = "Output options"

Checkpoint = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="The trained model's file; it is never written.")
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="SPEC",
        rich_help_panel=_INPUT,
        help="Architecture of a file that holds weights alone: module:callable, path/to/file.py:callable, or a file"
        " that holds the module.",
    ),
]
ArchArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--arch-arg",
        metavar="KEY=VALUE",
        rich_help_panel=_INPUT,
        help="Keyword argument of the architecture, its value as JSON where it parses. Repeatable.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SPEC",
        rich_help_panel=_INPUT,
        help="Sample data: a .safetensors, .npz, .npy or .pt file, a folder of images, or module:callable."
        " Without it: seeded Gaussian noise, and findings are advice.",
    ),
]
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="3,224,224",
        rich_help_panel=_INPUT,
        help="Shape of one sample, without the batch axis. Repeat for several inputs.",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, rich_help_panel=_INPUT, help="Samples in a batch.")]
MaxSamples = Annotated[
    int | None,
    typer.Option("--max-samples", min=1, rich_help_panel=_INPUT, help="Most samples to scan.", show_default="all"),
]
Device = Annotated[str, typer.Option("--device", rich_help_panel=_INPUT, help="auto, cpu, cuda, cuda:1, ...")]
Seed = Annotated[  # NumPy, which the user's own data code may draw from, takes no seed beyond 32 bits
    int,
    typer.Option("--seed", min=0, max=2**32 - 1, rich_help_panel=_INPUT, help="Seed of everything that is drawn."),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", rich_help_panel=_INPUT, help="Read pickles of any class. Such a file can run any code on loading."
    ),
]
AllowClasses = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-class",
        metavar="PKG.MOD.CLASS",
        rich_help_panel=_INPUT,
        help="A class of yours that a pickled module may use. It is imported; nothing in the file runs. A script's own:"
        " __main__.Net=train.py:Net. Repeatable.",
    ),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        "--weights-key",
        metavar="KEY",
        rich_help_panel=_INPUT,
        help="Where in a training dictionary the weights stand, as ema or ema.shadow.",
        show_default="state_dict, model_state_dict, model, ...",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        rich_help_panel=_INPUT,
        help="The method to run instead of forward; for a file with several programs, the one to take.",
        show_default="forward",
    ),
]

Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", rich_help_panel=_OUTPUT, help="Write the report to a file."),
]
Force = Annotated[bool, typer.Option("--force", rich_help_panel=_OUTPUT, help="Replace existing output files.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", rich_help_panel=_OUTPUT, help="No progress and no notes.")]
Debug = Annotated[bool, typer.Option("--debug", rich_help_panel=_OUTPUT, help="Show the traceback of an error.")]

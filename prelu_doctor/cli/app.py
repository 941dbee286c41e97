"""The `prelu-doctor` command and its subcommands."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from prelu_doctor import __version__
from prelu_doctor.cli import check, convert, demo, explain, export, parity, scan
from prelu_doctor.cli.terminal import UNDECIDED, say

app = typer.Typer(
    name="prelu-doctor",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A doctor for trained PyTorch models: finds dead ReLU units at every call, and cures them.",
    epilog="Exit codes: 0 done (check, parity: healthy); 1 check or parity found something, or convert could not keep"
    " its promise; 2 could not tell: bad usage, unreadable or refused file, no data.",
)
for command in (scan, check, convert, export, parity, explain, demo):
    app.command(command.NAME)(command.run)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"prelu-doctor {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Finds dead ReLU units at every call of a trained PyTorch model, and cures them."""


def run() -> None:
    """The entry point."""
    try:
        app()
    except OSError as error:  # help and version are written outside of any command
        say(f"error: {error.filename or 'output'}: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(UNDECIDED)

"""`prelu-doctor explain`: what a finding's code means."""

from __future__ import annotations

from typing import Annotated

import typer

from prelu_doctor.cli import options
from prelu_doctor.cli.terminal import exit_codes, put

NAME = "explain"


def run(
    code: Annotated[str, typer.Argument(metavar="CODE", help="As PD101.")],
    debug: options.Debug = False,
) -> None:
    """Explain a finding: what it means, why it matters, what to do."""
    with exit_codes(debug=debug):
        from prelu_doctor.diagnosis.rules import explain

        put(explain(code).rstrip() + "\n")

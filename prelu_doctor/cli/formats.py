"""The formats that `--format` offers; named here once more because the renderers import rich."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class ReportFormat(StrEnum):
    """Formats of every report."""

    TEXT = "text"
    JSON = "json"


class GateFormat(StrEnum):
    """Formats of the gate's report."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"


Format = Annotated[ReportFormat, typer.Option("--format", help="How to write the report.")]
FormatOfCheck = Annotated[GateFormat, typer.Option("--format", help="How to write the report.")]

"""The formats a report comes in, and which function writes which."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from rich.console import RenderableType

from prelu_doctor.records import CheckReport, ConvertReport, ParityReport, Record, ScanReport
from prelu_doctor.reports.as_json import to_json
from prelu_doctor.reports.check_text import check_report
from prelu_doctor.reports.convert_text import convert_report
from prelu_doctor.reports.junit import to_junit
from prelu_doctor.reports.parity_text import parity_report
from prelu_doctor.reports.scan_text import scan_report
from prelu_doctor.reports.text import to_text


class Format(StrEnum):
    """The formats of every report."""

    TEXT = "text"
    JSON = "json"


class CheckFormat(StrEnum):
    """The formats of the gate's report."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"


def written(
    record: ScanReport | CheckReport | ConvertReport | ParityReport,
    form: Format | CheckFormat,
    *,
    width: int = 80,
    colour: bool = False,
    encoding: str = "utf-8",
) -> str:
    """The report in a format.

    Args:
        record: The report.
        form: The format.
        width: Columns, for text.
        colour: With ANSI colours, for text.
        encoding: Of the stream the text is meant for.

    Returns:
        The report, ending with a newline.
    """
    if form.value == "json":
        return to_json(record)
    if form.value == "junit" and isinstance(record, CheckReport):
        return to_junit(record)
    return to_text(_PAGES[type(record)](record), width=width, colour=colour, encoding=encoding)


_PAGES: dict[type[Record], Callable[..., RenderableType]] = {
    ScanReport: scan_report,
    CheckReport: check_report,
    ConvertReport: convert_report,
    ParityReport: parity_report,
}

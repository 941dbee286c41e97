"""The JSON Schemas of the reports."""

from __future__ import annotations

import json

import msgspec

from prelu_doctor.records import SCHEMA_VERSION, CheckReport, ConvertReport, ParityReport, Record, ScanReport

SCHEMAS: dict[str, type[Record]] = {
    "report.schema.json": ScanReport,
    "check.schema.json": CheckReport,
    "convert.schema.json": ConvertReport,
    "parity.schema.json": ParityReport,
}
"""The files that are checked in under `docs`, and the report that each describes."""


def report_schema(report: type[Record] = ScanReport) -> str:
    """The JSON Schema (2020-12) of a report, generated from the records; ends with a newline."""
    kind = report.__name__.removesuffix("Report").lower()
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"prelu-doctor {kind} report, schema_version {SCHEMA_VERSION}",
        **msgspec.json.schema(report),
    }
    return json.dumps(schema, indent=2) + "\n"

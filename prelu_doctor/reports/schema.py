"""The JSON Schemas of the reports."""

from __future__ import annotations

import json
from typing import Any

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
    """The JSON Schema (2020-12) of a report, generated from the records; ends with a newline.

    A number without bounds may be null: that is what JSON has for one that is not finite.
    """
    kind = report.__name__.removesuffix("Report").lower()
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"prelu-doctor {kind} report, schema_version {SCHEMA_VERSION}",
        **_with_nulls(msgspec.json.schema(report)),
    }
    return json.dumps(schema, indent=2) + "\n"


def _with_nulls(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_nulls(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "number" and not {"minimum", "maximum"} & schema.keys():
        return {**schema, "type": ["number", "null"]}
    return {key: _with_nulls(value) for key, value in schema.items()}

"""The JSON Schema of the scan report."""

from __future__ import annotations

import json

import msgspec

from prelu_doctor.records import SCHEMA_VERSION, ScanReport


def report_schema() -> str:
    """The JSON Schema (2020-12) of the scan report, generated from the records; ends with a newline."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"prelu-doctor scan report, schema_version {SCHEMA_VERSION}",
        **msgspec.json.schema(ScanReport),
    }
    return json.dumps(schema, indent=2) + "\n"

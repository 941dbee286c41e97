"""The records as JSON: the schema that is checked in, and reports that decode again."""

import json
import math
from pathlib import Path

import msgspec
import pytest
from record_examples import a_check_report, a_converted_cnn, a_dying_cnn, a_parity_report, sick_weights

from prelu_doctor.records import CheckReport, ConvertReport, Evaluation, FineTune, ParityReport, ScanReport
from prelu_doctor.reports.as_json import to_json
from prelu_doctor.reports.formats import _PAGES
from prelu_doctor.reports.schema import SCHEMAS, report_schema

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "reports" / "golden"
FIELDS_OF_VERSION_1 = {
    "schema_version tool model data sites unresolved totals findings verdict": "ScanReport",
    "path sha256 kind parameters": "Model",
    "source synthetic samples seed": "Data",
    "id function source unit_axis axis_assumed input_independent units dead dead_units rare always_on dormant "
    "firing_rate positive_rate producers consumers alpha": "Site",
    "id reason": "Unresolved",
    "sites units dead dead_fraction firing_rate_bound": "Totals",
    "code severity site message evidence": "Finding",
}


@pytest.mark.parametrize("file", SCHEMAS)
def test_the_schemas_that_are_checked_in_are_those_of_the_records(assert_golden, file):
    assert_golden(ROOT / "docs" / file, report_schema(SCHEMAS[file]))


def test_every_report_has_a_schema_under_its_own_title():
    assert sorted(path.name for path in (ROOT / "docs").glob("*.schema.json")) == sorted(SCHEMAS)
    assert set(SCHEMAS.values()) == set(_PAGES)
    titles = {json.loads(report_schema(record))["title"] for record in SCHEMAS.values()}
    assert titles == {
        f"prelu-doctor {name} report, schema_version 1" for name in ("scan", "check", "convert", "parity")
    }


@pytest.mark.parametrize("file", SCHEMAS)
def test_every_report_fits_its_schema_and_a_broken_one_does_not(file):
    schema = json.loads(report_schema(SCHEMAS[file]))
    report = json.loads(to_json(EXAMPLES[SCHEMAS[file]]))
    assert not list(misfits(report, schema, schema))
    assert list(misfits(report | {"verdict": "fine", "tool": 3}, schema, schema))


def test_a_report_with_a_loss_that_is_no_number_fits_its_schema():
    nothing = Evaluation(loss=math.nan)
    losses = {"original": nothing, "start": nothing, "best": nothing}
    tuned = FineTune(objective="distillation", steps=1, epochs=1.0, best_step=0, **losses)
    schema = json.loads(report_schema(ConvertReport))
    assert not list(misfits(json.loads(to_json(a_converted_cnn(fine_tune=tuned))), schema, schema))


def misfits(value, schema, root):
    """Where a value breaks a schema: the few words that the schemas of records are written in."""
    known = {"$schema", "title", "$ref", "$defs", "anyOf", "type", "enum", "required", "properties", "items"}
    known |= {"minimum", "maximum", "description", "default", "additionalProperties"}
    assert set(schema) <= known, set(schema) - known
    if "$ref" in schema:
        yield from misfits(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema and all(list(misfits(value, one, root)) for one in schema["anyOf"]):
        yield f"{value!r} fits none of {schema['anyOf']}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{value!r} is none of {schema['enum']}"
    kinds = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    if kinds and not any(isinstance(value, TYPES[kind]) for kind in kinds):
        yield f"{value!r} is no {kinds}"
        return
    if {"minimum", "maximum"} & set(schema) and not schema.get("minimum", value) <= value <= schema.get(
        "maximum", value
    ):
        yield f"{value} is too small or too large"
    for name in schema.get("required", []):
        if name not in value:
            yield f"no {name}"
    for name, inner in schema.get("properties", {}).items():
        if name in value:
            yield from misfits(value[name], inner, root)
    for item in value if isinstance(value, list) else []:
        yield from misfits(item, schema.get("items", {}), root)


TYPES = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip
EXAMPLES = {
    ScanReport: sick_weights(),
    CheckReport: a_check_report(),
    ConvertReport: a_converted_cnn(),
    ParityReport: a_parity_report(),
}


@pytest.mark.parametrize(("fields", "record"), FIELDS_OF_VERSION_1.items())
def test_no_field_of_version_1_was_renamed_or_dropped(fields, record):
    assert set(fields.split()) <= set(json.loads(report_schema())["$defs"][record]["properties"])


def test_the_golden_scan_report_is_a_valid_report():
    text = (GOLDEN / "scan.json").read_bytes()
    assert msgspec.json.decode(text, type=ScanReport) == a_dying_cnn()


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        (a_dying_cnn(), ScanReport),
        (sick_weights(), ScanReport),
        (a_check_report(), CheckReport),
        (a_converted_cnn(), ConvertReport),
        (a_parity_report(), ParityReport),
    ],
)
def test_every_report_decodes_to_what_was_written(report, kind):
    assert msgspec.json.decode(to_json(report), type=kind) == report


@pytest.mark.parametrize(
    ("part", "value"), [("verdict", "fine"), ("schema_version", 2), ("totals", {"sites": -1}), ("sites", None)]
)
def test_a_report_that_breaks_the_schema_does_not_decode(part, value):
    broken = json.loads(to_json(a_dying_cnn())) | {part: value}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(broken, ScanReport)


def test_a_record_cannot_be_changed():
    with pytest.raises(AttributeError, match="immutable"):
        a_dying_cnn().verdict = "healthy"

"""The records as JSON: the schema that is checked in, and reports that decode again."""

import json
from pathlib import Path

import msgspec
import pytest
from record_examples import a_check_report, a_converted_cnn, a_dying_cnn, a_parity_report, sick_weights

from prelu_doctor.records import CheckReport, ConvertReport, ParityReport, ScanReport
from prelu_doctor.reports.as_json import to_json
from prelu_doctor.reports.schema import report_schema

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


def test_the_schema_that_is_checked_in_is_that_of_the_records(assert_golden):
    assert_golden(ROOT / "docs" / "report.schema.json", report_schema())


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

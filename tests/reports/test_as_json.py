"""JSON that any reader takes, and no name in it steers a terminal."""

import json
import math
from pathlib import Path

import pytest
from record_examples import a_check_report, a_converted_cnn, a_dying_cnn, a_report, a_site

from prelu_doctor.records import Evaluation, Finding, FineTune, Slopes
from prelu_doctor.reports.as_json import to_json
from prelu_doctor.reports.formats import CheckFormat, Format, written

GOLDEN = Path(__file__).parent / "golden"


def strict(text):
    def refuse(token):
        raise ValueError(token)

    return json.loads(text, parse_constant=refuse)


def test_the_scan_report_looks_as_it_was_approved(assert_golden):
    assert_golden(GOLDEN / "scan.json", to_json(a_dying_cnn()))


def test_keys_stand_in_the_order_of_the_records():
    keys = list(strict(to_json(a_dying_cnn())))
    version_1 = ["schema_version", "tool", "model", "data", "sites", "unresolved", "totals", "findings", "verdict"]
    assert keys == [*version_1, "basis", "weights"]


def test_a_list_of_figures_takes_one_line_and_the_text_ends_with_a_newline():
    text = to_json(a_report([a_site(units=4, dead=1)]))
    assert '\n      "firing_rate": [0.0, 0.5, 0.5, 0.5],\n' in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_null(bad):
    slopes = Slopes(shape="channel", min=bad, mean=bad, max=1.0, values=[bad, 1.0])
    evaluation = Evaluation(loss=bad)
    tuned = FineTune(
        objective="distillation",
        steps=1,
        epochs=bad,
        best_step=0,
        original=evaluation,
        start=evaluation,
        best=evaluation,
    )
    report = strict(to_json(a_converted_cnn(before=a_report([a_site(alpha=slopes)]), fine_tune=tuned)))
    assert report["before"]["sites"][0]["alpha"] == {
        "shape": "channel",
        "min": None,
        "mean": None,
        "max": 1.0,
        "values": [None, 1.0],
    }
    assert report["fine_tune"]["best"]["loss"] is None


def test_names_come_back_whole_but_are_ascii_in_the_file():
    name = '[red]"\\\x1b[2J\u202e\x9b\x7f модель \udcff'
    text = to_json(a_report([a_site(name)]))
    assert text.isascii()
    assert not {char for char in text if char < " "} - {"\n"}
    assert strict(text)["sites"][0]["id"] == name


def test_evidence_of_any_shape_is_written():
    evidence = {"none": None, "empty": {}, "names": [], "nested": [{"a": [1, 2]}, []], "yes": True}
    assert (
        strict(to_json(Finding(code="PD101", severity="note", message="", evidence=evidence)))["evidence"] == evidence
    )


def test_every_format_of_every_report_is_written():
    for form in Format:
        assert written(a_dying_cnn(), form)
    texts = {form: written(a_check_report(), form) for form in CheckFormat}
    assert texts[CheckFormat.TEXT].startswith("prelu-doctor")
    assert strict(texts[CheckFormat.JSON])["verdict"] == "findings"
    assert texts[CheckFormat.JUNIT].startswith("<?xml")
    assert len(set(texts.values())) == len(CheckFormat)

"""Codes are stable, and every one is explained."""

import pytest

from prelu_doctor.diagnosis.findings import _CHECKS
from prelu_doctor.diagnosis.rules import RULES, explain, rule
from prelu_doctor.diagnosis.weight_findings import WEIGHT_CHECKS
from prelu_doctor.errors import UsageError

STABLE = {
    "PD101": "warning",
    "PD102": "error",
    "PD103": "note",
    "PD104": "note",
    "PD105": "note",
    "PD106": "note",
    "PD107": "note",
    "PD201": "error",
    "PD202": "error",
    "PD301": "note",
    "PD302": "note",
    "PD303": "warning",
    "PD401": "note",
    "PD402": "note",
    "PD403": "note",
    "PD501": "note",
    "PD502": "warning",
    "PD503": "warning",
    "PD504": "note",
    "PD505": "note",
    "PD506": "note",
    "PD507": "note",
    "PD508": "note",
}


def test_codes_and_their_severities_never_change():
    assert {code: entry.severity for code, entry in RULES.items()} == STABLE


def test_every_rule_has_a_check_and_every_check_a_rule():
    assert set(_CHECKS) | set(WEIGHT_CHECKS) == set(RULES)


@pytest.mark.parametrize("code", RULES)
def test_an_explanation_says_what_it_means_and_what_to_do(code):
    text = explain(code)
    entry = RULES[code]
    assert text.startswith(f"{code}  {entry.title}")
    assert entry.meaning in text
    assert text.rstrip().endswith(entry.remedy)
    assert min(len(entry.meaning), len(entry.remedy)) > 60


def test_a_code_is_found_however_it_was_typed():
    assert rule(" pd101 ") is RULES["PD101"]


def test_an_unknown_code_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="PD999") as raised:
        rule("PD999")
    assert "PD101, PD102" in raised.value.expected

"""JUnit XML as CI servers read it."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from msgspec import structs
from record_examples import TOOL, a_check_report, a_model, a_report, a_site

from prelu_doctor.gate.judgement import judge, undecided
from prelu_doctor.gate.summary import summarise
from prelu_doctor.reports.junit import to_junit

GOLDEN = Path(__file__).parent / "golden"


def parsed(*models):
    return ET.fromstring(to_junit(summarise(models, tool=TOOL)).encode())  # noqa: S314 written by ourselves


def outcomes(suite):
    return {case.get("name"): case[0].tag if len(case) else "passed" for case in suite}


def test_the_check_report_looks_as_it_was_approved(assert_golden):
    assert_golden(GOLDEN / "check.xml", to_junit(a_check_report()))


def test_every_limit_is_a_test_case():
    root = parsed(judge(a_report([a_site("a", units=100), a_site("b", units=100)])))
    assert outcomes(root[0]) == dict.fromkeys(
        ["evidence", "non-finite", "max-dead", "max-dead-site: a", "max-dead-site: b"], "passed"
    )


def test_a_broken_limit_is_a_failure_with_its_message():
    root = parsed(judge(a_report([a_site("a", units=1000), a_site("b", units=10, dead=6)])))
    assert outcomes(root[0])["max-dead-site: b"] == "failure"
    assert outcomes(root[0])["max-dead-site: a"] == "passed"
    message = root.find(".//failure").get("message")
    assert "b: 6 of 10 units are dead (60 %), 50 % allowed" in message


def test_what_could_not_be_judged_is_an_error_and_its_limits_are_skipped():
    noise = a_report([a_site("a", dead=8)])
    noise = structs.replace(noise, data=structs.replace(noise.data, synthetic=True))
    assert outcomes(parsed(judge(noise))[0]) == {
        "evidence": "error",
        "non-finite": "passed",
        "max-dead": "skipped",
        "max-dead-site: a": "skipped",
    }


def test_an_unreadable_checkpoint_is_an_error_with_the_reason():
    root = parsed(undecided("a.pt", "not a checkpoint\nexpected: a file of torch.save"))
    assert outcomes(root[0]) == {"scan": "error"}
    assert root.find(".//error").text == "not a checkpoint\nexpected: a file of torch.save"


def test_the_counts_are_those_of_the_elements():
    root = ET.fromstring(to_junit(a_check_report()).encode())  # noqa: S314 written by ourselves
    for element in (root, *root):
        for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped",) * 2):
            assert int(element.get(attribute)) == len(list(element.iter(tag))), attribute
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == ("18", "3", "2", "2")


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x00", "\ud800", "\uffff", "<&\"'>]]>", "\u202e"])
def test_no_name_breaks_the_document(evil):
    broken = a_model(path=evil, non_finite=[evil])
    root = parsed(judge(a_report([a_site(evil, dead=8)], model=broken)), undecided(evil, evil))
    assert [suite.get("name") for suite in root] == [root[0].get("name")] * 2
    if evil.startswith("<"):
        assert root[0].get("name") == evil


def test_a_check_of_nothing_is_an_empty_document():
    assert parsed().get("tests") == "0"

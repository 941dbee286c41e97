"""One verdict over all checkpoints, and its exit code."""

import pytest
from record_examples import TOOL, a_report, a_site, some_data

from prelu_doctor.gate.judgement import judge, undecided
from prelu_doctor.gate.summary import exit_code, summarise

HEALTHY = judge(a_report())
DYING = judge(a_report([a_site(dead=8)]))
NOISE = judge(a_report(data=some_data(synthetic=True)))
UNREADABLE = undecided("a.pt", "gone")


@pytest.mark.parametrize(
    ("models", "verdict", "code"),
    [
        ([HEALTHY, HEALTHY], "healthy", 0),
        ([HEALTHY, NOISE], "undecided", 2),
        ([HEALTHY, UNREADABLE], "undecided", 2),
        ([UNREADABLE, NOISE, DYING, HEALTHY], "findings", 1),
        ([], "undecided", 2),
    ],
)
def test_findings_outweigh_doubt_and_doubt_outweighs_health(models, verdict, code):
    report = summarise(models, tool=TOOL, max_dead=0.1, max_dead_site=0.2)
    assert report.verdict == verdict
    assert exit_code(report.verdict) == code
    assert (report.models, report.max_dead, report.max_dead_site) == (models, 0.1, 0.2)

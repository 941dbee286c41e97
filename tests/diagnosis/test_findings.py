"""One code a finding, each from hand-made counts."""

import subprocess
import sys

import pytest
from record_examples import a_model, a_report, a_site, some_data

from prelu_doctor.records import Unresolved


def found(code, *sites, **parts):
    report = a_report(list(sites), **parts)
    return [finding for finding in report.findings if finding.code == code]


def codes(*sites, **parts):
    return [finding.code for finding in a_report(list(sites), **parts).findings]


def test_a_healthy_site_has_no_findings():
    assert codes(a_site()) == []


def test_dead_units_are_a_warning_that_holds_the_figures():
    (finding,) = found("PD101", a_site("relu", units=8, dead=2))
    assert (finding.severity, finding.site) == ("warning", "relu")
    assert "2 of 8 units are dead" in finding.message
    assert "512 samples" in finding.message
    assert "0.583 %" in finding.message
    evidence = finding.evidence
    assert (evidence["dead"], evidence["units"], evidence["dead_fraction"]) == (2, 8, 0.25)
    assert evidence["samples"] == 512
    assert evidence["firing_rate_bound"] == pytest.approx(0.00583, abs=1e-5)
    assert evidence["certain"] is False


def test_one_dead_unit_is_spoken_of_in_the_singular():
    (finding,) = found("PD101", a_site(dead=1))
    assert "1 of 8 units is dead" in finding.message


def test_a_site_that_is_dead_as_a_whole_is_one_error_and_no_warning():
    found_codes = codes(a_site(units=8, dead=8))
    assert "PD102" in found_codes
    assert "PD101" not in found_codes


@pytest.mark.parametrize("dead", [2, 8])
def test_dead_units_that_the_input_does_not_reach_are_certain(dead):
    finding = a_report([a_site(units=8, dead=dead, input_independent=True)]).findings[0]
    assert "certain" in finding.message
    assert "95 %" not in finding.message
    assert finding.evidence["certain"] is True


def test_a_site_without_units_is_not_called_dead_or_always_on():
    assert codes(a_site(units=0)) == []


def test_rare_units_are_a_note():
    (finding,) = found("PD103", a_site(rare=3))
    assert finding.severity == "note"
    assert finding.evidence["rare"] == 3


def test_a_site_that_is_always_on_does_nothing():
    (finding,) = found("PD104", a_site(units=4, always_on=4))
    assert "does nothing" in finding.message


def test_a_site_with_one_unit_that_is_not_always_on_is_in_use():
    assert found("PD104", a_site(units=4, always_on=3)) == []


def test_an_always_positive_relu6_may_still_cut_at_6():
    (finding,) = found("PD104", a_site(units=4, always_on=4, function="relu6"))
    assert "does nothing" not in finding.message


def test_dormant_units_are_counted_beyond_the_dead_ones():
    (finding,) = found("PD105", a_site(units=8, dead=2, dormant=5))
    assert "3 of 8 units" in finding.message
    assert found("PD105", a_site(units=8, dead=2, dormant=2)) == []


def test_never_positive_units_are_a_note_not_a_death():
    assert codes(a_site(function="prelu", never_positive=2)) == ["PD106"]


def test_non_finite_weights_are_an_error_that_names_them():
    (finding,) = found("PD201", a_site(), model=a_model(non_finite=["a", "b", "c", "d"]))
    assert finding.severity == "error"
    assert "a, b, c and 1 more" in finding.message
    assert finding.evidence["tensors"] == ["a", "b", "c", "d"]


def test_a_nan_at_a_site_is_an_error():
    (finding,) = found("PD202", a_site("relu", saw_nan=True))
    assert (finding.severity, finding.site) == ("error", "relu")
    assert "NaN reached" in finding.message


def test_minus_infinity_alone_is_a_warning_since_a_relu_stops_it():
    (finding,) = found("PD202", a_site(saw_negative_infinity=True))
    assert finding.severity == "warning"
    assert "-inf reached" in finding.message


def test_synthetic_input_is_noted():
    (finding,) = found("PD301", a_site(), data=some_data(synthetic=True))
    assert finding.severity == "note"


@pytest.mark.parametrize(("samples", "expected"), [(58, ["PD302"]), (59, [])])
def test_fifty_nine_samples_are_enough_for_a_bound_of_five_percent(samples, expected):
    assert codes(a_site(samples=samples), data=some_data(samples=samples)) == expected


@pytest.mark.parametrize(("dead", "severity"), [(0, "note"), (1, "warning")])
def test_too_few_samples_weigh_more_where_units_were_called_dead(dead, severity):
    (finding,) = found("PD302", a_site(samples=10, dead=dead), data=some_data(samples=10))
    assert finding.severity == severity
    assert finding.evidence["needed"] == 59


def test_few_samples_do_not_matter_where_the_input_does_not_reach():
    assert found("PD302", a_site(samples=1, input_independent=True), data=some_data(samples=1)) == []


def test_a_model_without_sites_is_not_passed_over_in_silence():
    assert codes() == ["PD303"]


def test_sites_without_a_sample_are_not_passed_over_in_silence():
    assert codes(a_site(samples=0), data=some_data(samples=0)) == ["PD303"]


def test_what_was_not_examined_is_listed():
    (finding,) = found("PD401", a_site(), unresolved=[Unresolved(id="aux.relu", reason="never reached")])
    assert finding.evidence["unresolved"] == ["aux.relu"]


def test_an_assumed_axis_is_noted():
    (finding,) = found("PD402", a_site("relu", axis_assumed=True, unit_axis=3))
    assert "axis 3 is assumed" in finding.message


def test_counts_of_rows_are_noted():
    (finding,) = found("PD403", a_site("relu", counted="rows", samples=4096))
    assert "4096 rows" in finding.message


def test_the_gravest_findings_come_first_and_then_go_by_code_and_forward_order():
    sites = [a_site("a", rare=1), a_site("b", dead=1, rare=1), a_site("c", dead=8), a_site("d", dead=2)]
    report = a_report(sites, model=a_model(non_finite=["w"]))
    assert [(finding.code, finding.site) for finding in report.findings] == [
        ("PD102", "c"),
        ("PD201", None),
        ("PD101", "b"),
        ("PD101", "d"),
        ("PD103", "a"),
        ("PD103", "b"),
    ]


@pytest.mark.parametrize("folder", ["diagnosis.findings", "diagnosis.verdict", "gate.summary", "reports.formats"])
def test_judging_and_reporting_import_no_torch(folder):
    program = f"import sys, prelu_doctor.{folder}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0  # noqa: S603 our own words

"""What the gate lets pass."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from record_examples import a_model, a_report, a_site, some_data

from prelu_doctor.errors import UsageError
from prelu_doctor.gate.judgement import judge, undecided

NOISE = some_data(source="noise", synthetic=True)


def limits(verdict):
    return [breach.limit for breach in verdict.breaches]


def test_a_model_within_its_limits_is_healthy():
    report = a_report([a_site(units=100, dead=3)])
    verdict = judge(report)
    assert (verdict.verdict, verdict.breaches, verdict.path) == ("healthy", [], "dying_cnn.pt")
    assert verdict.report is report


def test_dead_units_over_the_limit_of_the_whole_model_fail_it():
    verdict = judge(a_report([a_site(units=100, dead=3), a_site(units=100, dead=8)]))
    assert verdict.verdict == "findings"
    (breach,) = verdict.breaches
    assert (breach.limit, breach.site, breach.measured, breach.allowed) == ("max-dead", None, 0.055, 0.05)
    assert "11 of 200 units are dead (5.5 %), 5 % allowed" in breach.message


@pytest.mark.parametrize(("samples", "doubted"), [(1, True), (58, True), (59, False), (512, False)])
def test_a_count_that_rests_on_few_samples_says_so_and_fails_all_the_same(samples, doubted):
    verdict = judge(a_report([a_site(units=10, dead=6, samples=samples)], data=some_data(samples=samples)))
    assert verdict.verdict == "findings"
    assert [("so few samples" in breach.message) for breach in verdict.breaches] == [doubted] * 2
    if samples == 1:
        assert "on so few samples each may fire on up to 95 % of all" in verdict.breaches[0].message


def test_what_is_certain_is_not_doubted():
    report = a_report([a_site(units=10, dead=6, samples=1, input_independent=True)])
    assert all("few samples" not in breach.message for breach in judge(report).breaches)


def test_dead_units_over_the_limit_of_a_site_fail_it_by_name():
    verdict = judge(a_report([a_site("wide", units=1000), a_site("narrow", units=10, dead=6)]))
    (breach,) = verdict.breaches
    assert (breach.limit, breach.site, breach.measured, breach.allowed) == ("max-dead-site", "narrow", 0.6, 0.5)


@given(st.integers(1, 300), st.integers(1, 10_000))
def test_exactly_at_the_limit_is_healthy_and_one_unit_more_is_not(thousandths, tens):
    units = 1000 * tens
    allowed = thousandths / 1000
    at_limit = a_site(units=0, dead=0, dead_units=[], firing_rate=[], positive_rate=[])
    for extra, verdict in ((0, "healthy"), (1, "findings")):
        site = structs.replace(at_limit, units=units, dead=thousandths * tens + extra)
        report = a_report([site])
        assert judge(report, max_dead=allowed, max_dead_site=1).verdict == verdict
        assert judge(report, max_dead=1, max_dead_site=allowed).verdict == verdict


def test_limits_of_0_and_1_are_the_strictest_and_the_mildest():
    assert judge(a_report([a_site(dead=1)]), max_dead=0).verdict == "findings"
    assert judge(a_report([a_site(dead=0)]), max_dead=0, max_dead_site=0).verdict == "healthy"
    assert judge(a_report([a_site(dead=8)]), max_dead=1, max_dead_site=1).verdict == "healthy"


@pytest.mark.parametrize("limit", [-0.1, 1.1, 5, math.nan])
def test_a_limit_that_is_no_share_is_refused(limit):
    with pytest.raises(UsageError, match="max-dead is"):
        judge(a_report(), max_dead=limit)
    with pytest.raises(UsageError, match="max-dead-site is"):
        judge(a_report(), max_dead_site=limit)


def test_dead_counts_on_noise_never_fail_the_gate():
    verdict = judge(a_report([a_site(dead=8)], data=NOISE))
    assert (verdict.verdict, limits(verdict)) == ("undecided", ["no-evidence"])
    assert "--data" in verdict.breaches[0].message


def test_dead_counts_on_noise_fail_the_gate_where_that_was_allowed():
    verdict = judge(a_report([a_site(dead=8)], data=NOISE), allow_synthetic=True)
    assert (verdict.verdict, limits(verdict)) == ("findings", ["max-dead", "max-dead-site"])


def test_healthy_counts_on_noise_are_no_clean_bill_of_health():
    assert judge(a_report(data=NOISE)).verdict == "undecided"
    assert judge(a_report(data=NOISE), allow_synthetic=True).verdict == "healthy"


def test_non_finite_weights_fail_the_gate_on_noise_and_without_sites_too():
    broken = a_model(non_finite=["a", "b", "c", "d"])
    for report in (a_report(model=broken), a_report(model=broken, data=NOISE), a_report([], model=broken)):
        verdict = judge(report)
        assert verdict.verdict == "findings"
        assert limits(verdict)[0] == "non-finite"
    assert "a, b, c and 1 more" in verdict.breaches[0].message


def test_a_nan_on_real_samples_fails_the_gate_since_its_counts_mean_nothing():
    verdict = judge(a_report([a_site("relu", saw_nan=True)]))
    assert [(breach.limit, breach.site) for breach in verdict.breaches] == [("non-finite", "relu")]
    assert judge(a_report([a_site(saw_nan=True)], data=NOISE)).verdict == "undecided"


@pytest.mark.parametrize(
    "report",
    [a_report([]), a_report([a_site(units=0)]), a_report([a_site(samples=0)], data=some_data(samples=0))],
    ids=["no sites", "no units", "no samples"],
)
def test_where_there_is_nothing_to_judge_the_verdict_is_undecided(report):
    verdict = judge(report, allow_synthetic=True)
    assert (verdict.verdict, limits(verdict)) == ("undecided", ["no-evidence"])
    assert verdict.breaches[0].message


def test_a_checkpoint_that_could_not_be_scanned_is_undecided_with_the_reason():
    verdict = undecided("a.pt", "not a checkpoint")
    assert (verdict.verdict, verdict.report, verdict.error) == ("undecided", None, "not a checkpoint")

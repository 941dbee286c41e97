"""Totals and the verdict of a scan."""

import pytest
from record_examples import a_model, a_report, a_site, some_data

from prelu_doctor.diagnosis.totals import totals
from prelu_doctor.diagnosis.verdict import verdict

NOISE = some_data(source="noise", synthetic=True)


def test_totals_add_up_over_the_sites():
    total = totals([a_site(units=8, dead=2, samples=100), a_site(units=12, dead=3, samples=50)])
    assert (total.sites, total.units, total.dead, total.dead_fraction) == (2, 20, 5, 0.25)


def test_the_bound_of_the_totals_is_the_widest_of_any_site():
    total = totals([a_site(samples=1000), a_site(samples=50), a_site(input_independent=True)])
    assert total.firing_rate_bound == 1 - 0.05 ** (1 / 50)


def test_without_units_nothing_is_dead_and_without_sites_nothing_is_known():
    assert totals([a_site(units=0)]).dead_fraction == 0
    assert totals([]).firing_rate_bound == 1


def test_a_model_without_errors_and_warnings_is_healthy():
    assert a_report([a_site(rare=1, dormant=2)]).verdict == "healthy"


@pytest.mark.parametrize("site", [a_site(dead=1), a_site(dead=8), a_site(saw_nan=True)])
def test_warnings_and_errors_are_findings(site):
    assert a_report([site]).verdict == "findings"


@pytest.mark.parametrize("site", [a_site(), a_site(dead=8)])
def test_on_synthetic_input_the_verdict_is_undecided(site):
    assert a_report([site], data=NOISE).verdict == "undecided"


def test_non_finite_weights_are_findings_whatever_the_data():
    broken = a_model(non_finite=["w"])
    assert a_report([a_site()], model=broken, data=NOISE).verdict == "findings"
    assert a_report([], model=broken).verdict == "findings"


def test_a_scan_that_saw_nothing_is_undecided():
    assert a_report([]).verdict == "undecided"
    assert a_report([a_site(samples=0)], data=some_data(samples=0)).verdict == "undecided"
    assert verdict([], some_data(samples=0)) == "undecided"

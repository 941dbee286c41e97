"""Which sites of a long model get a row."""

from record_examples import a_site

from prelu_doctor.reports.site_rows import ROWS, WORST_ROWS, Gap, site_rows


def test_a_short_model_is_shown_whole():
    sites = [a_site(str(index)) for index in range(ROWS)]
    assert site_rows(sites) == sites


def test_of_a_long_model_the_dying_sites_are_shown_and_runs_of_others_are_summed_up():
    sites = [a_site(str(index), units=8, dead=index == 3) for index in range(ROWS + 1)]
    assert site_rows(sites) == [Gap(3, 24, 0), sites[3], Gap(ROWS - 3, 8 * (ROWS - 3), 0)]


def test_a_single_site_between_two_shown_ones_is_shown_too():
    sites = [a_site(str(index), dead=index in (0, 2)) for index in range(ROWS + 1)]
    assert site_rows(sites)[:3] == sites[:3]


def test_where_all_sites_are_dying_the_worst_are_shown():
    sites = [a_site(str(index), units=100, dead=1 + index) for index in range(60)]
    assert site_rows(sites) == [Gap(40, 4000, sum(range(1, 41))), *sites[-WORST_ROWS:]]

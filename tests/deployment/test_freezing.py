import pytest
from record_examples import a_parity_check, a_parity_report

from prelu_doctor.deployment.freezing import why_frozen

SHAPE = {"detail": "the file gives float32 [2, 4], the model float32 [1, 4]", "scaled_error": 0.0}
FAR = {"scaled_error": 0.5}
ROUNDED = {"scaled_error": 2e-5}


def report(*checks):
    """Of (batch size, how it failed or None, output)."""
    made = [
        a_parity_check(batch_size=size, output=output, passed=failure is None, **(failure or {}))
        for size, failure, output in checks
    ]
    return a_parity_report(checks=made)


@pytest.mark.parametrize("failure", [SHAPE, FAR])
def test_a_size_that_breaks_while_another_holds_is_a_frozen_one(failure):
    assert "at 1 and 5 (" in why_frozen(
        report((0, None, "slopes"), (1, failure, "y"), (1, failure, "y"), (2, None, "y"), (5, failure, "y"))
    )


def test_an_output_that_does_not_depend_on_the_size_may_hold():
    assert why_frozen(report((1, FAR, "y"), (1, None, "z"), (2, None, "y"), (2, None, "z")))


@pytest.mark.parametrize(
    "checks",
    [
        pytest.param([(1, None, "y"), (2, None, "y")], id="nothing failed"),
        pytest.param([(1, FAR, "y"), (2, FAR, "y")], id="no size holds"),
        pytest.param([(0, None, "slopes"), (1, FAR, "y"), (2, FAR, "y")], id="only the slopes hold"),
        pytest.param([(0, FAR, "slopes"), (1, FAR, "y"), (2, None, "y")], id="a slope is wrong"),
        pytest.param([(1, None, "y"), (2, ROUNDED, "y")], id="it may be rounding"),
        pytest.param([(1, None, "y"), (2, FAR, "y"), (2, None, "y")], id="a batch of that size holds"),
        pytest.param([], id="nothing was compared"),
    ],
)
def test_what_a_frozen_size_does_not_explain_is_none(checks):
    assert why_frozen(report(*checks)) == ""

"""What weights alone told, under codes."""

from __future__ import annotations

import pytest
from record_examples import (
    a_weights_examination,
    a_weights_report,
    closed_channels,
    sick_weights,
    stored_slopes,
    zero_slices,
)

from prelu_doctor.records import NonFiniteTensor


def found(code, **parts):
    report = a_weights_report(a_weights_examination(**parts))
    return [finding for finding in report.findings if finding.code == code]


def test_healthy_weights_get_the_hint_what_an_architecture_would_add_and_nothing_else():
    report = a_weights_report()
    (hint,) = report.findings
    assert (hint.code, hint.severity, report.verdict) == ("PD501", "note", "undecided")
    assert "--arch module:callable" in hint.message
    assert hint.evidence == {"tensors": 30, "layers": 9, "norms": 6, "slopes": 0}


def test_the_gravest_come_first():
    codes = [finding.code for finding in sick_weights().findings]
    assert codes == [
        "PD201", "PD502", "PD502", "PD503", "PD501", "PD504", "PD505", "PD505", "PD506", "PD507", "PD508"
    ]  # fmt: skip


def test_values_that_are_not_finite_are_an_error_and_the_only_thing_that_weights_alone_decide():
    report = sick_weights()
    broken = report.findings[0]
    assert (broken.severity, report.verdict) == ("error", "findings")
    assert broken.evidence == {"tensors": ["encoder.layers.11.attention.output.weight"], "nan": [3], "infinite": [1]}


def test_a_mask_is_a_note_and_decides_nothing():
    mask = NonFiniteTensor(tensor="decoder.mask", elements=9, nan=0, infinite=3, mask=True)
    report = a_weights_report(a_weights_examination(non_finite=[mask]))
    assert [(finding.code, finding.severity) for finding in report.findings] == [("PD501", "note"), ("PD507", "note")]
    assert report.verdict == "undecided"


@pytest.mark.parametrize(
    ("zero", "words"),
    [
        (zero_slices(zero=2, dead=2), "fc.weight: 2 of 8 outputs are all zero; 2 dead if a ReLU follows directly"),
        (zero_slices(zero=1, dead=1), "fc.weight: 1 of 8 outputs is all zero; 1 dead if a ReLU follows directly"),
        (zero_slices(zero=3, dead=1), "1 dead if a ReLU follows directly, 2 constant above 0"),
        (zero_slices(zero=8, dead=8), "all 8 outputs are zero"),
        (zero_slices(zero=2, dead=0), "2 of 8 outputs are all zero; what they write is constant"),
        (
            zero_slices(zero=2, dead=2, doubt="it may be another thing"),
            "follows directly (but it may be another thing)",
        ),
    ],
)
def test_zero_outputs_say_what_they_mean(zero, words):
    (finding,) = found("PD502", zero_slices=[zero])
    assert words in finding.message
    assert finding.severity == "warning"
    assert finding.evidence["indices"] == zero.indices
    assert finding.evidence["surety"] == ("probably" if zero.doubt else "proved")


def test_what_is_zero_as_a_whole_may_be_so_on_purpose():
    for whole in (True, False):
        zero, closed = zero_slices(zero=8 if whole else 7), closed_channels(proved=16 if whole else 15)
        for (finding,) in (found("PD502", zero_slices=[zero]), found("PD503", closed_channels=[closed])):
            assert ("on purpose" in finding.message) is whole


def test_what_may_be_an_embedding_s_padding_is_a_note():
    (finding,) = found("PD502", zero_slices=[zero_slices(may_be_padding=True)])
    assert finding.severity == "note"


def test_closed_channels_are_one_finding_a_tensor_for_what_is_proved_and_one_for_what_is_probable():
    closed = [closed_channels("a.weight", proved=2, probable=3), closed_channels("b.weight", proved=1)]
    proved, probable = found("PD503", closed_channels=closed), found("PD504", closed_channels=closed)
    assert [(one.evidence["tensor"], one.evidence["indices"]) for one in proved] == [
        ("a.weight", [0, 1]),
        ("b.weight", [0]),
    ]
    assert [(one.evidence["tensor"], one.evidence["indices"]) for one in probable] == [("a.weight", [9, 10, 11])]
    assert "2 of 16 channels with scale 0 and shift <= 0" in proved[0].message
    assert "if its running statistics fit the data" in probable[0].message
    assert {one.severity for one in proved} == {"warning"}
    assert {one.evidence["surety"] for one in proved + probable} == {"proved", "probably"}


def test_a_norm_without_running_statistics_or_shift_is_spoken_of_so():
    closed = [closed_channels(proved=1, probable=1, running_statistics=False, shift="")]
    assert "statistics" not in found("PD504", closed_channels=closed)[0].message
    assert "scale 0 and no shift" in found("PD503", closed_channels=closed)[0].message


@pytest.mark.parametrize(
    ("slopes", "words"),
    [
        (stored_slopes(), "PReLU slopes, or the scales of a norm without shift, from -0.5 to 0.25"),
        (stored_slopes(surety="recipe", flat=1), "act.weight: PReLU slopes from -0.5 to 0.25; 1 of 2 below 1e-3"),
        (stored_slopes(surety="one element", of=1, min=0.25), "act.weight: PReLU slopes 0.25"),
        (stored_slopes(surety="name", min=None, mean=None, max=None), "act.weight: PReLU slopes not finite"),
    ],
)
def test_slopes_say_how_large_they_are_and_what_else_they_may_be(slopes, words):
    (finding,) = found("PD505", slopes=[slopes])
    assert words in finding.message
    assert finding.severity == "note"


def test_inputs_that_nothing_reads_are_a_note():
    (finding,) = found("PD506", zero_slices=[zero_slices(slices="inputs", axis=1)])
    assert "1 of 8 inputs is all zero: nothing reads what comes in there" in finding.message
    assert found("PD502", zero_slices=[zero_slices(slices="inputs")]) == []


def test_tensors_that_were_left_out_are_named_with_the_reason():
    finding = sick_weights().findings[-1]
    assert finding.evidence == {"tensors": ["head.packed"], "reasons": ["it is no plain array: torch.sparse_coo"]}

"""Reports for the terminal: golden pages, and what must be true of every page."""

import math
import re
import unicodedata
from pathlib import Path

import pytest
from msgspec import structs
from record_examples import (
    a_check_report,
    a_converted_cnn,
    a_dying_cnn,
    a_fitted_cnn,
    a_model,
    a_parity_check,
    a_parity_report,
    a_report,
    a_site,
    a_weights_examination,
    a_weights_report,
    closed_channels,
    sick_weights,
    some_data,
    zero_slices,
)
from rich.cells import cell_len

from prelu_doctor.records import Evaluation, FineTune, Preservation, Program, Unresolved
from prelu_doctor.reports.formats import Format, written

GOLDEN = Path(__file__).parent / "golden"
NOISE = some_data(source="seeded Gaussian noise", synthetic=True)
EVIL = "[red]\x1b[2J\u202e\x9b[/nonsense]\n"

PAGES = {
    "scan": a_dying_cnn(),
    "scan_synthetic": a_dying_cnn(data=NOISE),
    "convert": a_converted_cnn(),
    "convert_fitted": a_fitted_cnn(),
    "parity": a_parity_report(),
    "check": a_check_report(),
    "weights": sick_weights(),
}


def page(report, **options):
    return written(report, Format.TEXT, **options)


def squeezed(text):
    return re.sub(r"\s+", " ", text)


def sections(text):
    return [line for line in text.splitlines() if re.fullmatch(r"[A-Z][a-z ,]+", line)]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", PAGES)
def test_pages_look_as_they_were_approved(assert_golden, name, width):
    assert_golden(GOLDEN / f"{name}_{width}.txt", page(PAGES[name], width=width))


def test_a_page_for_an_ascii_terminal_looks_as_it_was_approved(assert_golden):
    text = page(PAGES["scan_synthetic"], encoding="ascii")
    assert text.isascii()
    assert_golden(GOLDEN / "scan_synthetic_ascii.txt", text)


@pytest.mark.parametrize("width", [50, 60, 80, 120])
@pytest.mark.parametrize("name", PAGES)
def test_no_line_is_wider_than_the_terminal(name, width):
    lines = [line for line in page(PAGES[name], width=width).splitlines() if "prelu-doctor " not in line]
    longest = max(lines, key=cell_len)
    assert cell_len(longest) <= width, longest


@pytest.mark.parametrize("name", PAGES)
def test_colour_adds_escapes_and_nothing_else(name):
    coloured = page(PAGES[name], colour=True)
    assert "\x1b[1m" in coloured
    bare = "".join(line.rstrip() + "\n" for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines())
    assert bare == page(PAGES[name])


def test_a_scan_says_every_figure_an_engineer_asks_for():
    text = squeezed(page(a_dying_cnn(), width=120))
    assert "features.0.relu relu 16 3 18.8 % █▌ 1 · 4 0.58 %" in text
    assert "FINDINGS 38 of 276 units dead (13.8 %); a silent unit fires on at most 0.58 % of samples (95 %)" in text
    assert "1. features.1.relu#2 32 of 32 units dead (100 %)" in text
    assert "at dying_cnn.py:31, written by features.1.conv2, features.1.bn2" in text
    assert "aux_head.relu: this module was never called by the forward" in text
    assert "prelu-doctor convert dying_cnn.pt --data digits.safetensors -o healed.safetensors" in text


def test_sites_stand_in_forward_order_and_the_worst_come_first_below():
    lines = page(a_dying_cnn(), width=120).splitlines()
    rows = [line.split()[0] for line in lines if " relu  " in line]
    assert rows == [site.id for site in a_dying_cnn().sites]
    ranks = [line.split()[1] for line in lines if re.match(r"  \d\.", line)]
    assert ranks == ["features.1.relu#2", "features.0.relu", "position.mlp.1", "classifier:relu#1"]


def test_synthetic_input_is_said_above_everything_else():
    text = page(a_dying_cnn(data=NOISE))
    assert text.index("SYNTHETIC INPUT") < text.index("features.0.relu")
    assert "--data samples.npz" in text
    assert "convert" not in text
    assert "SYNTHETIC" not in page(a_dying_cnn())


def test_columns_that_do_not_fit_are_named():
    assert "Too narrow for: always-on, function." in page(a_dying_cnn(), width=80)
    assert "≤ bound" in page(a_dying_cnn(), width=80), "how sure it is gives way last"
    assert "Too narrow" not in page(a_dying_cnn(), width=120)


def test_a_healthy_scan_says_what_it_would_have_seen():
    text = squeezed(page(a_report()))
    assert "HEALTHY none of 8 units is dead; one that fires on more than 0.58 % of samples would have been seen" in text
    assert sections(page(a_report())) == []


def test_a_scan_without_sites_is_no_clean_bill_of_health():
    text = page(a_report([]))
    assert "UNDECIDED  no ReLU or like activation was seen" in text
    assert "PD303" in text


def test_a_scan_without_samples_claims_nothing():
    text = page(a_report([a_site(samples=0)], data=some_data(samples=0)))
    assert "no sample was scanned, so nothing is known of the 8 units" in text


def test_a_site_without_units_has_a_row():
    assert re.search(r"hollow +relu +0 +0", page(a_report([a_site("hollow", units=0)])))


def test_a_thousand_sites_fit_on_a_page_and_no_unit_is_lost():
    sites = [a_site(f"layer{index}.relu", dead=index % 8 if index % 3 == 0 else 0) for index in range(1000)]
    report = a_report(sites)
    text = page(report)
    assert len(text.splitlines()) < 100
    table = [re.match(r"(\S+ \d+ sites|\S+\.relu)(?: +relu)? +(\d+) +(\d+)", line) for line in text.splitlines()]
    rows = [row for row in table if row]
    assert sum(int(row[2]) for row in rows) == report.totals.units
    assert sum(int(row[3]) for row in rows) == report.totals.dead
    assert "1,000 sites, of which" in text


def test_long_ids_keep_the_end_that_tells_them_apart():
    ids = [f"{'deep.' * 40}relu#{call}" for call in (1, 2)]
    text = page(a_report([a_site(name) for name in ids]))
    assert re.search(r"^…\S+deep\.relu#1 ", text, re.MULTILINE)
    assert re.search(r"^…\S+deep\.relu#2 ", text, re.MULTILINE)


def test_weights_alone_are_called_so_above_everything_else():
    text = page(sick_weights(), width=120)
    assert text.index("weights-only") < text.index("WEIGHTS ONLY") < text.index("bn.weight")
    assert "prelu-doctor scan weights.pt --arch module:callable --data samples.npz" in text
    assert "convert" not in text


def test_a_table_of_weights_says_what_where_how_many_and_which():
    text = squeezed(page(sick_weights(), width=120))
    assert "encoder.layers.11.attention.output.weight NaN and infinity 4 of 589,824" in text
    assert "features.1.conv.weight all-zero outputs? 9 of 64 0, 1, 2, 3, ..." in text
    assert "classifier.fc.weight all-zero outputs 2 of 1,000 3, 999" in text
    assert "features.0.bn.weight dead behind ReLU: proved 2 of 16 0, 1" in text
    assert "features.0.bn.weight dead behind ReLU: probably 1 of 16 9" in text
    assert "features.2.conv.weight all-zero inputs? 4 of 64 0, 1, 2, 3" in text
    assert "features.1.act.weight slopes, or norm scales 64 -0.500 → 0.250" in text
    assert "prelu.weight PReLU slopes 1 0.250" in text
    assert "decoder.mask mask of infinities 45 of 100" in text
    assert "head.packed: it is no plain array" in text


def test_weights_without_anything_to_tell_are_undecided_all_the_same():
    text = page(a_weights_report())
    assert "UNDECIDED  weights alone do not tell which units are dead" in text
    assert "how many" not in text
    assert "explain" not in text


def test_of_many_tensors_a_page_shows_the_first_and_says_how_many_more():
    many = [zero_slices(f"layer{index}.weight") for index in range(1000)]
    text = page(a_weights_report(a_weights_examination(zero_slices=many)))
    assert len(text.splitlines()) < 80
    assert "and 970 more rows" in text


def hostile_pages():
    site = a_site(EVIL, dead=2, source=EVIL, producers=[EVIL], axis_assumed=True)
    unresolved = [Unresolved(id=EVIL, reason=EVIL)]
    model = a_model(path=EVIL, kind=EVIL, sha256=EVIL, non_finite=[EVIL])
    scan = a_report([site], model=model, data=some_data(source=EVIL), unresolved=unresolved)
    changes = [structs.replace(change, site=EVIL) for change in a_converted_cnn().changes]
    parity = a_parity_report(
        onnx_path=EVIL,
        model=model,
        fixed_batch=1,
        fixed_because=EVIL,
        checks=[a_parity_check(output=EVIL, detail=EVIL, passed=False)],
    )
    check = a_check_report()
    models = [
        structs.replace(
            judged,
            path=EVIL,
            error=EVIL,
            breaches=[structs.replace(breach, site=EVIL, message=EVIL) for breach in judged.breaches],
        )
        for judged in check.models
    ]
    return {
        "scan": scan,
        "convert": a_converted_cnn(before=scan, changes=changes, files=[EVIL], fine_tune=None, not_trained=EVIL),
        "parity": parity,
        "check": structs.replace(check, models=models),
        "weights": a_weights_report(
            a_weights_examination(
                zero_slices=[zero_slices(EVIL, doubt=EVIL)], closed_channels=[closed_channels(EVIL, proved=1)]
            ),
            unresolved=unresolved,
            path=EVIL,
            kind=EVIL,
        ),
    }


@pytest.mark.parametrize("name", ["scan", "convert", "parity", "check", "weights"])
def test_no_name_from_a_file_steers_the_terminal_or_reads_as_markup(name):
    text = page(hostile_pages()[name], width=200)
    assert not {char for char in text if unicodedata.category(char) in ("Cc", "Cf")} - {"\n"}
    assert "[red]\\x1b[2J\\u202e\\x9b[/nonsense]" in text


def test_a_command_is_continued_only_between_its_options():
    long = a_model(path=f"runs/{'x' * 60}/my model.pt")
    text = page(a_dying_cnn(model=long), width=60)
    assert f"  prelu-doctor convert '{long.path}' \\\n" in text
    assert "\n      --data digits.safetensors -o healed.safetensors\n" in text


def test_few_samples_come_with_what_convert_will_ask_for():
    report = a_report([a_site(dead=1, samples=100)], data=some_data(samples=100))
    assert "299 samples or more" in squeezed(page(report))


def preserved(**changes):
    kept = {"promised": True, "samples": 360, "equal": True, "max_change": 0.0, "scale": 12.1}
    return squeezed(page(a_converted_cnn(preservation=Preservation(**kept | changes)), width=120))


def test_a_conversion_says_how_far_the_output_moved():
    assert "unchanged by the surgery: every element equal on 360 samples" in preserved()
    rounding = preserved(equal=False, max_change=3e-7)
    assert "within float rounding: max change 3e-07 at a scale of 12.1 on 360 samples" in rounding
    moved = preserved(equal=False, promised=False, max_change=2.0)
    assert "moved, as the options asked for: max change 2 at" in moved
    assert "unchanged" not in moved


def test_a_conversion_that_compared_nothing_does_not_say_unchanged():
    text = preserved(samples=0)
    assert "not compared" in text
    assert "unchanged" not in text


def test_a_conversion_shows_before_and_after_and_groups_what_was_declined():
    text = squeezed(page(a_converted_cnn(), width=120))
    assert "units dead 38 of 276 (13.8 %) 32 of 276 (11.6 %)" in text
    assert "held-out loss 0.1612 0.0981" in text
    assert "held-out accuracy 95.8 % 97.2 %" in text
    assert "5 sites of 6 became PReLU, 4 dead units revived." in text
    assert "classifier:relu#1 1 · 1 · -0.004 0.031 0.250" in text
    assert "1 site the owner cannot be traced: blocks.py:17 features.1.relu#2" in text
    assert "2 units the unit reaches a residual sum features.0.relu" in text
    assert "the state after step 150 was kept" in text
    assert "original 0.1612 → after surgery 0.1612 → kept 0.0981" in text
    assert "Written healed.safetensors healed.onnx" in text


def test_a_program_is_told_with_the_batches_that_it_takes():
    programs = [Program(path="a.pt2"), Program(path="b.pt2", fixed_batch=4, fixed_because="a view of 4 rows")]
    text = squeezed(page(a_converted_cnn(programs=programs), width=120))
    assert ".pt2 read back, it gives the converted model's outputs .pt2" in text
    assert "the converted model's outputs; this file takes batches of 4 alone: a view of 4 rows" in text


def test_a_fine_tune_that_helped_nothing_says_so():
    same = Evaluation(loss=math.nan)
    tuned = FineTune(objective="distillation", steps=1, epochs=0.1, best_step=0, original=same, start=same, best=same)
    text = squeezed(page(a_converted_cnn(fine_tune=tuned), width=120))
    assert "1 step (0.1 epochs) of distillation; no step beat the start, so the start was kept" in text
    assert "held-out loss NaN NaN" in text
    assert "accuracy" not in text


def test_a_conversion_on_noise_says_why_nothing_was_trained():
    report = a_converted_cnn(before=a_dying_cnn(data=NOISE), fine_tune=None, not_trained="synthetic input")
    text = page(report)
    assert "SYNTHETIC INPUT" in text
    assert "nothing was trained: synthetic input" in squeezed(text)


def test_a_conversion_that_wrote_nothing_says_so():
    assert page(a_converted_cnn(files=[])).endswith("Written\n  nothing\n")


def test_parity_says_what_differs():
    checks = [
        a_parity_check(),
        a_parity_check(output="aux", batch_size=7, passed=False, detail="shape [7, 3] against [7, 4]"),
        a_parity_check(output="mask", passed=False, non_finite_equal=False, max_error=math.nan),
    ]
    text = squeezed(page(a_parity_report(checks=checks, verdict="findings"), width=120))
    assert "FINDINGS not the same function: 2 of 3 comparisons failed" in text
    assert "aux at batch 7: shape [7, 3] against [7, 4]" in text
    assert "mask at batch 1: NaN or infinity at different places" in text


def test_parity_at_one_batch_size_says_so_and_why():
    text = squeezed(page(a_parity_report(fixed_batch=3), width=120))
    assert "this file takes batches of 3 alone: its inputs declare that size, and it was compared at no other" in text
    text = squeezed(page(a_parity_report(fixed_batch=1, fixed_because="the loop is as long as the batch"), width=120))
    assert "this file takes batches of 1 alone: the loop is as long as the batch" in text
    assert "alone" not in page(a_parity_report())


def test_parity_that_compared_nothing_says_so():
    assert "nothing was compared" in page(a_parity_report(checks=[]))


def test_a_check_has_a_line_a_checkpoint_its_breaches_and_a_summary():
    text = page(a_check_report(), width=120)
    assert re.search(r"^HEALTHY +models/healthy.pt  0 of 8 units dead", text, re.MULTILINE)
    assert re.search(r"^FINDINGS +models/dying.pt ", text, re.MULTILINE)
    assert re.search(r"^ +max-dead +38 of 276 units are dead \(13.77 %\), 5 % allowed", text, re.MULTILINE)
    assert re.search(r"^ +expected: a file of torch.save$", text, re.MULTILINE)
    assert "4 checkpoints checked: 1 with findings, 2 undecided, 1 healthy" in text


def test_a_check_of_nothing_says_so():
    empty = structs.replace(a_check_report(), models=[], verdict="undecided")
    assert "UNDECIDED  no checkpoint was checked" in page(empty)

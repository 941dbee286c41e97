"""A few hundred mutated files of every kind; `make fuzz` tries two thousand."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.mutations import MUTATIONS, mutated
from fuzz.trial import MOST_BYTES, SECONDS, wrong_with

TESTS = Path(__file__).parents[1]


def test_every_mutated_file_is_refused_with_one_message_or_answered_right():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fuzz", "--files", "330"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("330 files of 2"), done.stdout


@pytest.mark.parametrize(
    ("end", "wrong"),
    [
        ({"code": -1, "seconds": SECONDS + 1.0}, "took more than"),
        ({"peak": MOST_BYTES + 1}, "GiB"),
        ({"stderr": "Traceback (most recent call last)"}, "a traceback"),
        ({"code": 1}, "exit code 1"),
        ({"code": -11}, "exit code -11"),
        ({"code": 2, "stderr": ""}, "no one clear message"),
        ({"code": 2, "stderr": "error: this\nerror: that\n"}, "no one clear message"),
        ({"code": 2, "stderr": "error: this\n", "stdout": "{}"}, "no one clear message"),
        ({"code": 2, "stderr": "error: \x1b[31mred\n"}, "prints '\\x1b'"),
        ({"code": 2, "stderr": "error: this\n"}, ""),
        ({"stdout": "{}"}, ""),
    ],
)
def test_an_end_is_judged(end, wrong):
    whole = {"code": 0, "peak": 1, "seconds": 1.0, "stdout": "", "stderr": "", **end}
    assert wrong in wrong_with(**whole) if wrong else wrong_with(**whole) == ""


def test_mutations_change_what_they_are_given_and_repeat_themselves():
    data = bytes(range(256)) * 8
    made = dict(mutated(data, random.Random(seed)) for seed in range(300))
    assert {mutation.__name__ for mutation in MUTATIONS} - set(made) <= {
        "number_changed",
        "word_changed",
        "members_swapped",
        "member_dropped",
        "member_renamed",
        "member_harmed",
        "storage_type_changed",
        "json_changed",
    }
    assert all(harmed != data for harmed in made.values())
    assert mutated(data, random.Random(7)) == mutated(data, random.Random(7))

"""`convert` killed at any moment: the files are there whole, or they are not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from treated import FIXTURES

import prelu_doctor
from prelu_doctor.patient import open_patient

STAGED = ".prelu-doctor-*"
WRITTEN = {"healed.safetensors", "healed.onnx"}
PATIENCE = 60.0
"""Seconds after which a run counts as hung."""


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = ["convert", "dying_cnn.pt", "--data", "digits.safetensors", "--device", "cpu", "--quiet"]
    brief = ["--max-samples", "320", "--steps", "3"]
    outputs = ["-o", str(folder / "healed.safetensors"), "--onnx", str(folder / "healed.onnx")]
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "prelu_doctor", *command, *brief, *outputs],
        cwd=FIXTURES,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for_staging(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until the run has begun to write, or has ended."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not list(folder.glob(STAGED)):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_whole_or_absent(folder: Path) -> None:
    visible = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert visible <= WRITTEN
    if "healed.safetensors" in visible:
        original = open_patient(FIXTURES / "dying_cnn.pt", device="cpu").module
        prelu_doctor.load(original, folder / "healed.safetensors")(torch.zeros(1, 1, 8, 8))
    if "healed.onnx" in visible:
        import onnx

        onnx.checker.check_model(onnx.load(folder / "healed.onnx"), full_check=True)


MOMENTS = {"at the start": 0.3, "while writing": 0.05, "late in writing": 1.0}
"""Seconds from the start of the run, or from the start of writing."""

KILLS = [
    (number, moment)
    for moment in MOMENTS
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    if moment != "late in writing" or number is not signal.SIGINT
]


@pytest.mark.parametrize(("number", "moment"), KILLS, ids=lambda value: getattr(value, "name", value))
def test_killed_at_any_moment_the_files_are_whole_or_absent(
    number: signal.Signals, moment: str, tmp_path: Path
) -> None:
    process = start(tmp_path)
    if moment != "at the start":
        wait_for_staging(process, tmp_path)
    time.sleep(MOMENTS[moment])
    process.send_signal(number)
    _, messages = process.communicate(timeout=PATIENCE)
    assert_whole_or_absent(tmp_path)
    if number is signal.SIGKILL:
        return
    assert not list(tmp_path.glob(".*")), "a temporary folder was left behind"
    assert moment == "at the start" or b"Traceback" not in messages
    assert process.returncode != 0 or {path.name for path in tmp_path.iterdir()} == WRITTEN


def test_left_to_itself_it_writes_both_files_and_nothing_else(tmp_path: Path) -> None:
    process = start(tmp_path)
    _, messages = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, messages.decode()
    assert {path.name for path in tmp_path.iterdir()} == WRITTEN
    assert_whole_or_absent(tmp_path)

"""One mutated file, given to the program in a process of its own; and what is wrong with how that ended."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from fuzz.architecture import firing_rates
from fuzz.seeds import Seed, samples

SECONDS = 20
"""Longest that a file may take."""
MOST_BYTES = 2 * 2**30
"""Most memory that a file may take."""


@dataclass(frozen=True)
class Outcome:
    """How the program ended.

    Attributes:
        code: Its exit code; -1 where it was killed.
        stdout: What it printed.
        stderr: Likewise.
        peak: Largest resident memory of its process, in bytes.
        seconds: How long it took.
        wrong: What is wrong with all that; empty where nothing is.
    """

    code: int
    stdout: str
    stderr: str
    peak: int
    seconds: float
    wrong: str


def tried(seed: Seed, seeds: Path, file: str, content: bytes) -> Outcome:
    """Runs the seed's command with one file of it replaced.

    The process is forked from this one, which has loaded the libraries already.

    Args:
        seed: Names the command.
        seeds: The folder of all seeds; it is copied.
        file: The file to replace, relative to that folder.
        content: Its bytes now.
    """
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held) / "seeds"
        shutil.copytree(seeds, folder, ignore=lambda _, names: [n for n in names if not _needed(n, seed)])
        (folder / file).write_bytes(content)
        before = _listing(folder)
        code, peak, seconds = _forked(seed, folder, Path(held))
        stdout, stderr = ((Path(held) / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        verdict = Path(held) / "verdict"
        wrong = wrong_with(code, peak, seconds, stdout, stderr) or (verdict.read_text() if verdict.exists() else "")
        if not wrong and _listing(folder) != before:
            wrong = "files were changed or written"
        return Outcome(code, stdout, stderr, peak, seconds, wrong)


def _needed(name: str, seed: Seed) -> bool:
    first = Path(seed.path).parts[0]
    return name in {"architecture.py", "x.safetensors", "module.pt"} or name.startswith(first) or "." not in first


def _listing(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path): path.read_bytes() for path in sorted(files)}


def _forked(seed: Seed, folder: Path, held: Path) -> tuple[int, int, float]:
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 97
        try:
            code = _in_child(seed, folder, held)
        finally:
            os._exit(code)
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code, usage.ru_maxrss * 1024, time.monotonic() - start
        if time.monotonic() - start > SECONDS:
            os.kill(child, signal.SIGKILL)
            os.wait4(child, 0)
            return -1, 0, time.monotonic() - start
        time.sleep(0.002)


def _in_child(seed: Seed, folder: Path, held: Path) -> int:
    os.chdir(folder)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(held / name, os.O_CREAT | os.O_WRONLY), descriptor)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    # More than the limit: a reader that asks for too much shall fail there, and not take the machine with it.
    most = _address_space() + 2 * MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    code = _command(list(seed.command))
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 0:
        (held / "verdict").write_text(_misjudged(seed, folder, (held / "stdout").read_text()))
    return code


def _command(arguments: list[str]) -> int:
    from prelu_doctor.cli.app import app

    try:
        app([*arguments, "--format", "json"])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def wrong_with(code: int, peak: int, seconds: float, stdout: str, stderr: str) -> str:
    """What is wrong with how a run ended; empty where nothing is."""
    if code == -1 and seconds > SECONDS:
        return f"took more than {SECONDS} s"
    if peak > MOST_BYTES:
        return f"took {peak / 2**30:.1f} GiB"
    if "Traceback" in stderr:
        return "a traceback"
    if code not in (0, 2):
        return f"exit code {code}"
    if code == 2 and (stdout or stderr.count("error: ") != 1):
        return "no one clear message"
    odd = [c for c in stdout + stderr if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"]
    return f"prints {odd[0]!r}" if odd else ""


def _misjudged(seed: Seed, folder: Path, stdout: str) -> str:
    """What is wrong with the report, by another reader of the file; empty where nothing is."""
    try:
        report = json.loads(stdout, parse_constant=_no_json)
    except ValueError as error:
        return f"stdout is no JSON: {error}"
    if seed.weights is None:
        return ""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            state = seed.weights(folder / seed.path)
        except Exception as error:
            return f"was read, and its usual reader refuses it: {type(error).__name__}: {error}"
    rates = [site["firing_rate"] for site in report["sites"]]
    expected = firing_rates(state, samples())
    return "" if rates == expected else f"firing rates {rates}, by another reader {expected}"


def _no_json(name: str) -> float:
    raise ValueError(name)

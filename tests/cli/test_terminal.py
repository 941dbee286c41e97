"""Streams: stdout holds the report alone, stderr the rest, and no way to end leaves a mess."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prelu_doctor.cli.app import app

CLEAR_LINE = "\x1b[2K"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """A pseudo-terminal, read in the background so that writing to it never blocks."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self._parts: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while part := os.read(self._master, 4096):
                self._parts.append(part)
        except OSError:  # Linux's way to say that the other side is closed
            pass

    def text(self) -> str:
        """Everything that was shown; closes the terminal."""
        self.stream.close()
        self._reader.join()
        os.close(self._master)
        return b"".join(self._parts).decode()


@pytest.fixture
def on_terminal(monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """Runs a command with a terminal for stdout and one for stderr; returns the exit code and what each showed."""

    def run(*arguments: object, **environment: str) -> tuple[int, str, str]:
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        out, err = Terminal(), Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out.stream)
            patch.setattr(sys, "stderr", err.stream)
            code = exit_code(*arguments)
        return code, out.text(), err.text()

    return run


def exit_code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        app([str(argument) for argument in arguments])
    return ended.value.code or 0


def test_on_a_terminal_the_report_is_coloured_and_progress_is_shown_and_wiped_away(on_terminal, ward: Path):
    code, out, err = on_terminal("scan", ward / "mlp.pt", "--data", ward / "data.safetensors")
    assert code == 0
    assert COLOUR.search(out)
    assert "2 of 8 units dead" in COLOUR.sub("", out)
    assert "scanning" in err
    assert "scanning" not in err.rpartition(CLEAR_LINE)[2]
    assert err.endswith(CLEAR_LINE)


@pytest.mark.parametrize(
    ("options", "environment"), [(["--quiet"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"})], ids=str
)
def test_quiet_no_color_and_a_dumb_terminal_mean_neither_colour_nor_progress(
    on_terminal, ward: Path, options, environment
):
    code, out, err = on_terminal("scan", ward / "mlp.pt", *options, **environment)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "synthetic" in out


def test_json_on_a_terminal_is_json(on_terminal, ward: Path):
    _, out, _ = on_terminal("scan", ward / "mlp.pt", "--format", "json")
    assert json.loads(out)["schema_version"] == 1


def test_each_phase_of_a_conversion_is_shown(on_terminal, ward: Path, tmp_path: Path):
    arguments = ("convert", ward / "mlp.pt", "--data", ward / "data.safetensors", "--steps", 3)
    code, out, err = on_terminal(*arguments, "-o", tmp_path / "x.safetensors", "--format", "json")
    assert code == 0
    for phase in ("scanning", "reviving dead units", "fine-tuning"):
        assert phase in err
    assert err.endswith(CLEAR_LINE)
    json.loads(out)


def test_what_the_models_own_code_prints_does_not_enter_the_report(command, ward: Path, tmp_path: Path):
    arch = ("--arch", f"{ward / 'arch.py'}:Prints", "--data", ward / "data.safetensors", "--format", "json")
    files = {"convert": ("-o", tmp_path / "x.safetensors", "--steps", 2), "export": ("-o", tmp_path / "x.onnx")}
    for name in ("scan", "check", "convert", "export"):
        result = command(name, ward / "mlp.safetensors", *arch, *files.get(name, ()))
        json.loads(result.stdout)
        assert "the model's own print" in result.stderr
    result = command("parity", ward / "mlp.safetensors", tmp_path / "x.onnx", *arch)
    assert json.loads(result.stdout)["verdict"] == "healthy"


@pytest.mark.parametrize("charset", ["ascii", "latin-1"])
def test_a_poor_character_set_gets_a_whole_report(command, ward: Path, tmp_path: Path, charset: str):
    model = tmp_path / "m\u00fcller-\u6a21\u578b.pt"
    model.write_bytes((ward / "mlp.pt").read_bytes())
    data = ("--data", ward / "data.safetensors")
    text = command("scan", model, *data, charset=charset)
    assert (text.exit_code, text.stderr) == (0, "")
    assert "\\u6a21\\u578b.pt" in text.stdout
    parsed = json.loads(command("scan", model, *data, "--format", "json", charset=charset).stdout)
    assert parsed["model"]["path"] == str(model)
    junit = command("check", model, *data, "--format", "junit", charset=charset)
    assert junit.exit_code == 1
    assert "&#27169;" in junit.stdout
    assert command("explain", "PD101", charset=charset).exit_code == 0


def test_an_ascii_terminal_shows_errors_too():
    result = program("scan", "/nowhere/m\u00fcller.pt", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (result.returncode, result.stdout) == (2, "")
    assert "no such file" in result.stderr
    assert "Traceback" not in result.stderr


def program(*arguments: str, stdout: int | io.IOBase = subprocess.PIPE, **environment: str):
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "prelu_doctor", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [["explain", "PD101"], ["--help"], ["scan", "--help"], ["--version"]], ids=" ".join
)
def test_a_full_disk_behind_stdout_is_one_message_and_exit_code_2(arguments):
    with Path("/dev/full").open("w") as full:
        result = program(*arguments, stdout=full)
    assert result.returncode == 2
    assert result.stderr == "error: output: No space left on device\n"


@pytest.mark.parametrize("arguments", [["explain", "PD101"], ["--help"]], ids=" ".join)
def test_a_reader_that_has_gone_is_no_error_message(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        assert program(*arguments, stdout=pipe).stderr == ""


def test_a_reader_that_has_gone_does_not_change_the_verdict(ward: Path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        code = exit_code("check", ward / "mlp.pt", "--data", ward / "data.safetensors", "--quiet")
    assert code == 1


def test_a_full_disk_does_not_pass_the_gate(ward: Path, monkeypatch, capfd):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code = exit_code("check", ward / "healthy.pt", "--data", ward / "data.safetensors")
    assert code == 2
    assert capfd.readouterr().err == "error: output: No space left on device\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_the_caller_closed_is_no_crash(ward: Path, monkeypatch, capfd, name: str):
    monkeypatch.setattr(sys, name, None)
    code = exit_code("scan", ward / "mlp.pt")
    out, err = capfd.readouterr()
    if name == "stdout":
        assert (code, out) == (2, "")
        assert err.startswith("error: stdout is closed")
    else:
        assert (code, err) == (0, "")
        assert "synthetic" in out


def test_an_error_without_stderr_does_not_land_on_stdout(monkeypatch, capfd):
    monkeypatch.setattr(sys, "stderr", None)
    assert exit_code("scan", "/nowhere/model.pt") == 2
    assert capfd.readouterr().out == ""


def test_ctrl_c_is_one_line_and_exit_code_130(command, ward: Path, tmp_path: Path):
    for name, target in (("scan", "x.json"), ("convert", "x.safetensors")):
        data = ("--data", f"{ward / 'arch.py'}:interrupted")
        result = command(name, ward / "mlp.pt", *data, "-o", tmp_path / target)
        assert (result.exit_code, result.stdout) == (130, "")
        assert result.stderr.startswith("interrupted")
        assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_files_are_written_leaves_the_old_ones_whole(command, ward: Path, tmp_path: Path, monkeypatch):
    from prelu_doctor.deployment import onnx_file

    def interrupted(model, example, path, **options):
        assert [staged.name for staged in path.parent.iterdir()] == ["x.safetensors"]
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_file, "export_onnx", interrupted)
    (tmp_path / "x.safetensors").write_text("old")
    files = ("-o", tmp_path / "x.safetensors", "--onnx", tmp_path / "x.onnx", "--force")
    assert command("convert", ward / "mlp.pt", *files).exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert (tmp_path / "x.safetensors").read_text() == "old"


FULL_DISK = """
import resource, sys
from typer.testing import CliRunner
from prelu_doctor.cli.app import app
ward, folder = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
for name, target in (("scan", "x.json"), ("convert", "x.safetensors"), ("convert", "x.pt"), ("export", "x.onnx")):
    arguments = [name, f"{ward}/mlp.pt", "-o", f"{folder}/{target}", *(["--format", "json"] if name == "scan" else [])]
    result = CliRunner().invoke(app, arguments)
    print(target, result.exit_code, repr(result.stdout), repr(result.stderr.splitlines()[0]))
"""


def test_a_full_disk_is_one_message_exit_code_2_and_nothing_is_left(ward: Path, tmp_path: Path):
    # A limit on the size of files is what a full disk is to a program that has no disk of its own to fill.
    result = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", FULL_DISK, str(ward), str(tmp_path)], capture_output=True, text=True, check=True
    )
    told = result.stdout.splitlines()
    assert [line.split(" ")[0] for line in told] == ["x.json", "x.safetensors", "x.pt", "x.onnx"]
    for line in told:
        assert line.split(" ")[1:3] == ["2", "''"]
        assert "cannot be written" in line
        assert "nothing was written" in line
    assert list(tmp_path.iterdir()) == []


def test_memory_that_runs_out_is_told_as_that(command, ward: Path):
    result = command("scan", ward / "mlp.pt", "--input-shape", "99999999999")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: there is not enough memory")
    assert "--batch-size" in result.stderr


def test_a_bug_of_ours_is_one_message_and_debug_shows_its_traceback(command, ward: Path, monkeypatch):
    import prelu_doctor.doctor

    def fails(*arguments, **options):
        raise ZeroDivisionError("by \x1b[31mnought")

    monkeypatch.setattr(prelu_doctor.doctor, "scan", fails)
    result = command("scan", ward / "mlp.pt")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[0] == "error: internal error: ZeroDivisionError: by \\x1b[31mnought"
    assert "Traceback" not in result.stderr
    assert "Traceback" in command("scan", ward / "mlp.pt", "--debug").stderr


def test_a_refusal_shows_its_traceback_under_debug_only(command):
    assert "Traceback" not in command("scan", "/nowhere/model.pt").stderr
    assert "Traceback" in command("scan", "/nowhere/model.pt", "--debug").stderr


def test_a_model_whose_code_ends_the_program_does_not_pass_the_gate(command, ward: Path):
    arch = ("--arch", f"{ward / 'arch.py'}:LeavesTheProgram", "--data", ward / "data.safetensors")
    result = command("check", ward / "mlp.safetensors", *arch)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: the model's own code ended the program with sys.exit(0)\n"


def test_a_termination_signal_ends_the_program_with_its_code_and_leaves_nothing(
    command, ward: Path, tmp_path: Path, monkeypatch
):
    import signal

    from prelu_doctor.deployment import onnx_file

    def terminated(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        torch.zeros(1)  # a signal is met between two steps of the interpreter

    monkeypatch.setattr(onnx_file, "export_onnx", terminated)
    files = ("-o", tmp_path / "x.safetensors", "--onnx", tmp_path / "x.onnx")
    assert command("convert", ward / "mlp.pt", *files).exit_code == 143
    assert list(tmp_path.iterdir()) == []

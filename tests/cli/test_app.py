"""The command itself: help, version, what is imported for them, and bad usage."""

from __future__ import annotations

import subprocess
import sys

import pytest

from prelu_doctor import __version__

INPUT = [
    "--arch",
    "--arch-arg",
    "--data",
    "--input-shape",
    "--batch-size",
    "--max-samples",
    "--device",
    "--seed",
    "--trust",
]
OUTPUT = ["--format", "--force", "--quiet", "--debug"]
OPTIONS = {
    "scan": [*INPUT, *OUTPUT, "-o", "--rare", "--tau"],
    "check": [*INPUT, *OUTPUT, "-o", "--max-dead", "--max-dead-site", "--allow-synthetic"],
    "convert": [
        *INPUT, *OUTPUT, "-o", "--onnx", "--alpha", "--alpha-shape", "--reinit", "--revive-bound", "--epochs",
        "--steps", "--optimizer", "--lr", "--alpha-lr", "--alpha-weight-decay", "--alpha-range", "--freeze-alpha-after",
    ],
    "export": [*INPUT, *OUTPUT, "-o", "--opset"],
    "parity": [*INPUT, *OUTPUT, "-o", "--tolerance"],
    "explain": ["--debug"],
    "demo": ["--quiet", "--debug"],
}  # fmt: skip

HELP_AND_IMPORTS = """
import sys
import prelu_doctor
dir(prelu_doctor)
from prelu_doctor.cli.app import app
for arguments in ([], *([name] for name in {names!r})):
    try:
        app([*arguments, "--help"])
    except SystemExit:
        pass
heavy = {{"torch", "rich", "msgspec", "onnx", "onnxruntime", "numpy", "safetensors"}}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize("name", OPTIONS)
def test_help_lists_every_option(command, name: str):
    result = command(name, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    words = result.stdout.replace(",", " ").split()
    assert [option for option in OPTIONS[name] if option not in words] == []


def test_help_lists_every_command_and_the_exit_codes(command):
    result = command("--help")
    assert result.exit_code == 0
    assert [name for name in OPTIONS if f"  {name} " not in result.stdout] == []
    assert "Exit codes" in result.stdout


def test_neither_help_nor_the_package_imports_what_is_slow():
    code = HELP_AND_IMPORTS.format(names=list(OPTIONS))
    result = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "HEAVY []"
    assert result.stdout.count("Usage:") == 1 + len(OPTIONS)


def test_python_m_is_the_same_command():
    result = subprocess.run(
        [sys.executable, "-m", "prelu_doctor", "--version"], capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == (f"prelu-doctor {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [[], ["nope"], ["scan"], ["scan", "m.pt", "--nope"], ["convert", "m.pt"]], ids=" ".join
)
def test_bad_usage_is_exit_code_2_with_a_usage_line(command, arguments):
    result = command(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")

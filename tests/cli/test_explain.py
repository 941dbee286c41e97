"""`prelu-doctor explain`."""

from __future__ import annotations

from prelu_doctor.diagnosis.rules import RULES


def test_every_code_is_explained(command):
    for code in RULES:
        result = command("explain", code)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith(code)


def test_an_unknown_code_is_told_the_known_ones(command):
    result = command("explain", "PD\x1b[31m[red]")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "\\x1b[31m[red]" in result.stderr
    assert "PD101" in result.stderr

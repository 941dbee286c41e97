"""`prelu-doctor demo`: the main job on the example that comes with the program."""

from __future__ import annotations

import re


def test_the_demo_scans_cures_and_proves(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command("demo", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "69 of 120 units dead" in result.stdout
    assert "69 dead units revived" in result.stdout
    assert "every element equal on 1,797 samples" in result.stdout
    assert re.search(r"ONNX\s+the same function", result.stdout)
    assert list(tmp_path.iterdir()) == []

"""Tensors that claim more than they hold, where weights are looked at without an architecture."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

BYTES_ALLOWED = 4 * 2**30
"""Of address space; torch alone takes most of it."""


def test_views_that_claim_more_elements_than_their_memory_holds_are_left_out_with_the_reason(tmp_path: Path):
    # As much as a file may claim: what claims far more is refused before it is read.
    expanded = torch.zeros(1).expand(300, 300)
    sliding = torch.zeros(200).as_strided((100, 10, 100), (1, 1, 0))
    torch.save(
        {"expanded.weight": expanded, "sliding.weight": sliding, "fc.weight": torch.ones(3, 4)}, tmp_path / "w.pt"
    )
    ran = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "prelu_doctor", "scan", str(tmp_path / "w.pt"), "--format", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (BYTES_ALLOWED, BYTES_ALLOWED)),
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert [item["id"] for item in report["unresolved"]] == ["expanded.weight", "sliding.weight"]
    assert "lie in the memory of fewer" in report["unresolved"][0]["reason"]
    assert report["weights"]["floating"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]

"""Tensors that claim more than they hold, where weights are looked at without an architecture."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import torch

BYTES_ALLOWED = 4 * 2**30
"""Of address space; torch alone takes most of it."""


def test_views_that_claim_more_elements_than_their_memory_holds_are_refused(tmp_path: Path):
    expanded = torch.zeros(1).expand(10**6, 10**6)
    sliding = torch.zeros(2 * 10**3).as_strided((10**3, 10**3, 10**6), (1, 1, 0))
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
    assert ran.returncode == 2
    assert "its tensors claim more than its" in ran.stderr
    assert ran.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]

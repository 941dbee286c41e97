"""A trained note detector (basic-pitch, an ONNX file made from TensorFlow): 3 ReLU calls, 72 units, none dead."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from prelu_doctor.doctor import scan
from prelu_doctor.patient import open_checkpoint

FOUND = importlib.util.find_spec("basic_pitch")
assert FOUND is not None, "basic-pitch is missing: `make test` installs it, and a skip would hide that it did not"

RATE = 22_050
SAMPLES = 8


@pytest.fixture(scope="module")
def patient():
    folder = Path(FOUND.origin).parent  # the package itself wants TensorFlow, and is not imported
    return open_checkpoint(folder / "saved_models" / "icassp_2022" / "nmp.onnx")


def speech(length: int, seed: int) -> np.ndarray:
    """Speech-like sound: a gliding voice of three formants that comes and goes, hiss between, faint noise."""
    random = np.random.default_rng(seed)
    seconds = np.arange(length) / RATE

    def swing(low, high):
        return np.sin(2 * np.pi * random.uniform(low, high) * seconds + random.uniform(0, 6))

    pitch = random.uniform(80, 300) * (1 + 0.2 * swing(0.5, 3))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = random.uniform([250, 800, 2000], [900, 2200, 3500])
    voice = np.zeros(length)
    for harmonic in range(1, 40):
        voice += np.exp(-(((harmonic * pitch.mean() - formants) / 150) ** 2)).sum() * np.sin(harmonic * phase)
    hiss = np.diff(random.standard_normal(length + 1)) * np.clip(swing(1, 3) - 0.6, 0, None)
    sound = voice / np.abs(voice).max() * np.clip(swing(1.5, 4), 0, None) + hiss
    sound += 0.003 * random.standard_normal(length)
    return (sound / np.abs(sound).max() * random.uniform(0.1, 0.9)).astype(np.float32)


def test_no_unit_of_a_trained_net_is_dead_on_speech(patient):
    (expected,) = patient.expected.inputs
    assert expected.shape == (None, 43_844, 1)
    samples = np.stack([speech(expected.shape[1], seed) for seed in range(SAMPLES)])[..., None]
    report = scan(patient, torch.from_numpy(samples))
    assert [(site.function, site.units, site.unit_axis, site.axis_assumed) for site in report.sites] == [
        ("relu", 8, 1, False),
        ("relu", 32, 1, False),
        ("relu", 32, 1, False),
    ]
    assert (report.totals.units, report.totals.dead) == (72, 0)
    assert {(site.samples, site.counted) for site in report.sites} == {(SAMPLES, "samples")}
    assert report.unresolved == []
    assert [finding.code for finding in report.findings if finding.severity == "error"] == []


def test_silence_says_little(patient):
    """Digital silence wakes fewer units: a dead count belongs to its sample."""
    report = scan(patient, torch.zeros(2, 43_844, 1))
    assert 0 < report.totals.dead < 72
    assert report.totals.firing_rate_bound == pytest.approx(1 - 0.05**0.5)

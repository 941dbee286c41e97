"""From the command line: a stream that carries its state, a forward that takes a tuple, and what is asked for."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prelu_doctor.imports import imported_object

CODE = """
    import os
    import signal
    import torch
    import torch.nn.functional as F
    from torch import nn
    from prelu_doctor import Call


    class Stream(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.gate, self.out = nn.GRUCell(4, 3), nn.Linear(3, 6), nn.Linear(6, 1)

        def forward(self, frame, state):
            assert frame.shape == (1, 4) and state.shape == (1, 3)
            state = self.cell(frame, state)
            return self.out(F.relu(self.gate(state))), state


    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.out = nn.Linear(4, 8), nn.Linear(2, 8), nn.Linear(8, 3)

        def forward(self, inputs):
            a, b = inputs
            return self.out(F.relu(self.left(a) + self.right(b)))


    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.fc, self.out = nn.Embedding(30, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, input_ids=None, attention_mask=None):
            return self.out(F.relu(self.fc(self.embed(input_ids))))


    def stream():
        state = torch.zeros(1, 3)
        for _ in range(320):
            _, state = yield Call(torch.randn(1, 4), state)

    def pairs():
        for _ in range(8):
            yield (torch.randn(50, 4), torch.randn(50, 2)), torch.randint(3, (50,))

    def forgets():
        for _ in range(3):
            _, state = yield torch.zeros(1, 4), torch.zeros(1, 3)

    def interrupted():
        state = torch.zeros(1, 3)
        _, state = yield Call(torch.randn(1, 4), state)
        os.kill(os.getpid(), signal.SIGINT)
        yield Call(torch.randn(1, 4), state)

    def broken_pipe():
        yield Call(torch.randn(1, 4), torch.zeros(1, 3))
        raise BrokenPipeError(32, "Broken pipe")

    def unlike():
        yield Call(torch.randn(1, 4), torch.zeros(2, 3))
"""


@pytest.fixture(scope="module")
def clinic(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clinic")
    (folder / "nets.py").write_text(textwrap.dedent(CODE))
    torch.manual_seed(0)
    for name in ("Stream", "Joined", "Words"):
        model = imported_object(f"{folder}/nets.py:{name}", option="--arch", error=AssertionError)()
        with torch.no_grad():
            for layer in (module for module in model.modules() if isinstance(module, nn.Linear)):
                layer.bias[2:] = 0.5
                layer.bias[:2] = -500
        torch.save(model.state_dict(), folder / f"{name}.pt")
    return folder


@pytest.fixture
def on(command, clinic):
    """Runs a command on one of the nets with one of the callables."""

    def run(name, net, feed=None, *more):
        data = ("--data", f"{clinic}/nets.py:{feed}") if feed else ()
        return command(name, clinic / f"{net}.pt", "--arch", f"{clinic}/nets.py:{net}", *data, *more)

    return run


def report(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_stream_is_scanned_frame_by_frame(on):
    told = report(on("scan", "Stream", "stream", "--format", "json"))
    assert (told["data"]["samples"], told["data"]["contents"]) == (320, "first call x: 1x4, x2: 1x3")
    (site,) = told["sites"]
    assert (site["samples"], site["counted"], site["dead_units"]) == (320, "samples", [0, 1])
    few = report(on("scan", "Stream", "stream", "--max-samples", 7, "--format", "json"))
    assert few["sites"][0]["samples"] == 7
    assert on("check", "Stream", "stream").exit_code == 1


def test_a_stream_is_converted_exported_and_compared(on, clinic, tmp_path, command):
    files = ("-o", tmp_path / "m.safetensors", "--onnx", tmp_path / "m.onnx")
    result = on("convert", "Stream", "stream", *files)
    assert result.exit_code == 0, result.stderr
    assert "2 dead units revived" in result.stdout
    text = " ".join(result.stdout.split())
    assert "the data yields whole calls, whose samples cannot be drawn anew" in text
    data = ("--arch", f"{clinic}/nets.py:Stream", "--data", f"{clinic}/nets.py:stream")
    assert command("parity", tmp_path / "m.safetensors", tmp_path / "m.onnx", *data).exit_code == 0
    assert command("parity", clinic / "Stream.pt", tmp_path / "m.onnx", *data).exit_code == 0, "the same function still"
    assert command("scan", tmp_path / "m.safetensors", *data).exit_code == 0


def test_a_forward_that_takes_a_tuple_is_scanned_converted_and_exported(on, tmp_path):
    told = report(on("scan", "Joined", "pairs", "--format", "json"))
    assert (told["data"]["samples"], told["sites"][0]["dead_units"]) == (400, [0, 1])
    files = ("-o", tmp_path / "m.safetensors", "--onnx", tmp_path / "m.onnx", "--steps", 3)
    result = on("convert", "Joined", "pairs", *files)
    assert result.exit_code == 0, result.stderr
    assert "2 dead units revived" in result.stdout
    assert (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("feed", "code", "words"),
    [
        ("forgets", 2, "cannot unpack non-iterable NoneType"),
        ("broken_pipe", 2, "BrokenPipeError"),
        ("unlike", 2, "AssertionError"),
        ("interrupted", 130, "interrupted: no file was left half written"),
    ],
)
def test_what_goes_wrong_in_a_stream_is_one_clear_message(on, feed, code, words):
    result = on("scan", "Stream", feed)
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr
    assert "internal error" not in result.stderr
    assert "Traceback" not in result.stderr


def test_words_are_asked_for_and_then_scanned(on, command, clinic, tmp_path):
    result = on("scan", "Words")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--data tokens.npz with an int64 array 'input_ids' [N, length], whole numbers below 30" in result.stderr
    np.savez(tmp_path / "tokens.npz", input_ids=np.arange(60).reshape(12, 5) % 30)
    told = report(on("scan", "Words", None, "--data", tmp_path / "tokens.npz", "--format", "json"))
    assert (told["data"]["samples"], told["sites"][0]["dead_units"]) == (12, [0, 1])

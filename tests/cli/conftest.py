"""A ward of small patients, and the command line run on them in this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

from prelu_doctor.cli.app import app

Command = Callable[..., Result]

SAMPLES = 400
DEAD = [2, 5]
"""Units of `mlp.pt` that are dead, of 8."""

ARCHITECTURES = """
import os
import signal
from collections import OrderedDict

import torch
from torch import nn
from torch.utils.data import TensorDataset


class Mlp(nn.Module):
    def __init__(self, hidden=8, outputs=3):
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.fc2(self.relu(self.fc1(x)))


class Raises(Mlp):
    def forward(self, x):
        raise RuntimeError("boom \\x1b[31m [red]here")


class LeavesTheProgram(Mlp):
    def forward(self, x):
        raise SystemExit(0)


class Prints(Mlp):
    def forward(self, x):
        print("the model's own print")
        return super().forward(x)


class ReturnsOneNumber(Mlp):
    def forward(self, x):
        return super().forward(x).sum()


class ReturnsNothing(Mlp):
    def forward(self, x):
        super().forward(x)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(2, 8)

    def forward(self, x, z):
        return torch.relu(self.left(x) + self.right(z))


class MyOwn(nn.Sequential):
    pass


MODULE = Mlp()


def broken():
    raise ValueError("no such luck")


def three():
    return 3


def batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(50, 4, generator=generator) for _ in range(8)]


def dataset():
    return TensorDataset(torch.cat(batches()))


def interrupted():
    yield torch.randn(50, 4)
    os.kill(os.getpid(), signal.SIGINT)
    yield torch.randn(50, 4)
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that all tests read and none writes."""
    folder = tmp_path_factory.mktemp("ward")
    generator = torch.Generator().manual_seed(1)
    model = small_net(generator)
    torch.save(model, folder / "mlp.pt")
    torch.save(model.state_dict(), folder / "weights.pt")
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, folder / "wrapped.pt"
    )
    save_file(model.state_dict(), folder / "mlp.safetensors")
    alive = small_net(generator, dead=[])
    torch.save(alive, folder / "healthy.pt")
    write_data(folder, generator)
    (folder / "arch.py").write_text(ARCHITECTURES)
    return folder


def small_net(generator: torch.Generator, dead: list[int] = DEAD) -> nn.Sequential:
    model = nn.Sequential(OrderedDict(fc1=nn.Linear(4, 8), relu=nn.ReLU(), fc2=nn.Linear(8, 3)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        model.fc1.bias.zero_()
        model.fc1.bias[dead] = -100
    return model.eval()


def write_data(folder: Path, generator: torch.Generator) -> None:
    x, x_val = torch.randn(SAMPLES, 4, generator=generator), torch.randn(40, 4, generator=generator)
    y, y_val = x[:, :3].argmax(1), x_val[:, :3].argmax(1)
    save_file({"x": x, "y": y, "x_val": x_val, "y_val": y_val}, folder / "data.safetensors")
    torch.save({"x": x, "y": y}, folder / "data.pt")
    np.savez(folder / "data.npz", x=x.numpy(), y=y.numpy())
    np.save(folder / "data.npy", x.double().numpy())


@pytest.fixture(scope="session")
def healed(ward: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `mlp.pt` converted: as healed.safetensors with healed.onnx, and as healed.pt with its recipe."""
    folder = tmp_path_factory.mktemp("healed")
    data = ("--data", ward / "data.safetensors", "--steps", 20)
    for target, more in (("healed.safetensors", ("--onnx", folder / "healed.onnx")), ("healed.pt", ())):
        result = run_in_process("convert", ward / "mlp.pt", *data, "-o", folder / target, *more)
        assert result.exit_code == 0, result.stderr
    return folder


def run_in_process(*arguments: object, charset: str = "utf-8", **environment: str) -> Result:
    result = CliRunner(charset=charset, env=environment).invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def command() -> Command:
    return run_in_process

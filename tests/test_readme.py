"""What the README tells a reader to type works, and shows what it says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import prelu_doctor
from prelu_doctor.cli.app import app

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a fresh clone, in which the commands run in the README's order."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(REPOSITORY / "fixtures", folder / "fixtures", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def commands() -> list[tuple[list[str], str]]:
    """Each `prelu-doctor` command of the README with the output shown below it."""
    blocks = [block.partition("\n") for block in CONSOLE]
    return [(first.split()[2:], shown) for first, _, shown in blocks if first.startswith("$ prelu-doctor ")]


def site_rows(text: str) -> list[tuple[str, ...]]:
    """Site, units and dead units of every row of a site table."""
    return re.findall(r"^(\S+) +relu +(\d+) +(\d+)", text, re.MULTILINE)


@pytest.mark.parametrize(("arguments", "shown"), commands(), ids=[arguments[0] for arguments, _ in commands()])
def test_a_command_gives_what_is_shown(
    arguments: list[str], shown: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, arguments)
    assert result.exit_code == (1 if arguments[0] == "check" else 0), result.stderr
    assert site_rows(result.stdout) == site_rows(shown)
    headings = [line for line in shown.splitlines() if re.fullmatch(r"[A-Z][a-z ]+", line)]
    assert all(heading in result.stdout.splitlines() for heading in headings)
    assert re.findall(r"\d+ of \d+ (?:units dead|became)", result.stdout) == re.findall(
        r"\d+ of \d+ (?:units dead|became)", shown
    )


def test_the_commands_were_found() -> None:
    assert [arguments[0] for arguments, _ in commands()] == ["scan", "convert", "check"]
    assert len(site_rows(commands()[0][1])) == 4


def test_a_converted_file_is_used_as_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    scope: dict[str, object] = {}
    exec(PYTHON[0], scope)  # noqa: S102 - the README's own words
    model = scope["model"]
    assert isinstance(model, nn.Module)
    assert sum(isinstance(module, nn.PReLU) for module in model.modules()) == 4


def test_the_library_is_used_as_shown(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(320, 4)
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=64)
    scope: dict[str, object] = {"model": model, "loader": loader}
    (block,) = (block for block in PYTHON if "import Treatment" in block)
    exec(block.replace("steps=200", "steps=5"), scope)  # noqa: S102 - the README's own words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["healed.onnx", "healed.safetensors"]


def test_a_stream_is_given_what_the_model_returned() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(16, 128), nn.Linear(128, 4)

        def forward(self, frame: torch.Tensor, state: torch.Tensor, sr: int) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(state)
            out, (h, c) = self.lstm(frame[None], (state[:1], state[1:]))
            return self.head(out[0]).relu(), torch.cat([h, c])

    torch.manual_seed(0)
    seen: list[torch.Tensor] = []
    (block,) = (block for block in PYTHON if "def stream" in block)
    scope: dict[str, object] = {"torch": torch, "prelu_doctor": prelu_doctor, "frames": torch.randn(3, 1, 16)}
    exec(block, scope)  # noqa: S102 - the README's own words
    report = prelu_doctor.scan(Recurrent(), scope["stream"])
    assert report.data.samples == 3
    assert all(bool(state.any()) for state in seen[-2:])


@pytest.mark.parametrize("option", re.findall(r"`(--[a-z-]+)", README))
def test_an_option_it_names_exists(option: str) -> None:
    helps = [
        CliRunner(env={"COLUMNS": "200"}).invoke(app, [name, "--help"]).stdout for name in ("convert", "check", "scan")
    ]
    assert any(re.search(rf"{option}\b", text) for text in helps)

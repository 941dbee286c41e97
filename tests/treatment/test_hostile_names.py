"""Names from a file never reach the code that `torch.fx` writes and runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from treated import UNTRAINED, dataset_of, gaussian

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.doctor import convert
from prelu_doctor.errors import CheckpointError
from prelu_doctor.treatment.conversion import Treatment, treat
from prelu_doctor.treatment.converted_file import load


def payload(marker: Path) -> str:
    """Python that makes a file, where a name is put between quotes and brackets."""
    touch = f'getattr(getattr(__import__("pathlib"),"Path")({str(marker)!r}),"touch")()'
    return f'a"),{touch},getattr(self,"a'


def shared_relu() -> nn.Sequential:
    """One ReLU in two places: a conversion must rewrite the forward."""
    relu = nn.ReLU()
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), relu, nn.Linear(8, 8), relu, nn.Linear(8, 3)).eval()


def test_a_recipe_that_names_code_is_refused(tmp_path: Path) -> None:
    model = shared_relu()
    converted = convert(model, gaussian(400, 4), Treatment(training=UNTRAINED))
    converted.save(tmp_path / "good.safetensors")
    stored = read_checkpoint(tmp_path / "good.safetensors")
    assert stored.recipe_text is not None
    assert stored.state is not None
    recipe = json.loads(stored.recipe_text)
    recipe["sites"][0]["places"][0]["module"] = payload(tmp_path / "marker")
    metadata = {"prelu_doctor.recipe": json.dumps(recipe)}
    save_file(stored.state, tmp_path / "evil.safetensors", metadata)
    with pytest.raises(CheckpointError, match="it names the module"):
        load(model, tmp_path / "evil.safetensors")(gaussian(2, 4))
    assert not (tmp_path / "marker").exists()


def test_a_pickled_module_with_code_for_a_name_is_refused(tmp_path: Path) -> None:
    model = shared_relu()
    model._modules[payload(tmp_path / "marker")] = nn.Linear(3, 3)
    torch.save(model, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="not what they should be"):
        read_checkpoint(tmp_path / "evil.pt")


def test_in_memory_such_a_module_is_declined_and_nothing_runs(tmp_path: Path) -> None:
    model = shared_relu()
    model._modules[payload(tmp_path / "marker")] = nn.Linear(3, 3)
    treated = treat(model, dataset_of(gaussian(400, 4)), Treatment(training=UNTRAINED))
    treated.model(gaussian(2, 4))
    assert all("not fit for code" in change.declined for change in treated.changes)
    assert not (tmp_path / "marker").exists()

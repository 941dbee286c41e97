from types import SimpleNamespace

import pytest
import torch
from deployed_models import IMAGES, ROWS, TOKENS, AxesOfEveryKind, ConvNormPRelu, DictOfOutputs, FrozenBatchBranch

from prelu_doctor.deployment.onnx_file import export_onnx


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Models that many tests look at, exported once: name -> model, batch, file, path."""
    folder = tmp_path_factory.mktemp("exports")
    models = [
        (ConvNormPRelu(), IMAGES),
        (AxesOfEveryKind(), TOKENS),
        (DictOfOutputs(), ROWS),
        (FrozenBatchBranch(), ROWS),
    ]
    made = {}
    for model, batch in models:
        name = type(model).__name__
        path = folder / f"{name}.onnx"
        made[name] = SimpleNamespace(model=model, batch=batch, path=path, file=export_onnx(model, batch, path))
    return made

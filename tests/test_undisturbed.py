"""A forward that raises half way, or that leaves a mess: everything is afterwards as it was before."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from treated import dataset_of, gaussian

from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import ForwardError
from prelu_doctor.scanning.scan import scan_model
from prelu_doctor.sites.trace import none_arguments, trace
from prelu_doctor.treatment.preservation import compare_outputs

X = gaussian(4, 3)


class BreaksOff(nn.Module):
    """Changes everything that a forward can change, and raises in the middle of a nested block, in its n-th run."""

    runs: Tensor

    def __init__(self, survives: int = 0) -> None:
        super().__init__()
        self.survives = survives
        self.made = 0
        self.fc = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Breaks(self), nn.ReLU())
        self.frozen = nn.Dropout(0.5)
        self.register_buffer("runs", torch.zeros(()))
        self.fc.register_forward_hook(lambda module, args, output: output + 1)
        self.train()
        self.frozen.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        self.runs = self.runs + 1
        self.kept = x
        torch.rand(3)
        random.random()  # noqa: S311 - no secret
        np.random.rand()
        torch.manual_seed(7)
        torch.backends.mha.set_fastpath_enabled(True)
        self.train()
        x = self.norm(F.relu(self.fc(x)))
        with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return self.block(x)


class Breaks(nn.Module):
    def __init__(self, net: BreaksOff) -> None:
        super().__init__()
        self.net = [net]

    def forward(self, x: Tensor) -> Tensor:
        (net,) = self.net
        BREAKS["runs"] += 1
        if BREAKS["runs"] > net.survives:
            raise ArithmeticError("half way")
        return x


BREAKS = {"runs": 0}
"""Counted outside of the model, whose own numbers are restored."""


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything that a run might leave behind."""
    return {
        "training": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "global hooks": (len(torch_module._global_forward_hooks), len(torch_module._global_forward_pre_hooks)),
        "always called": len(torch_module._global_forward_hooks_always_called),
        "tensors": {name: (id(tensor), tensor.tolist()) for name, tensor in model.state_dict(keep_vars=True).items()},
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "inference": [tensor.is_inference() for tensor in model.state_dict(keep_vars=True).values()],
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "dispatch modes": len(_get_current_dispatch_mode_stack()),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "random": (torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())),
    }


RUNS: dict[str, Callable[[BreaksOff], object]] = {
    "trace": lambda model: trace(model, Batch(args=(X,))),
    "scan": lambda model: scan_model(model, dataset_of(X, batch_size=2).scanned()),
    "none arguments": lambda model: none_arguments(model, Batch(args=(X,)), ["block", "fc"]),
    "comparison": lambda model: compare_outputs(model, model, dataset_of(X).scanned(), promised=True),
}


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize("survives", [0, 1, 3, 100])
@pytest.mark.parametrize("run", RUNS)
def test_everything_is_as_it_was(run: str, survives: int, fast_path: bool) -> None:
    torch.manual_seed(0)
    BREAKS["runs"] = 0
    model = BreaksOff(survives)
    torch.backends.mha.set_fastpath_enabled(fast_path)
    before = state_of(model)
    try:
        RUNS[run](model)
        ended = "whole"
    except (ForwardError, ArithmeticError) as error:
        ended = "half way" if "half way" in str(error) else str(error)
    after = state_of(model)
    torch.backends.mha.set_fastpath_enabled(True)
    assert ended == ("half way" if BREAKS["runs"] > survives else "whole")
    assert {name for name in before if before[name] != after[name]} == set()


def test_the_error_of_a_forward_tells_what_it_was_given_and_what_it_said() -> None:
    BREAKS["runs"] = 0
    with pytest.raises(ForwardError, match=r"ArithmeticError: half way(.|\n)*float32 \[4, 3\]"):
        trace(BreaksOff(), Batch(args=(X,)))


def test_a_model_can_be_trained_after_a_run_that_broke_off() -> None:
    BREAKS["runs"] = 0
    model = BreaksOff()
    with pytest.raises(ForwardError):
        trace(model, Batch(args=(X,)))
    model.survives = 100
    model(X).float().sum().backward()
    assert model.fc.weight.grad is not None


def test_a_scripted_module_that_has_run_with_gradients_is_scanned_and_goes_on_learning() -> None:
    """TorchScript saves for the way back once it has seen gradients, which inference mode forbids."""
    with pytest.warns(FutureWarning, match="script"):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    model = nn.Sequential(scripted, nn.Linear(4, 2))
    for _ in range(4):
        model(X)
    (site,) = scan_model(model, dataset_of(X).scanned()).sites
    assert site.units == 4
    model(X).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_compiled_module_is_scanned_without_the_compiler_and_stays_compiled() -> None:
    compilations = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        compilations.append(graph)
        return graph.forward

    model = nn.Sequential(torch.compile(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), backend=backend), nn.Linear(4, 2))
    (site,) = scan_model(model, dataset_of(X).scanned()).sites
    assert (site.units, compilations) == (4, [])
    model(X)
    assert len(compilations) == 1

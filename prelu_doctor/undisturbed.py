"""Running a model's forward so that afterwards everything is as it was before."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from prelu_doctor.devices import device_of


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """The model in eval mode for this block; modes, buffers, fast paths and random states are restored after it.

    So are what the modules hold and their plain attributes: a forward that caches a tensor under inference mode would
    leave a model behind that cannot be trained. (A list that it appends to stays longer.) Transformer fast paths are
    off inside: their fused kernels hide the ReLU. What was given to `torch.compile` runs as plain Python inside, and
    scripted modules are frozen: once they have run with gradients, TorchScript refuses to run them in inference mode.
    """
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]  # frozen: no mode
    attributes = [
        (own, dict(own))
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for own in (module._parameters, module._buffers, module._modules, module.__dict__)
    ]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    scripted = [leaf for leaf in _scripted_parameters(model) if leaf.is_leaf and leaf.requires_grad]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    states = random.getstate(), np.random.get_state()
    device = device_of(model)
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        model.eval()
        for parameter in scripted:
            parameter.requires_grad_(False)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _nothing_compiled():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        random.setstate(states[0])
        np.random.set_state(states[1])
        for parameter in scripted:
            parameter.requires_grad_(True)
        for own, before_run in attributes:
            own.clear()
            own.update(before_run)
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, before in buffers:
            _restore_buffer(module, name, buffer, before)


def _scripted_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            yield from module.parameters(recurse=False)


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """The compiler would trace into whoever watches the forward. Where nobody has loaded it, nothing is compiled."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _restore_buffer(module: nn.Module, name: str, buffer: Tensor, before: Tensor) -> None:
    if not isinstance(module, torch.jit.ScriptModule):  # its buffers live elsewhere and cannot be replaced
        module._buffers[name] = buffer
    if not torch.equal(buffer, before):
        with torch.no_grad():
            buffer.copy_(before)

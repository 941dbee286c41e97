"""Counts rectifier calls at the dispatcher. It shares nothing with the package, so that it can judge it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prelu_doctor.data.batches import Batch


def dispatched_rectifiers(model: nn.Module, batch: Batch) -> Counter[str]:
    """Calls of `relu`, `relu6` and `prelu` on floating tensors in one forward.

    Gradients are off, but the forward doesn't run under inference mode: so composite operations such as `rnn_relu` are
    seen as their parts. The fused kernel of `nn.TransformerEncoderLayer`, which hides its ReLU, is switched off.
    """
    counter = _Counter()
    with torch.no_grad(), fused_kernels_off(), torch.random.fork_rng(devices=[]), counter:
        batch.clone().run(model)
    return counter.calls


def rectifiers(calls: Counter[str]) -> int:
    """How many of the calls are ReLU or ReLU6."""
    return calls["relu"] + calls["relu6"]


@contextlib.contextmanager
def fused_kernels_off() -> Iterator[None]:
    """Without the kernels that compute a whole encoder layer at once."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        kind = _kind(func.overloadpacket.__name__.rstrip("_"), args, kwargs)
        if kind and isinstance(args[0], Tensor) and args[0].is_floating_point():
            self.calls[kind] += 1
        return func(*args, **kwargs)


def _kind(name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    low, high = (*args[1:3], None, None)[:2]
    low, high = kwargs.get("min", low), kwargs.get("max", high)
    if name in ("relu", "relu6", "prelu"):
        return name
    if name == "_prelu_kernel":
        return "prelu"
    if name in ("clamp", "clamp_min", "hardtanh") and low == 0 and not isinstance(low, Tensor):
        return {None: "relu", 6: "relu6"}.get(high, "") if not isinstance(high, Tensor) else ""
    return ""

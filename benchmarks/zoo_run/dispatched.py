"""Counts rectifier calls and their silent units at the dispatcher.

It shares nothing with the package, so that it can judge it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence

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
    _run(model, batch, counter)
    return counter.calls


def silent_units(model: nn.Module, batch: Batch, axes: Sequence[int]) -> list[frozenset[int]] | None:
    """Which units of each ReLU or ReLU6 call let no gradient through at any position of any sample.

    Args:
        model: The model.
        batch: Its input.
        axes: The unit axis of every call, in the order of the calls.

    Returns:
        For every call, the silent units; None where the forward makes another number of calls.
    """
    counter = _Counter(axes)
    _run(model, batch, counter)
    return counter.silent if rectifiers(counter.calls) == len(axes) else None


def _run(model: nn.Module, batch: Batch, counter: _Counter) -> None:
    with torch.no_grad(), fused_kernels_off(), torch.random.fork_rng(devices=[]), counter:
        batch.clone().run(model)


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
    def __init__(self, axes: Sequence[int] = ()) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.silent: list[frozenset[int]] = []
        self._axes = axes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        kind = _kind(func.overloadpacket.__name__.rstrip("_"), args, kwargs)
        output = func(*args, **kwargs)
        if not kind or not args[0].is_floating_point():
            return output
        self.calls[kind] += 1
        if kind in ("relu", "relu6") and len(self.silent) < len(self._axes):
            passes = (output > 0) & (output < (6 if kind == "relu6" else float("inf")))
            self.silent.append(_all_false_along(passes, self._axes[len(self.silent)]))
        return output


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


def _all_false_along(flags: Tensor, axis: int) -> frozenset[int]:
    others = [other for other in range(flags.dim()) if other != axis % max(flags.dim(), 1)]
    silent = ~(flags.any(dim=others) if others else flags)
    return frozenset(silent.reshape(-1).nonzero().flatten().tolist())

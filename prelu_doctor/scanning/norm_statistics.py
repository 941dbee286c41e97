"""Mean and variance of what enters a batch norm, per channel, over a data set."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.trace import trace


def norm_statistics(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Re-estimates the running statistics of every batch norm without changing them.

    Args:
        model: The module; run in eval mode.
        batches: The data, on the model's device.

    Returns:
        By name of a `running_mean` or `running_var` buffer, the statistic of the norm's input `[C]`, float64; the
        variance is the unbiased one that torch keeps.
    """
    moments = _Moments()
    for batch in batches:
        trace(model, batch, moments)
    return moments.finish()


class _Moments:
    """Sums of x and x^2 about a first estimate of the mean, so that large offsets do not cancel."""

    ops = frozenset({"batch_norm"})

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], tuple[int, Tensor, Tensor, Tensor]] = {}

    def before(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        mean, variance = (graph.name_of(call.value(name)) for name in ("running_mean", "running_var"))
        if call.op != "batch_norm" or not mean or not variance:
            return
        values = tensor.movedim(1, 0).flatten(1).double()
        count, centre, first, second = self._sums.get((mean, variance), (0, values.mean(1), 0.0, 0.0))
        off = values - centre[:, None]
        self._sums[mean, variance] = (count + values.shape[1], centre, first + off.sum(1), second + (off**2).sum(1))

    def after(self, graph: Graph, call: Call, tensor: Tensor) -> None:
        pass

    def finish(self) -> dict[str, Tensor]:
        statistics = {}
        for (mean, variance), (count, centre, first, second) in self._sums.items():
            statistics[mean] = centre + first / count
            statistics[variance] = (second - first**2 / count).clamp(min=0) / max(count - 1, 1)
        return {name: torch.as_tensor(value) for name, value in statistics.items()}

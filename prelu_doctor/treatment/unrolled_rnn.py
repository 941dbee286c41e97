"""`torch.rnn_relu` step by step, with another activation in place of its ReLU.

Operation by operation what the fused one does on a CPU (ATen's RNN.cpp), so that with a ReLU it gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Rectify = Callable[[Tensor], Tensor]

ARGUMENTS = 9
"""Of `torch.rnn_relu`, for padded and for packed sequences alike."""


def rnn_cell(
    rectify: Rectify,
    x: Tensor,
    hidden: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """`torch.rnn_relu_cell` with `rectify` for the ReLU."""
    return rectify(F.linear(hidden, w_hh, b_hh) + F.linear(x, w_ih, b_ih))


def layers_of(args: Sequence[Any]) -> int:
    """How many layers and directions a call of `torch.rnn_relu` has; 0 where its arguments are not all positional."""
    if len(args) < ARGUMENTS:
        return 0
    layers, both = (args[5], args[8]) if isinstance(args[2], Tensor) else (args[4], args[7])
    return layers * (2 if both else 1)  # type: ignore[no-any-return]


def rnn(activations: Sequence[Rectify], *args: Any) -> tuple[Tensor, Tensor]:
    """`torch.rnn_relu` with one activation for each layer and direction.

    Args:
        activations: Layer by layer, forward before backward.
        args: The arguments of `torch.rnn_relu`, for padded or for packed sequences.

    Returns:
        The outputs of the last layer, and the last hidden states `[layers * directions, N, H]`.
    """
    if isinstance(args[2], Tensor):
        data, batch_sizes, hidden, weights, biased, layers, dropout, train, both = args
        batch_first = False
        steps = _packed_steps(batch_sizes.tolist())
    else:
        data, hidden, weights, biased, layers, dropout, train, both, batch_first = args
        data = data.transpose(0, 1) if batch_first else data
        steps = None
    directions = 2 if both else 1
    size = 4 if biased else 2
    if len(activations) != layers * directions or len(weights) != size * layers * directions:
        raise RuntimeError(f"an RNN of {layers * directions} layers and directions has {len(activations)} activations")
    last: list[Tensor] = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            cell = _Cell(activations[number], *weights[number * size : (number + 1) * size])
            if steps is None:
                output, state = _padded(cell, data, hidden[number], backward=direction == 1)
            else:
                output, state = _packed(cell, data, hidden[number], steps, backward=direction == 1)
            outputs.append(output)
            last.append(state)
        data = torch.cat(outputs, -1) if both else outputs[0]
        if dropout and train and layer < layers - 1:
            data = F.dropout(data, dropout, training=True)
    return (data.transpose(0, 1) if batch_first else data), torch.stack(last)


@dataclass(frozen=True)
class _Cell:
    """One layer in one direction."""

    rectify: Rectify
    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None

    def inputs(self, data: Tensor) -> Tensor:
        """The input's part of all steps at once."""
        return F.linear(data, self.w_ih, self.b_ih)

    def step(self, from_input: Tensor, hidden: Tensor) -> Tensor:
        return self.rectify(F.linear(hidden, self.w_hh, self.b_hh) + from_input)


def _padded(cell: _Cell, data: Tensor, hidden: Tensor, *, backward: bool) -> tuple[Tensor, Tensor]:
    steps = list(cell.inputs(data).unbind(0))
    outputs = []
    for from_input in reversed(steps) if backward else steps:
        hidden = cell.step(from_input, hidden)
        outputs.append(hidden)
    return torch.stack(outputs[::-1] if backward else outputs), hidden


def _packed_steps(batch_sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Start and length of every time step in packed data."""
    starts = [sum(batch_sizes[:step]) for step in range(len(batch_sizes))]
    return list(zip(starts, batch_sizes, strict=True))


def _packed(
    cell: _Cell, data: Tensor, hidden: Tensor, steps: Sequence[tuple[int, int]], *, backward: bool
) -> tuple[Tensor, Tensor]:
    """Sequences are sorted by length: those that still run at a step are the first ones."""
    from_inputs = cell.inputs(data)
    outputs: dict[int, Tensor] = {}
    for start, running in reversed(steps) if backward else steps:
        now = cell.step(from_inputs.narrow(0, start, running), hidden[:running])
        outputs[start] = now
        hidden = torch.cat([now, hidden[running:]]) if running < len(hidden) else now
    return torch.cat([outputs[start] for start, _ in steps]), hidden

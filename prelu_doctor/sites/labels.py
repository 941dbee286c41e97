"""Labels: which element of a value holds which unit.

A label tensor has the shape of the value it describes. `u + 1` stands where an element depends on unit u and on no
other unit of the site; `NOTHING` where it is always 0 (padding); `FOREIGN` where it carries some other signal.

Labels are constant along most axes. They are kept expanded (stride 0) there, so that a label tensor takes the memory of
its units and not of the activations; `thin` takes such axes off before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NOTHING = 0
FOREIGN = -1


def labels_along(shape: tuple[int, ...], axis: int) -> Tensor:
    """Labels of a value whose units lie along one axis: `u + 1` at unit u."""
    along = [1] * len(shape)
    along[axis] = -1
    return torch.arange(1, shape[axis] + 1, dtype=torch.float32).reshape(along).expand(shape)


def filled(shape: Sequence[int], label: int) -> Tensor:
    """The same label everywhere."""
    return torch.tensor(float(label)).expand(tuple(shape))


def thin(labels: Tensor) -> Tensor:
    """The labels with every axis along which they were expanded cut to length 1."""
    for axis, stride in enumerate(labels.stride()):
        if stride == 0 and labels.shape[axis] > 1:
            labels = labels.narrow(axis, 0, 1)
    return labels


def by_channel(labels: Tensor, axis: int) -> Tensor:
    """Labels `[channels, rest]`; every label of a channel is among the rest, not as often as it was."""
    channels = labels.shape[axis]
    rows = thin(labels).movedim(axis, 0)
    return rows.reshape(len(rows), -1).expand(channels, -1)


def one_label(flat: Tensor) -> tuple[Tensor, Tensor]:
    """The single label along the last axis, zeros aside.

    Args:
        flat: Labels `[..., P]`.

    Returns:
        The label `[...]`, foreign where several meet, and the mask `[...]` of where several meet. Where there is none
        at all, because a batch left nothing of the value, nothing stands.
    """
    if 0 in flat.shape:
        return torch.full(flat.shape[:-1], float(NOTHING)), torch.zeros(flat.shape[:-1], dtype=torch.bool)
    highest = flat.amax(-1, keepdim=True)
    highest = torch.where((highest == NOTHING) & (flat == FOREIGN).any(-1, keepdim=True), float(FOREIGN), highest)
    mixed = ((flat != NOTHING) & (flat != highest)).any(-1)
    return torch.where(mixed, float(FOREIGN), highest.squeeze(-1)), mixed

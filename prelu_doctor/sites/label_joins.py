"""What becomes of labels where several operands or several elements meet in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prelu_doctor.sites.labels import FOREIGN, NOTHING, one_label, thin

if TYPE_CHECKING:
    from prelu_doctor.sites.carrier import Carrier


def join(carrier: Carrier, operands: Mapping[str, Tensor], zero_when: Sequence[tuple[str, ...]], reason: str) -> Tensor:
    """The labels of an elementwise function of several operands.

    Args:
        carrier: Told of units that meet each other, or that are moved off zero.
        operands: Labels by name; their shapes can be broadcast.
        zero_when: Sets of operands; the function is 0 where all operands of one set are.
        reason: What is told of such units.

    Returns:
        The labels, not expanded.
    """
    shapes = torch.broadcast_tensors(*(thin(labels) for labels in operands.values()))
    named = dict(zip(operands, shapes, strict=True))
    sets = [[named[name] for name in names] for names in zero_when if all(name in named for name in names)]
    unit = torch.stack(list(named.values())).amax(0)
    nothing = _any([_all([labels == NOTHING for labels in group]) for group in sets], unit)
    kept = _any([_all([(labels == NOTHING) | (labels == unit) for labels in group]) for group in sets], unit)
    met = _any([(labels > 0) & (labels != unit) for labels in named.values()], unit) & ~nothing
    if met.any():
        for labels in named.values():
            carrier.mixed(labels[met], reason)
    shifted = (unit > 0) & ~kept & ~met & ~nothing
    if shifted.any():
        carrier.shifted(unit[shifted], reason)
    label = torch.where(met | (unit <= 0), float(FOREIGN), unit)
    return torch.where(nothing, float(NOTHING), label)


def _any(masks: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(masks).any(0) if masks else torch.zeros(like.shape, dtype=torch.bool)


def _all(masks: list[Tensor]) -> Tensor:
    return torch.stack(masks).all(0)


def merge(carrier: Carrier, flat: Tensor, op: str) -> Tensor:
    """The single label along the last axis, zeros aside; units that stand together there are given up.

    Args:
        carrier: Told of these.
        flat: Labels `[..., P]`.
        op: The operation that makes one element of them.

    Returns:
        The label `[...]`.
    """
    labels, mixed = one_label(flat)
    if mixed.any():
        carrier.mixed(flat[mixed], f"is mixed with other signals by {op}")
    return labels


def contract(
    carrier: Carrier, op: str, factors: Sequence[tuple[Tensor, Sequence[str]]], output: Sequence[str]
) -> Tensor:
    """The labels of a sum of products: 0 where, in one factor, everything summed over is 0.

    Args:
        carrier: Told of units that meet.
        op: The operation.
        factors: Each factor's labels, and a name for each of its axes.
        output: Names of the output's axes; all others are summed over.

    Returns:
        The labels, not expanded.

    Raises:
        ValueError: A factor has two axes of one name, so that its diagonal is taken.
    """
    aligned: dict[str, Tensor] = {}
    for number, (labels, names) in enumerate(factors):
        if len(set(names)) < len(names):
            raise ValueError("a diagonal is taken")
        kept = [names.index(name) for name in output if name in names]
        summed = [axis for axis in range(len(names)) if axis not in kept]
        rows = thin(labels).permute(*kept, *summed)
        label = merge(carrier, rows.flatten(len(kept)), op) if summed else rows
        aligned[str(number)] = label[tuple(slice(None) if name in names else None for name in output)]
    return join(carrier, aligned, [(name,) for name in aligned], f"is multiplied by another unit in {op}")

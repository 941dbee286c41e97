"""The PReLU that takes a site's place."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from prelu_doctor.records import SMOOTH, Record
from prelu_doctor.sites.activations import Activation
from prelu_doctor.treatment.prelu import AxisPReLU
from prelu_doctor.treatment.stand_in import StandIn

AlphaShape = Literal["channel", "site", "tied"]


class SlopeShape(Record, frozen=True, kw_only=True):
    """How the PReLU of a site is built; part of the recipe in a converted file."""

    count: int
    """Number of slopes: C, or 1 where one serves the site."""
    axis: int
    """Unit axis, counted from the front where it is 1, else from the back (negative)."""
    ceiling: float | None = None
    """Largest output, for ReLU6."""
    inplace: bool = False
    """Whether it overwrites its input, because that is read again."""
    casts: bool = False
    """Whether its input has another dtype than the model's parameters, as under autocast."""


def build_prelu(shape: SlopeShape, slope: float, like: nn.Module) -> nn.PReLU:
    """A PReLU module for a site: torch's own where it serves, else `AxisPReLU`.

    Args:
        shape: Number and axis of the slopes.
        slope: Their value.
        like: The model, whose first floating-point parameter tells dtype and device.
    """
    plain = shape.ceiling is None and not shape.inplace and not shape.casts and (shape.count == 1 or shape.axis == 1)
    if plain:
        module: nn.PReLU = nn.PReLU(shape.count, init=slope)
    else:
        module = AxisPReLU(shape.count, axis=shape.axis, ceiling=shape.ceiling, init=slope, inplace=shape.inplace)
    dtype, device = dtype_and_device(like)
    return module.to(dtype=dtype, device=device)


def first_module(activation: Activation, shape: SlopeShape, slope: float, like: nn.Module) -> nn.PReLU:
    """The module that takes a site's place without moving the output.

    Args:
        activation: What stands there.
        shape: Number and axis of the slopes.
        slope: Their value, where the activation has none of its own.
        like: The model, whose first floating-point parameter tells dtype and device.

    Returns:
        A PReLU, which has the slope of a LeakyReLU; for a smooth activation a stand-in until its slopes are fitted.
    """
    if activation.function in SMOOTH:
        dtype, device = dtype_and_device(like)
        return StandIn(activation, inplace=shape.inplace).to(dtype=dtype, device=device)
    return build_prelu(shape, slope if activation.slope is None else activation.slope, like)


def holds_exactly(slope: float, like: nn.Module) -> bool:
    """True where a PReLU of the model's dtype has this very slope: a LeakyReLU computes with it in float32 at least."""
    dtype, _ = dtype_and_device(like)
    wide = torch.promote_types(dtype, torch.float32)
    return float(torch.tensor(slope, dtype=dtype)) == float(torch.tensor(slope, dtype=wide))


def dtype_and_device(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Those of a model's first floating-point parameter."""
    example = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.empty(0))
    return example.dtype, example.device

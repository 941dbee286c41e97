"""He initialisation for rectifiers with a negative slope."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def he_std(fan_in: int, slope: float = 0.0) -> float:
    """Standard deviation that keeps the variance of a forward signal through a PReLU with this slope.

    Args:
        fan_in: Inputs of one unit: (input channels / groups) x kernel size.
        slope: The rectifier's negative slope a.

    Source: He et al. 2015, Delving Deep into Rectifiers, eq. 15: sqrt(2 / ((1 + a^2) n)).
    """
    return math.sqrt(2.0 / ((1.0 + slope**2) * max(fan_in, 1)))


def he_normal(shape: Sequence[int], fan_in: int, slope: float, generator: torch.Generator) -> Tensor:
    """He-normal values, float32 on the CPU, so that a seed gives the same bits on every device."""
    return torch.randn(tuple(shape), generator=generator) * he_std(fan_in, slope)

"""Holds the place of a PReLU whose slopes are not fitted yet, and computes the original activation meanwhile."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from prelu_doctor.records import SMOOTH
from prelu_doctor.sites.activations import Activation


class StandIn(nn.PReLU):
    """A smooth activation as a module of its own.

    Where it stands the model computes what it did, so that everything else that surgery does can be proved to the bit.
    It is a PReLU so that it is found wherever one is; its slope has no effect.

    Args:
        activation: The function, one of `SMOOTH`.
        inplace: Whether the result is written over the input too, which somebody else reads afterwards.
    """

    def __init__(self, activation: Activation, *, inplace: bool = False) -> None:
        super().__init__(1, 0.0)
        assert activation.function in SMOOTH
        self.activation = activation
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """The original activation of `x`, of any shape."""
        result = self._computed(x)
        return x.copy_(result) if self.inplace else result

    def _computed(self, x: Tensor) -> Tensor:
        if self.activation.function == "gelu":
            return F.gelu(x, approximate=self.activation.approximate)
        return F.silu(x) if self.activation.function == "silu" else F.hardswish(x)

"""A PReLU whose slopes act along any axis, with an optional ceiling."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AxisPReLU(nn.PReLU):
    """`min(where(x > 0, x, slope * x), ceiling)`, with one slope for each channel along `axis`.

    `nn.PReLU` (He et al. 2015, eq. 1) reads channels along axis 1 only; after a linear layer they lie on the last axis.
    With slopes of 0 it equals (`==`) ReLU, or ReLU6 with a ceiling of 6, on every input but -inf (0 * -inf is NaN).
    An ONNX export gives one `PRelu` node, and one `Clip` where there is a ceiling.

    Args:
        num_parameters: Number of channels C, or 1 for a slope that all of them share.
        axis: Axis of the input that holds the C channels; may be negative. Without meaning where C is 1.
        ceiling: Largest value that comes out; None for no limit.
        init: Initial value of every slope.
        inplace: Whether the result is written over the input too, which somebody else reads afterwards.

    Attributes:
        weight: The slopes, `[C]` or `[1]`.
    """

    def __init__(
        self,
        num_parameters: int,
        axis: int = -1,
        ceiling: float | None = None,
        init: float = 0.25,
        *,
        inplace: bool = False,
    ) -> None:
        super().__init__(num_parameters, init)
        self.axis = axis
        self.ceiling = ceiling
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """Rectify `x` of any shape in which `axis` has C elements; the output has the same shape and dtype.

        Raises:
            RuntimeError: If the axis does not hold C channels.
            IndexError: If `x` has no such axis.
        """
        return written_over(x, self._rectified) if self.inplace else self._rectified(x)

    def _rectified(self, x: Tensor) -> Tensor:
        sloped = _sloped(x, self.weight, self.axis)
        return sloped if self.ceiling is None else sloped.clamp(max=self.ceiling)

    def extra_repr(self) -> str:
        """The arguments, as `repr` shows them."""
        ceiling = "" if self.ceiling is None else f", ceiling={self.ceiling}"
        inplace = ", inplace=True" if self.inplace else ""
        return f"num_parameters={self.num_parameters}, axis={self.axis}{ceiling}{inplace}"


def written_over(x: Tensor, rectify: Callable[[Tensor], Tensor]) -> Tensor:
    """What a rectifier makes of a tensor, which then holds it too.

    A tensor that has no gradient, as the model's input, gets the values alone: it would else hold on to the slopes.
    """
    result = rectify(x.clone())  # the gradient needs what the input was
    if x.requires_grad or not result.requires_grad:
        return x.copy_(result)
    x.copy_(result.detach())
    return result


@torch.fx.wrap  # stays one node in a symbolic trace: the ranks that the code below asks for are unknown there
def _sloped(x: Tensor, weight: Tensor, axis: int) -> Tensor:
    weight = weight.to(x.dtype)  # under autocast x may be narrower than the slopes
    if torch.onnx.is_in_onnx_export() and torch.compiler.is_exporting():
        return _onnx_prelu(x, weight, axis)
    if weight.numel() == 1:
        return F.prelu(x, weight)
    if x.dim() == 1:
        return F.prelu(x.unsqueeze(0), weight).squeeze(0)
    # Views only: F.prelu keeps the strides of its input, so nothing is copied on the way there or back.
    return F.prelu(x.movedim(axis, 1), weight).movedim(1, axis)


def _onnx_prelu(x: Tensor, weight: Tensor, axis: int) -> Tensor:
    """The ONNX operator itself, which broadcasts its slopes: no transposes in the exported file."""
    trailing = x.dim() - 1 - axis % max(x.dim(), 1)
    slope = weight.reshape(1 if x.dim() else ()) if weight.numel() == 1 else weight.reshape(-1, *[1] * trailing)
    result: Tensor = torch.onnx.ops.symbolic("PRelu", (x, slope), dtype=x.dtype, shape=x.shape)
    return result

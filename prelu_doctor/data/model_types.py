"""The tensor types a model and its loss want."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32)


def model_float_type(model: nn.Module | None) -> torch.dtype:
    """The type of the model's first floating parameter or buffer; float32 where it has none."""
    tensors = [] if model is None else [*model.parameters(), *model.buffers()]
    return next((tensor.dtype for tensor in tensors if tensor.dtype in _FLOATS), torch.float32)


def as_input(tensor: Tensor, float_type: torch.dtype) -> Tensor:
    """A floating tensor in this type, any other as it is."""
    return tensor.to(float_type) if tensor.is_floating_point() else tensor


def as_target(tensor: Tensor, float_type: torch.dtype) -> Tensor:
    """A floating target in this type, integer labels as int64."""
    return tensor.long() if tensor.dtype in _INTEGERS else as_input(tensor, float_type)

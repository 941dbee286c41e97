"""The tensor types a model and its loss want."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32)


def model_float_type(model: nn.Module | None) -> torch.dtype:
    """The type of the model's first floating parameter or buffer; float32 where it has none."""
    tensors = [] if model is None else [*model.parameters(), *model.buffers()]
    return next((tensor.dtype for tensor in tensors if tensor.dtype in _FLOATS), torch.float32)


def for_model(batch: Batch, float_type: torch.dtype) -> Batch:
    """The batch with floating tensors of this type and integer labels as int64; other tensors as they are."""
    return Batch(
        args=tuple(_input(tensor, float_type) for tensor in batch.args),
        kwargs={name: _input(tensor, float_type) for name, tensor in batch.kwargs.items()},
        target=None if batch.target is None else _target(batch.target, float_type),
    )


def _input(tensor: Tensor, float_type: torch.dtype) -> Tensor:
    return tensor.to(float_type) if tensor.is_floating_point() else tensor


def _target(tensor: Tensor, float_type: torch.dtype) -> Tensor:
    return tensor.long() if tensor.dtype in _INTEGERS else _input(tensor, float_type)

"""Which of a module's tensors hold values that are not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def non_finite_names(module: nn.Module) -> list[str]:
    """Names of parameters, then buffers, that hold a NaN or an infinity; each tensor once.

    A mask of -inf that a module keeps as a buffer is named too: it is for the reader to judge.

    Args:
        module: Not changed.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, tensor in tensors if not _finite(tensor)]


def _finite(tensor: Tensor) -> bool:
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # The one-byte floats know no isfinite of their own.
    values = tensor.detach().float() if tensor.element_size() == 1 else tensor.detach()
    return bool(torch.isfinite(values).all())

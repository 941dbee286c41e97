"""Which of a module's tensors hold values that are not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_PIECE = 2**18  # values


def non_finite_names(module: nn.Module) -> list[str]:
    """Names of parameters, then buffers, that hold a NaN or an infinity; each tensor once.

    A buffer of zeros and infinities of one sign is an attention mask, which is meant so: it is not named.

    Args:
        module: Not changed.
    """
    parameters = [name for name, tensor in module.named_parameters() if not _finite(tensor)]
    buffers = [name for name, tensor in module.named_buffers() if not (_finite(tensor) or _is_mask(tensor))]
    return parameters + buffers


def _is_mask(buffer: Tensor) -> bool:
    if buffer.is_complex() or buffer.element_size() == 1:
        return False
    infinite = buffer[buffer.isinf()]
    return bool((buffer.isinf() | (buffer == 0)).all() and (infinite == infinite[:1]).all())


def _finite(tensor: Tensor) -> bool:
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # Piece by piece: the comparison makes tensors of the same size.
    return all(_finite_piece(piece) for piece in tensor.detach().flatten().split(_PIECE)) if tensor.numel() else True


def _finite_piece(values: Tensor) -> bool:
    # The one-byte floats know no isfinite of their own.
    return bool(torch.isfinite(values.float() if values.element_size() == 1 else values).all())

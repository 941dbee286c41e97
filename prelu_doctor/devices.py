"""Where a model runs."""

from __future__ import annotations

import torch
from torch import nn

from prelu_doctor.errors import UsageError


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer lives; the CPU for a model that has neither."""
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def chosen_device(name: str) -> torch.device:
    """The device that `--device` names; `auto` is a GPU where there is one.

    Raises:
        UsageError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device {name!r} cannot be used here", "auto, cpu, or a device that torch sees") from error
    return device

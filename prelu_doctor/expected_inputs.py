"""What a model takes, where its file tells: a torch.export program, an ONNX model."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ExpectedInput:
    """One tensor that the model takes.

    Attributes:
        name: Of the argument.
        shape: All its axes, the batch included; None where any size goes.
        dtype: Its data type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class ExpectedInputs:
    """Everything that the model takes.

    Attributes:
        inputs: In the order of the forward's arguments.
    """

    inputs: tuple[ExpectedInput, ...]

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the model takes: axis 0 of its first input; None where any size goes."""
        shape = self.inputs[0].shape if self.inputs else ()
        return shape[0] if shape else None

    @property
    def batched(self) -> bool:
        """False where axis 0 cannot be the batch of all inputs: one has no axes, or they differ in its size."""
        sizes = {each.shape[0] for each in self.inputs if each.shape}
        return all(each.shape for each in self.inputs) and len(sizes - {None}) <= 1

"""What a model takes, where its file tells: a torch.export program, an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence
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

    def misfit(self, shapes: Sequence[tuple[int, ...]]) -> tuple[str, str, str] | None:
        """What is wrong with inputs of these shapes, what was expected and what to do; None where they fit.

        Args:
            shapes: Of each input, the batch included.
        """
        found = "inputs of shape " + ", ".join(map(_told, shapes))
        expected = ", ".join(f"{one.name}: {_told(one.shape)}" for one in self.inputs)
        fixed = self.fixed_batch
        if len(shapes) != len(self.inputs) or not all(map(_fits, shapes, self.inputs)):
            samples = " ".join(f"--input-shape {_sizes(one.shape[1:])}" for one in self.inputs)
            return found, f"{expected}, as the file says", f"--data with samples of these shapes, or {samples}"
        if fixed is not None and any(shape[0] != fixed for shape in shapes):
            return found, f"batches of {fixed}: the file was made for that size alone", f"--batch-size {fixed}"
        return None


def _fits(shape: tuple[int, ...], wanted: ExpectedInput) -> bool:
    """Whether all axes but that of the samples are as wanted."""
    pairs = zip(shape[1:], wanted.shape[1:], strict=False)
    return len(shape) == len(wanted.shape) and all(size in (None, length) for length, size in pairs)


def _told(shape: Sequence[int | None]) -> str:
    return "x".join("any" if size is None else str(size) for size in shape)


def _sizes(shape: Sequence[int | None]) -> str:
    return ",".join("N" if size is None else str(size) for size in shape)

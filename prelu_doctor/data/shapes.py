"""Shapes of batches: checked, and told."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped


def check_lengths(batch: Batch, name: str) -> None:
    """Check that all tensors have the same number of samples along axis 0, and that there are some.

    Args:
        batch: At least one input.
        name: Of what it came from, for messages.

    Raises:
        DataError: Where one of this does not hold.
    """
    tensors = named_tensors(batch)
    scalars = [key for key, tensor in tensors.items() if tensor.ndim == 0]
    if scalars:
        raise DataError(f"{name}: '{escaped(scalars[0])}' is a single number", "samples along axis 0")
    lengths = {key: tensor.shape[0] for key, tensor in tensors.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{escaped(key)}: {length}" for key, length in lengths.items())
        raise DataError(f"{name}: different numbers of samples ({told})", "the same number along axis 0 of each")
    if not batch.size:
        raise DataError(f"{name}: no samples", "at least one sample along axis 0")
    empty = [key for key, tensor in tensors.items() if not tensor.numel()]
    if empty:
        raise DataError(f"{name}: '{escaped(empty[0])}' has shape {tuple(tensors[empty[0]].shape)}", "no empty axis")


def check_shapes(batch: Batch, input_shapes: Sequence[tuple[int, ...]], name: str) -> None:
    """Check the inputs against the shapes that the user gave; none given: nothing to check.

    Raises:
        DataError: Where they differ.
    """
    found = [tuple(tensor.shape[1:]) for tensor in (*batch.args, *batch.kwargs.values())]
    if input_shapes and found != [tuple(shape) for shape in input_shapes]:
        raise DataError(
            f"{name}: samples of shape {', '.join(map(shape_text, found))}",
            f"--input-shape {', '.join(map(shape_text, input_shapes))}",
            "leave --input-shape out: the data tells it",
        )


def described_inputs(batch: Batch, total: int) -> str:
    """As "x: 1437 x 1x8x8", or "x: 100 of 1437 x 1x8x8" where only the first samples are used."""
    count = f"{total}" if batch.size == total else f"{batch.size} of {total}"
    inputs = {key: tensor for key, tensor in named_tensors(batch).items() if tensor is not batch.target}
    return ", ".join(f"{escaped(key)}: {count}{_times(tensor)}" for key, tensor in inputs.items())


def named_tensors(batch: Batch) -> dict[str, Tensor]:
    """Inputs and labels by name; the first positional input is `x`, the next `x2`."""
    args = {f"x{k}" if k > 1 else "x": tensor for k, tensor in enumerate(batch.args, start=1)}
    return {**args, **batch.kwargs, **({} if batch.target is None else {"y": batch.target})}


def shape_text(shape: Sequence[int]) -> str:
    """As "3x224x224"; "scalar" for no axes."""
    return "x".join(map(str, shape)) or "scalar"


def _times(tensor: Tensor) -> str:
    return f" x {shape_text(tensor.shape[1:])}" if tensor.ndim > 1 else ""

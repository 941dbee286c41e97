"""Shapes of batches: checked, and told."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped
from prelu_doctor.leaves import LeafPath, leaves_of

_WHOLE_CALL = "where a tensor holds something else, yield a whole call: prelu_doctor.Call(...)"


def check_lengths(batch: Batch, name: str) -> None:
    """Check that all tensors have the same number of samples along axis 0, and that there are some.

    Args:
        batch: At least one input; of a whole call, nothing is asked.
        name: Of what it came from, for messages.

    Raises:
        DataError: Where one of this does not hold.
    """
    if batch.whole:
        return
    tensors = named_tensors(batch)
    scalars = [key for key, tensor in tensors.items() if tensor.ndim == 0]
    if scalars:
        raise DataError(f"{name}: '{escaped(scalars[0])}' is a single number", "samples along axis 0", _WHOLE_CALL)
    lengths = {key: tensor.shape[0] for key, tensor in tensors.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{escaped(key)}: {length}" for key, length in lengths.items())
        raise DataError(
            f"{name}: different numbers of samples ({told})", "the same number along axis 0 of each", _WHOLE_CALL
        )
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
    if batch.whole:
        return
    found = [tuple(tensor.shape[1:]) for tensor in batch.tensors()]
    if input_shapes and found != [tuple(shape) for shape in input_shapes]:
        raise DataError(
            f"{name}: samples of shape {', '.join(map(shape_text, found))}",
            f"--input-shape {', '.join(map(shape_text, input_shapes))}",
            "leave --input-shape out: the data tells it",
        )


def described_inputs(batch: Batch, total: int) -> str:
    """As "x: 1437 x 1x8x8", or "x: 100 of 1437 x 1x8x8" where only the first samples are used."""
    count = f"{total}" if batch.size == total else f"{batch.size} of {total}"
    return ", ".join(f"{escaped(key)}: {count}{_times(tensor)}" for key, tensor in named_inputs(batch).items())


def named_inputs(batch: Batch) -> dict[str, Tensor]:
    """Inputs by name: the first positional one is `x`, the next `x2`; the parts of a tuple are `x.0`, `x.1`."""
    args = {f"x{k}" if k > 1 else "x": value for k, value in enumerate(batch.args, start=1)}
    return {_dotted(path): leaf for path, leaf in leaves_of({**args, **batch.kwargs}) if isinstance(leaf, Tensor)}


def named_tensors(batch: Batch) -> dict[str, Tensor]:
    """Inputs and labels by name; the labels are `y`."""
    return {**named_inputs(batch), **({} if batch.target is None else {"y": batch.target})}


def shape_text(shape: Sequence[int]) -> str:
    """As "3x224x224"; "scalar" for no axes."""
    return "x".join(map(str, shape)) or "scalar"


def open_shape_text(shape: Sequence[int | None]) -> str:
    """As "3x?x?", where the sizes of two axes are open."""
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def type_name(dtype: torch.dtype) -> str:
    """As "float32"."""
    return str(dtype).removeprefix("torch.")


def _dotted(path: LeafPath) -> str:
    return ".".join(map(str, path))


def _times(tensor: Tensor) -> str:
    return f" x {shape_text(tensor.shape[1:])}" if tensor.ndim > 1 else ""

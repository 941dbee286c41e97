"""The data set in a file of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from prelu_doctor.data.array_roles import scanned_and_held_out
from prelu_doctor.data.arrays import read_arrays
from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.data.forward_signature import signature_of
from prelu_doctor.data.model_types import for_model, model_float_type
from prelu_doctor.data.shapes import check_shapes, described_inputs
from prelu_doctor.escaping import escaped


def array_dataset(
    path: Path,
    *,
    model: nn.Module | None,
    input_shapes: Sequence[tuple[int, ...]],
    batch_size: int,
    max_samples: int | None,
    seed: int,
) -> Dataset:
    """The batches of a file of arrays, in the file's order.

    Args:
        path: The file.
        model: Tells the type of floating inputs and the names of the arguments.
        input_shapes: That the samples must have; none: anything.
        batch_size: Samples in a batch; the last one may have fewer.
        max_samples: The first so many of the scanned part.
        seed: Passed on.

    Raises:
        DataError: Where the file cannot be read or its arrays do not fit.
    """
    name = escaped(path.name)
    scanned, held_out = scanned_and_held_out(read_arrays(path), signature_of(model), name)
    check_shapes(scanned, input_shapes, name)
    part = scanned.take(slice(max_samples))
    float_type = model_float_type(model)
    return Dataset(
        source=str(path),
        contents=described_inputs(part, scanned.size),
        synthetic=False,
        seed=seed,
        scanned=_batches_of(part, batch_size, float_type),
        held_out=None if held_out is None else _batches_of(held_out, batch_size, float_type),
    )


def _batches_of(whole: Batch, batch_size: int, float_type: torch.dtype) -> Callable[[], Iterator[Batch]]:
    starts = range(0, whole.size, batch_size)
    # Cast a batch at a time: the whole in the model's type would be a second copy of the data.
    return lambda: (for_model(whole.take(slice(start, start + batch_size)), float_type) for start in starts)

"""Seeded Gaussian noise in the place of data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.data.input_shape import guessed_input_shape
from prelu_doctor.data.model_types import model_float_type
from prelu_doctor.data.shapes import shape_text
from prelu_doctor.errors import DataError


def synthetic_dataset(
    model: nn.Module | None,
    input_shapes: Sequence[tuple[int, ...]],
    *,
    batch_size: int,
    samples: int,
    seed: int,
) -> Dataset:
    """Standard normal inputs of the given shapes, or of the shape that the model's first layer tells.

    Args:
        model: Tells the type, and the shape where none is given.
        input_shapes: Of one sample of each input, given to the forward by position.
        batch_size: Samples in a batch.
        samples: Samples in a pass.
        seed: Of the noise.

    Raises:
        DataError: Where no shape is given and none can be told.
    """
    origin = ""
    if not input_shapes:
        if model is None:
            raise DataError(
                "no data, and no model that tells its input", "samples or a shape", "--data or --input-shape"
            )
        shape, origin = guessed_input_shape(model, seed=seed)
        input_shapes = [shape]
    shapes = [tuple(shape) for shape in input_shapes]
    float_type = model_float_type(model)

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        for start in range(0, samples, batch_size):
            size = min(batch_size, samples - start)
            # Drawn in float32 and cast, so that models of all types see the same noise.
            yield Batch(args=tuple(torch.randn(size, *s, generator=generator).to(float_type) for s in shapes))

    told = ", ".join(shape_text(shape) for shape in shapes)
    contents = f"{samples} x {told}{origin}"
    return Dataset("synthetic Gaussian", synthetic=True, seed=seed, scanned=batches, contents=contents)

"""Seeded Gaussian noise in the place of data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from prelu_doctor.data import asking
from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.data.calls import whole_call
from prelu_doctor.data.input_shape import guessed_input_shape
from prelu_doctor.data.intake import Intake
from prelu_doctor.data.shapes import shape_text
from prelu_doctor.errors import DataError
from prelu_doctor.expected_inputs import ExpectedInputs

NAME = "synthetic Gaussian"


def synthetic_dataset(
    intake: Intake, input_shapes: Sequence[tuple[int, ...]], *, batch_size: int, samples: int, seed: int
) -> Dataset:
    """Standard normal inputs of the given shapes, or as the file tells them, or as the first layer does.

    Args:
        intake: What the model takes.
        input_shapes: Of one sample of each input, given to the forward by position.
        batch_size: Samples in a batch.
        samples: Samples in a pass.
        seed: Of the noise.

    Raises:
        DataError: Where no shape is given and none can be told, or the model takes what noise cannot stand for.
    """
    if intake.expected is not None and intake.expected.inputs:
        _check_noise_will_do(intake.expected, input_shapes)
        if not intake.expected.batched:
            return _noisy_calls(intake, intake.expected, samples=samples, seed=seed)
    shapes, origin = _shapes(intake, input_shapes, seed)

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        for start in range(0, samples, batch_size):
            size = min(batch_size, samples - start)
            # Drawn in float32 and cast, so that models of all types see the same noise.
            noise = Batch(args=tuple(torch.randn(size, *shape, generator=generator) for shape in shapes))
            yield intake.fitted(noise, NAME)

    told = ", ".join(shape_text(shape) for shape in shapes)
    return Dataset(NAME, synthetic=True, seed=seed, scanned=batches, contents=f"{samples} x {told}{origin}")


def _check_noise_will_do(expected: ExpectedInputs, input_shapes: Sequence[tuple[int, ...]]) -> None:
    number = next((each for each in expected.inputs if not each.dtype.is_floating_point), None)
    if number is not None:
        raise asking.for_numbers(number, expected)
    open_sizes = [size for each in expected.inputs for size in (each.shape[1:] if expected.batched else each.shape)]
    if None in open_sizes and not input_shapes:
        raise asking.for_open_sizes(expected)


def _shapes(intake: Intake, input_shapes: Sequence[tuple[int, ...]], seed: int) -> tuple[list[tuple[int, ...]], str]:
    """The shapes of one sample of each input, and where they come from."""
    if input_shapes:
        return [tuple(shape) for shape in input_shapes], ""
    if intake.told_shapes:
        return intake.told_shapes, ", told by the model's file"
    if intake.model is None:
        raise DataError("no data, and no model that tells its input", "samples or a shape", "--data or --input-shape")
    shape, origin = guessed_input_shape(intake, seed=seed)
    return [shape], origin


def _noisy_calls(intake: Intake, expected: ExpectedInputs, *, samples: int, seed: int) -> Dataset:
    """Whole calls of the file's own shapes, for inputs that do not all have the batch on axis 0."""
    shapes = [tuple(size or 0 for size in each.shape) for each in expected.inputs]

    def calls() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        done = 0
        while done < samples:
            noise = tuple(torch.randn(*shape, generator=generator) for shape in shapes)
            call = intake.fitted(whole_call(noise, {}, None, NAME), NAME)
            yield call
            done += call.size

    told = ", ".join(shape_text(shape) for shape in shapes)
    contents = f"calls of {told}, told by the model's file"
    return Dataset(NAME, synthetic=True, seed=seed, scanned=calls, contents=contents)

"""The data spec, opened: a file of arrays, a folder of images, the user's own code, or Gaussian noise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from prelu_doctor.data.array_files import array_dataset
from prelu_doctor.data.batches import Dataset
from prelu_doctor.data.fixed_batches import in_the_only_size
from prelu_doctor.data.image_folder import image_dataset
from prelu_doctor.data.intake import intake_of
from prelu_doctor.data.synthetic import synthetic_dataset
from prelu_doctor.data.user_batches import user_dataset
from prelu_doctor.errors import UsageError
from prelu_doctor.expected_inputs import ExpectedInputs

Shapes = Sequence[tuple[int, ...]]


def open_dataset(
    spec: str | None,
    *,
    model: nn.Module | None,
    expected: ExpectedInputs | None = None,
    input_shapes: Shapes = (),
    batch_size: int = 64,
    max_samples: int | None = None,
    seed: int = 0,
    default_samples: int = 512,
) -> Dataset:
    """The batches that a data spec stands for; every pass over them is the same.

    Floating inputs and targets are cast to the model's floating type (NumPy's default is float64, which few models
    take); integer targets become int64, as the losses want them; integer inputs are left as they are, and are not
    scaled. `max_samples` keeps the first samples of the scanned part and leaves the held-out part whole.

    Args:
        spec: A file (`.safetensors`, `.npz`, `.npy`, `.pt`: told by content), a folder of images, `module:callable`
            or `file.py:callable` (which returns an iterable of batches, a Dataset or a DataLoader), or None for
            seeded Gaussian noise.
        model: Tells the type of the inputs, their names and, without data, their shape. None: float32, one input.
        expected: What the model's file tells of its inputs; it goes before what the model tells. Batches then hold
            the inputs by position, in the file's order and types; where the file takes batches of one size alone,
            they have that size, the last one filled up with samples that are not counted.
        input_shapes: Of one sample of each input, without the batch axis. Images are resized to the first; other data
            must have them.
        batch_size: Samples in a batch; batches of the user's own keep their size.
        max_samples: Most samples to scan; None for all.
        seed: Of the noise, and of whatever the user's own code draws.
        default_samples: Samples of noise, where `max_samples` does not say less.

    Raises:
        DataError: Where the data is not there, cannot be read, is empty, or does not fit the model.
        UsageError: Where a number is not positive.
    """
    _check_positive(batch_size, max_samples, default_samples)
    intake = intake_of(model, expected)
    intake.check_given(input_shapes)
    batch_size = intake.only_size or batch_size
    if spec is None:
        samples = min(default_samples, max_samples or default_samples)
        noise = synthetic_dataset(intake, input_shapes, batch_size=batch_size, samples=samples, seed=seed)
        return in_the_only_size(noise, intake)
    dataset = _opener(spec)(
        intake=intake, input_shapes=input_shapes, batch_size=batch_size, max_samples=max_samples, seed=seed
    )
    return in_the_only_size(dataset, intake)


def _opener(spec: str) -> Callable[..., Dataset]:
    path = Path(spec)
    if path.is_dir():
        return functools.partial(image_dataset, path)
    if path.exists() or ":" not in spec:
        return functools.partial(array_dataset, path)
    return functools.partial(user_dataset, spec)


def _check_positive(batch_size: int, max_samples: int | None, default_samples: int) -> None:
    numbers = {"--batch-size": batch_size, "--max-samples": max_samples, "default_samples": default_samples}
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{name} {number}", "a number of 1 or more")

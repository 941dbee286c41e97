"""The data set in a file of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prelu_doctor.data.array_roles import scanned_and_held_out
from prelu_doctor.data.arrays import read_arrays
from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.data.intake import Intake
from prelu_doctor.data.shapes import check_shapes, described_inputs
from prelu_doctor.escaping import escaped


def array_dataset(
    path: Path,
    *,
    intake: Intake,
    input_shapes: Sequence[tuple[int, ...]],
    batch_size: int,
    max_samples: int | None,
    seed: int,
) -> Dataset:
    """The batches of a file of arrays, in the file's order.

    Args:
        path: The file.
        intake: What the model takes: types, and the names of the arguments.
        input_shapes: That the samples must have; none: anything.
        batch_size: Samples in a batch; the last one may have fewer.
        max_samples: The first so many of the scanned part.
        seed: Passed on.

    Raises:
        DataError: Where the file cannot be read or its arrays do not fit.
    """
    name = escaped(path.name)
    scanned, held_out = scanned_and_held_out(read_arrays(path), intake.signature, name)
    check_shapes(scanned, input_shapes, name)
    part = scanned.take(slice(max_samples))
    for each in (part, *([] if held_out is None else [held_out])):
        intake.fitted(each.take(slice(1)), name)  # what does not fit the model's file is told before anything runs
    return Dataset(
        source=str(path),
        contents=described_inputs(part, scanned.size),
        synthetic=False,
        seed=seed,
        scanned=_batches_of(part, batch_size, intake, name),
        held_out=None if held_out is None else _batches_of(held_out, batch_size, intake, name),
    )


def _batches_of(whole: Batch, batch_size: int, intake: Intake, name: str) -> Callable[[], Iterator[Batch]]:
    starts = range(0, whole.size, batch_size)
    # Cast a batch at a time: the whole in the model's type would be a second copy of the data.
    return lambda: (intake.fitted(whole.take(slice(start, start + batch_size)), name) for start in starts)

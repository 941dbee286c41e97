"""A whole call of a model's forward, as data that is run exactly as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import DataError


class Call:
    """The arguments of one call: `Call(frame, state, sr=16000)` runs `model(frame, state, sr=16000)`.

    For inputs that cannot be cut along axis 0: a recurrent state `[2, N, H]`, time before the batch, one number.
    Tensors are cast to the model's floating type and copied before each run; nothing is sliced, joined or repeated.

    Args:
        args: Positional arguments: tensors, NumPy arrays, plain values, and tuples, lists and dictionaries of these.
        kwargs: Keyword arguments likewise.

    Attributes:
        args: As given.
        kwargs: As given.
        samples: How many samples N the call counts as; None for axis 0 of its first tensor (1 where that has no axes).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs: Mapping[str, Any] = kwargs
        self.samples: int | None = None

    def with_samples(self, number: int) -> Call:
        """The same call, counted as so many samples.

        Raises:
            DataError: That is no number of 1 or more.
        """
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise DataError(f"Call(...).with_samples({number!r})", "a number of samples, 1 or more")
        told = Call(*self.args, **self.kwargs)
        told.samples = number
        return told


def whole_call(args: tuple[Any, ...], kwargs: Mapping[str, Any], samples: int | None, what: str) -> Batch:
    """The batch that is run as it is.

    Args:
        args: Positional arguments, their arrays as tensors.
        kwargs: Keyword arguments.
        samples: How many samples it counts as; None to take that from the first tensor.
        what: The name of the source, for messages.

    Raises:
        DataError: It holds no tensor, or no samples.
    """
    tensors = Batch(args, kwargs).tensors()
    if not tensors:
        raise DataError(f"{what}: yielded a call without a tensor", "at least one tensor among its arguments")
    if samples is None:
        samples = _length(tensors[0])
    if samples < 1:
        raise DataError(f"{what}: yielded a call whose first tensor holds no samples", "at least one")
    return Batch(args, kwargs, samples=samples)


def _length(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.dim() else 1

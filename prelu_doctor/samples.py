"""The samples that a caller of the library hands over, as a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from prelu_doctor.data.batches import Dataset
from prelu_doctor.data.calls import Call
from prelu_doctor.data.fixed_batches import in_the_only_size
from prelu_doctor.data.intake import intake_of
from prelu_doctor.data.passes import Source
from prelu_doctor.data.sources import open_dataset
from prelu_doctor.errors import DataError
from prelu_doctor.expected_inputs import ExpectedInputs

Samples = Dataset | Tensor | TorchDataset[Any] | Iterable[object] | Callable[[], Iterable[object]] | str | Path | None
"""A data spec, a tensor of inputs, batches as a DataLoader yields them (or whole calls), a function that yields them
anew for each pass, or None for seeded Gaussian noise."""

BATCH_SIZE = 64
"""Samples in a batch, where the caller hands over samples instead of batches."""


def samples_for(
    model: nn.Module | None, data: Samples, *, expected: ExpectedInputs | None = None, seed: int = 0
) -> Dataset:
    """The data set behind whatever the caller has for data.

    Args:
        model: Tells the names of the inputs, and the shape of noise.
        data: A data spec, a tensor `[N, ...]`, an iterable of batches (an iterator is read to its end), a torch
            `Dataset`, a `Dataset` of ours, a function without arguments that returns such an iterable (a generator
            function, called anew for each pass), or None. Floating tensors are cast to the model's type.
        expected: What the model's file tells of its inputs.
        seed: Of noise, and of whatever a shuffling loader draws from torch, NumPy or Python.

    Raises:
        DataError: The data cannot be used.
    """
    if isinstance(data, Dataset):
        return data
    if data is None or isinstance(data, str | Path):
        spec = None if data is None else str(data)
        return open_dataset(spec, model=model, expected=expected, seed=seed)
    name = getattr(data, "__name__", "function") if _is_function(data) else type(data).__name__
    source = Source(_opened(data, name), name, seed)
    intake = intake_of(model, expected)
    return in_the_only_size(Dataset(name, synthetic=False, seed=seed, scanned=lambda: source.batches(intake)), intake)


def _opened(data: Any, name: str) -> Callable[[], Iterable[object]]:
    """What opens a pass over the batches."""
    if _is_function(data):
        return data  # type: ignore[no-any-return]
    items = _batch_items(data, name)
    return lambda: items


def _is_function(data: object) -> bool:
    return callable(data) and not isinstance(data, Iterable | Tensor | TorchDataset | nn.Module | type)


def _batch_items(data: object, name: str) -> Iterable[object]:
    """What yields batches, pass after pass."""
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if isinstance(data, Tensor):
        return data.split(BATCH_SIZE) if data.ndim else [data]
    if isinstance(data, TorchDataset):
        return DataLoader(data, batch_size=BATCH_SIZE)
    pair = isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data)
    lone = pair or isinstance(data, Mapping | Call)
    if lone or not isinstance(data, Iterable):
        raise DataError(
            f"a {name} as data",
            "a data spec, a tensor of inputs, or an iterable of batches as a DataLoader is one",
            "pass a list of batches, or torch's TensorDataset(x, y)",
        )
    return list(data) if isinstance(data, Iterator) else data

"""The samples that a caller of the library hands over, as a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from prelu_doctor.data.batch_forms import batch_from
from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.data.forward_signature import signature_of
from prelu_doctor.data.model_types import for_model, model_float_type
from prelu_doctor.data.randomness import OwnRandomness
from prelu_doctor.data.shapes import check_lengths
from prelu_doctor.data.sources import open_dataset
from prelu_doctor.errors import DataError

Samples = Dataset | Tensor | TorchDataset[Any] | Iterable[object] | str | Path | None
"""A data spec, a tensor of inputs, batches as a DataLoader yields them, or None for seeded Gaussian noise."""

BATCH_SIZE = 64
"""Samples in a batch, where the caller hands over samples instead of batches."""

_END = object()


def samples_for(model: nn.Module, data: Samples, *, seed: int = 0) -> Dataset:
    """The data set behind whatever the caller has for data.

    Args:
        model: Tells the names of the inputs, and the shape of noise.
        data: A data spec, a tensor `[N, ...]`, an iterable of batches (an iterator is read to its end), a torch
            `Dataset`, a `Dataset` of ours, or None. Floating tensors are cast to the model's type.
        seed: Of noise, and of whatever a shuffling loader draws from torch, NumPy or Python.

    Raises:
        DataError: The data cannot be used.
    """
    if isinstance(data, Dataset):
        return data
    if data is None or isinstance(data, str | Path):
        return open_dataset(None if data is None else str(data), model=model, seed=seed)
    name = type(data).__name__
    items = _batch_items(data, name)
    signature, float_type = signature_of(model), model_float_type(model)

    def batches() -> Iterator[Batch]:
        for item in _one_pass(items, seed):
            batch = batch_from(item, signature, name)
            check_lengths(batch, name)
            yield for_model(batch, float_type)

    return Dataset(source=name, synthetic=False, seed=seed, scanned=batches)


def _batch_items(data: object, name: str) -> Iterable[object]:
    """What yields batches, pass after pass."""
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if isinstance(data, Tensor):
        return data.split(BATCH_SIZE) if data.ndim else [data]
    if isinstance(data, TorchDataset):
        return DataLoader(data, batch_size=BATCH_SIZE)
    lone = isinstance(data, Mapping) or (isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data))
    if lone or not isinstance(data, Iterable):
        raise DataError(
            f"a {name} as data",
            "a data spec, a tensor of inputs, or an iterable of batches as a DataLoader is one",
            "pass a list of batches, or torch's TensorDataset(x, y)",
        )
    return list(data) if isinstance(data, Iterator) else data


def _one_pass(items: Iterable[object], seed: int) -> Iterator[object]:
    """One pass, the same every time; between two steps the random state is the caller's."""
    randomness = OwnRandomness(seed)
    with randomness.active():
        iterator = iter(items)
    while True:
        with randomness.active():
            item = next(iterator, _END)
        if item is _END:
            return
        yield item

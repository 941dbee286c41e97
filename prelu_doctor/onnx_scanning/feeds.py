"""A batch of samples as the inputs of an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prelu_doctor.checkpoints.onnx_files import Array
from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped, listed
from prelu_doctor.expected_inputs import ExpectedInputs


@dataclass(frozen=True)
class Feeds:
    """Gives a file's inputs what a batch holds.

    Attributes:
        expected: What the file takes.
        name: Of the file, for messages.
    """

    expected: ExpectedInputs
    name: str

    @property
    def fixed_batch(self) -> int | None:
        """The only number of samples that the file takes."""
        return self.expected.fixed_batch

    def padded(self, batch: Batch) -> Batch:
        """The batch, its samples repeated up to the number that the file takes.

        Raises:
            DataError: It has more samples than the file takes.
        """
        fixed = self.fixed_batch
        if fixed is None or batch.size == fixed:
            return batch
        return batch.take(torch.arange(fixed) % batch.size)

    def pieces(self, batch: Batch) -> list[Batch]:
        """The batch in parts that the file takes at once; the last one may have fewer samples."""
        size = self.fixed_batch or batch.size
        return [batch.take(slice(start, start + size)) for start in range(0, batch.size, size)]

    def arrays(self, batch: Batch) -> dict[str, Array]:
        """The arrays by name of the file's inputs, in the number types that it takes.

        Raises:
            DataError: They are not the file's inputs.
        """
        inputs = self.expected.inputs
        named = self._named(batch)
        for want in inputs:
            got = named[want.name]
            sizes = zip(want.shape, got.shape, strict=False)
            fits = len(want.shape) == got.dim() and all(size in (None, length) for size, length in sizes)
            if not fits:
                raise DataError(
                    f"{self.name}: its input '{escaped(want.name)}' would get the shape {list(got.shape)}",
                    f"{_shape_text(want.shape)}",
                    "samples of that shape with --data, or --input-shape with the shape of one sample",
                )
        return {want.name: _as_type(named[want.name], want.dtype) for want in inputs}

    def _named(self, batch: Batch) -> Mapping[str, Tensor]:
        """By position, or by name; a lone array goes to a lone input, whatever they are called."""
        wanted = [one.name for one in self.expected.inputs]
        given = {**dict(zip(wanted, batch.args, strict=False)), **batch.kwargs}
        if len(batch.args) + len(batch.kwargs) == 1 == len(wanted):
            return {wanted[0]: next(iter((*batch.args, *batch.kwargs.values())))}
        if len(batch.args) > len(wanted) or set(given) != set(wanted):
            found = [f"input {place}" for place in range(1, len(batch.args) + 1)] + list(batch.kwargs)
            raise DataError(
                f"{self.name} takes the inputs {listed(wanted)}; the data has {listed(found)}",
                "an array for each input, named like it",
                "name the arrays of the data file like the file's inputs",
            )
        return given


def _as_type(tensor: Tensor, dtype: torch.dtype) -> Array:
    array: Array = tensor.detach().cpu().to(dtype).contiguous().numpy()
    return array


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return f"the shape [{', '.join('any' if size is None else str(size) for size in shape)}]"

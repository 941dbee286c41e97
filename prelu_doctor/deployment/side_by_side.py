"""The eager model and the ONNX file on one batch, output by output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.deployment.comparison import compare, failed
from prelu_doctor.deployment.eager import eager_outputs, named_inputs
from prelu_doctor.deployment.onnx_session import OnnxSession
from prelu_doctor.errors import BrokenPromiseError, DataError, ForwardError
from prelu_doctor.escaping import escaped, listed
from prelu_doctor.records import ParityCheck

Source = Literal["data", "synthetic"]


@dataclass(frozen=True)
class SideBySide:
    """Two programs that should be one function.

    Attributes:
        model: The eager one; run this inside `undisturbed(model)`.
        onnx_file: The other.
        source: Where the batches come from.
        tolerance: Largest scaled error that passes.
    """

    model: nn.Module
    onnx_file: OnnxSession
    source: Source
    tolerance: float

    def compare(self, batch: Batch) -> list[ParityCheck] | ForwardError:
        """A check for each output, or one that failed where there is nothing to compare.

        The error is returned where the eager model does not run on this batch: what that means depends on how it
        fares on others.

        Raises:
            DataError: If the file wants other inputs than the batch has.
            BrokenPromiseError: If the model gives something that is not a tensor.
        """
        feeds = self._feeds(batch)
        try:
            expected = eager_outputs(self.model, batch)
        except ForwardError as error:
            return error
        except TypeError as error:
            found = f"the model's output cannot be compared: {error}"
            raise BrokenPromiseError(found, "tensors, in tuples, lists and dicts", "return tensors") from error
        try:
            actual = self.onnx_file.run({name: tensor.cpu().numpy() for name, tensor in feeds.items()})
        except Exception as error:  # whatever the file makes the runtime do is a finding about the file
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            return [self.failure(f"the file does not run: {reason}", batch)]
        return self._checks(expected, actual, batch)

    def failure(self, detail: str, batch: Batch) -> ParityCheck:
        """A failed check that concerns all outputs on this batch."""
        return failed("all outputs", detail, batch_size=batch.size, source=self.source)

    def _feeds(self, batch: Batch) -> dict[str, Tensor]:
        """The file's inputs: under the same name as the model's, or by position where no name is shared."""
        inputs, wanted = named_inputs(self.model, batch), self.onnx_file.inputs
        if set(inputs) == set(wanted):
            return inputs
        if len(inputs) == len(wanted) and not set(inputs) & set(wanted):
            return dict(zip(wanted, inputs.values(), strict=True))
        raise DataError(
            f"{escaped(self.onnx_file.stored.path)} wants the inputs {listed(wanted)}; the data has {listed(inputs)}",
            "the same inputs on both sides",
            "name the arrays of the data file like the file's inputs, or export the model again",
        )

    def _checks(
        self, expected: dict[str, Tensor], actual: list[np.ndarray[Any, Any]], batch: Batch
    ) -> list[ParityCheck]:
        if len(actual) != len(expected):
            return [self.failure(f"the file gives {len(actual)} outputs, the model {len(expected)}", batch)]
        by_name = dict(zip(self.onnx_file.outputs, actual, strict=True))
        ordered = list(expected) if set(expected) == set(by_name) else self.onnx_file.outputs
        return [
            compare(name, tensor, by_name[name], batch_size=batch.size, source=self.source, tolerance=self.tolerance)
            for name, tensor in zip(ordered, expected.values(), strict=True)
        ]

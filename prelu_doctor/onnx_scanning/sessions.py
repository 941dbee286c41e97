"""Running a model with additions."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from onnx import ModelProto

from prelu_doctor.checkpoints.onnx_files import Array
from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import DataError, ForwardError
from prelu_doctor.escaping import escaped, listed, reason_of
from prelu_doctor.onnx_scanning.model import OnnxModel


class Grown(Protocol):
    """A model with additions.

    Attributes:
        model: The model.
        outputs: Names of the outputs that were added.
        samples: Name of the added input, the number of samples.
    """

    model: ModelProto
    outputs: list[str]
    samples: str


class Session:
    """A model with additions, ready to run.

    Args:
        model: The model as it is.
        grown: With its additions.

    Raises:
        CheckpointError: onnxruntime does not take it.
    """

    def __init__(self, model: OnnxModel, grown: Grown) -> None:
        self._session = model.stored.session(grown.model)
        self._inputs = model.expected.inputs
        self._taken = {one.name for one in self._session.get_inputs()}
        self._added = list(grown.outputs)
        self._own = [value.name for value in model.stored.model.graph.output]
        self._samples = grown.samples

    def run(self, batch: Batch) -> list[Array]:
        """What the added outputs give on a batch; whoever waits for the model's own output is told it.

        Raises:
            DataError: The batch has other inputs than the file.
            ForwardError: onnxruntime stopped.
        """
        import onnxruntime

        feeds = self._feeds(batch)
        wanted = [*self._added, *(self._own if batch.answer is not None else [])]
        if not wanted:
            return []
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        try:
            results: list[Any] = self._session.run(wanted, feeds, options)
        except Exception as error:  # onnxruntime's exceptions share no root but this
            arrays = ((name, array) for name, array in feeds.items() if name != self._samples)
            shapes = ", ".join(f"{escaped(name)} {list(array.shape)}" for name, array in arrays)
            raise ForwardError(
                f"onnxruntime stopped while it ran the model: {reason_of(error)}",
                f"a model that runs on {shapes}",
                "check --data, --input-shape and --batch-size",
            ) from error
        own = [torch.from_numpy(array) for array in results[len(self._added) :] if isinstance(array, np.ndarray)]
        if own:
            batch.tell(own[0] if len(own) == 1 else tuple(own))
        return results[: len(self._added)]

    def _feeds(self, batch: Batch) -> dict[str, Array]:
        tensors = batch.tensors()
        if len(tensors) != len(self._inputs):
            raise DataError(
                f"the data has {len(tensors)} inputs",
                f"the inputs {listed(one.name for one in self._inputs)}",
                "name the arrays of the data file like the file's inputs",
            )
        feeds: dict[str, Array] = {self._samples: np.array([batch.size], np.int64)}
        for one, tensor in zip(self._inputs, tensors, strict=True):
            feeds[one.name] = tensor.detach().cpu().to(one.dtype).contiguous().numpy()
        return {name: array for name, array in feeds.items() if name in self._taken}

"""What the fine-tune minimises: the labels where there are any, else the distance from the original model."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import DataError

Kind = Literal["cross-entropy", "mean-squared-error", "distillation"]


class Objective:
    """A loss on a batch, and the accuracy where the labels are classes.

    Cross-entropy for integer labels on the class axis 1 of the model's first output; mean squared error for
    floating-point ones; without labels the mean squared distance of all outputs from the teacher's.

    Args:
        teacher: The original model, in eval mode.
        batch: An example, which tells the kind.

    Raises:
        DataError: The labels fit no output of the model.
    """

    def __init__(self, teacher: nn.Module, batch: Batch) -> None:
        self._teacher = teacher
        self.kind: Kind = "distillation"
        if batch.target is not None:
            with torch.no_grad():
                self.kind = _kind_for(_outputs(batch.clone().run(teacher))[0], batch.target)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        """The mean loss on a batch, and how many predictions were right (0 without class labels)."""
        outputs = _outputs(batch.clone().run(model))
        if self.kind == "distillation":
            return self._distance(outputs, batch), 0
        assert batch.target is not None
        output = outputs[0]
        if self.kind == "cross-entropy":
            right = int((output.detach().argmax(1) == batch.target).sum())
            return F.cross_entropy(output.float(), batch.target), right
        return F.mse_loss(output.float(), batch.target.float().reshape(output.shape)), 0

    def predictions(self, batch: Batch) -> int:
        """How many class predictions a batch asks for."""
        return batch.target.numel() if self.kind == "cross-entropy" and batch.target is not None else 0

    def _distance(self, outputs: list[Tensor], batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = _outputs(batch.clone().run(self._teacher))
        losses = [F.mse_loss(output.float(), goal.float()) for output, goal in zip(outputs, wanted, strict=True)]
        return torch.stack(losses).mean()


def _outputs(output: Any) -> list[Tensor]:
    """The floating-point tensors among a model's outputs, in order."""
    found = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise DataError("the model returns no floating-point tensor", "an output to train on", "use --steps 0")
    return found


def _kind_for(output: Tensor, target: Tensor) -> Kind:
    if not target.is_floating_point():
        fits = output.dim() >= 2 and target.shape == (output.shape[0], *output.shape[2:])
        if fits and not _in_range(target, output.shape[1]):
            raise DataError(
                f"labels from {int(target.min())} to {int(target.max())} for {output.shape[1]} classes",
                f"class indices from 0 to {output.shape[1] - 1}",
                "check `y` in the data",
            )
    else:
        fits = target.numel() == output.numel()
    if not fits:
        raise DataError(
            f"labels of shape {list(target.shape)} for outputs of shape {list(output.shape)}",
            "one class index a sample, or values of the output's own shape",
            "check `y` in the data, or leave it out: the original model then is the teacher",
        )
    return "mean-squared-error" if target.is_floating_point() else "cross-entropy"


def _in_range(target: Tensor, classes: int) -> bool:
    return target.numel() == 0 or bool(((target >= 0) & (target < classes) | (target == -100)).all())

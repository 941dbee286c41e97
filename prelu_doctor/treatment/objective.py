"""What the fine-tune minimises: the labels where there are any, else the distance from the original model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prelu_doctor.data.batches import Batch
from prelu_doctor.devices import device_of
from prelu_doctor.errors import DataError, ForwardError

UNLABELLED = -100
"""The class index that `torch.nn.functional.cross_entropy` ignores."""

Kind = Literal["cross-entropy", "mean-squared-error", "distillation"]


class Objective:
    """A loss on a batch, and the accuracy where the labels are classes.

    Cross-entropy for integer labels on the class axis 1 of the model's first output; mean squared error for
    floating-point ones; without labels the mean squared distance of all outputs from the teacher's.

    Args:
        teacher: The original model, in eval mode.
        batches: All batches. The first tells the kind; without labels on every one, the teacher is the goal.

    Raises:
        DataError: The labels fit no output of the model.
    """

    def __init__(self, teacher: nn.Module, batches: Sequence[Batch]) -> None:
        self._teacher = teacher
        self.kind: Kind = "distillation"
        targets = [batch.target for batch in batches if batch.target is not None]
        if len(targets) < len(batches):
            return
        with torch.no_grad():
            output = _outputs(batches[0].to(device_of(teacher)).clone().run(teacher))[0]
        self.kind = _kind_for(output, targets[0])
        if self.kind == "cross-entropy":
            _check_range(targets, output.shape[1])

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        """The mean loss on a batch, and how many predictions were right (0 without class labels).

        Raises:
            ForwardError: The model's forward raised.
        """
        outputs = _outputs(_run(model, batch))
        if self.kind == "distillation":
            return self._distance(outputs, batch), 0
        assert batch.target is not None
        output = outputs[0]
        if self.kind == "cross-entropy":
            right = int((output.detach().argmax(1) == batch.target).sum())
            return F.cross_entropy(output.float(), batch.target.long()), right
        return F.mse_loss(output.float(), batch.target.float().reshape(output.shape)), 0

    def predictions(self, batch: Batch) -> int:
        """How many class predictions a batch asks for."""
        labelled = self.kind == "cross-entropy" and batch.target is not None
        return int((batch.target != UNLABELLED).sum()) if labelled and batch.target is not None else 0

    def _distance(self, outputs: list[Tensor], batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = _outputs(batch.clone().run(self._teacher))
        losses = [F.mse_loss(output.float(), goal.float()) for output, goal in zip(outputs, wanted, strict=True)]
        return torch.stack(losses).mean()


def _run(model: nn.Module, batch: Batch) -> Any:
    try:
        return batch.clone().run(model)
    except Exception as error:  # the user's forward may raise anything
        raise ForwardError(
            f"the model's forward raised {type(error).__name__} in the fine-tune: {error}",
            "a forward that runs in train mode too",
            "use --steps 0, or another --batch-size",
        ) from error


def _outputs(output: Any) -> list[Tensor]:
    """The floating-point tensors among a model's outputs, in order."""
    found = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise DataError("the model returns no floating-point tensor", "an output to train on", "use --steps 0")
    return found


def _kind_for(output: Tensor, target: Tensor) -> Kind:
    if not target.is_floating_point():
        fits = output.dim() >= 2 and target.shape == (output.shape[0], *output.shape[2:])
    else:
        fits = target.numel() == output.numel()
    if not fits:
        raise DataError(
            f"labels of shape {list(target.shape)} for outputs of shape {list(output.shape)}",
            "one class index a sample, or values of the output's own shape",
            "check `y` in the data, or leave it out: the original model then is the teacher",
        )
    return "mean-squared-error" if target.is_floating_point() else "cross-entropy"


def _check_range(targets: Sequence[Tensor], classes: int) -> None:
    for target in targets:
        labels = target[target != UNLABELLED]
        if labels.numel() and (labels.min() < 0 or labels.max() >= classes):
            raise DataError(
                f"labels from {int(labels.min())} to {int(labels.max())} for {classes} classes",
                f"class indices from 0 to {classes - 1}",
                "check `y` in the data",
            )

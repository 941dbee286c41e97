"""What the fine-tune minimises: the labels where there are any, else the distance from the original model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.devices import device_of
from prelu_doctor.errors import DataError, ForwardError
from prelu_doctor.leaves import tensors_of

UNLABELLED = -100
"""The class index that `torch.nn.functional.cross_entropy` ignores."""

SMALLEST = 1e-12
"""Probabilities below this count as this, so that their logarithm is finite."""

Kind = Literal["cross-entropy", "binary-cross-entropy", "mean-squared-error", "distillation"]


class Objective:
    """A loss on a batch, and the accuracy where the labels are classes.

    Cross-entropy for class indices, and for distributions over the classes (one-hot or soft), on the class axis 1 of
    the model's first output; binary cross-entropy for labels of 0 and 1 of the output's own shape; mean squared error
    for other values; without labels the mean squared distance of all outputs from the teacher's. A model that ends in a
    softmax or a sigmoid gives probabilities, and is taken so.

    Args:
        teacher: The original model, in eval mode.
        batches: All batches. The first tells the kind; without labels on every one, the teacher is the goal.

    Raises:
        DataError: The labels fit no output of the model.
    """

    def __init__(self, teacher: nn.Module, batches: Sequence[Batch]) -> None:
        self._teacher = teacher
        self._gives_probabilities = False
        self.kind: Kind = "distillation"
        targets = [batch.target for batch in batches if batch.target is not None]
        if len(targets) < len(batches):
            return
        with torch.no_grad():
            output = _outputs(batches[0].to(device_of(teacher)).clone().run(teacher))[0]
        self.kind = _kind_for(output, targets)
        self._gives_probabilities = self.kind != "mean-squared-error" and _are_probabilities(output, self.kind)
        if self.kind == "cross-entropy" and not targets[0].is_floating_point():
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
        output = outputs[0].float()
        if self.kind == "cross-entropy":
            return self._cross_entropy(output, batch.target)
        target = batch.target.float().reshape(output.shape)
        if self.kind == "binary-cross-entropy":
            return self._binary_cross_entropy(output, target)
        return F.mse_loss(output, target), 0

    def predictions(self, batch: Batch) -> int:
        """How many class predictions a batch asks for."""
        if batch.target is None or self.kind not in ("cross-entropy", "binary-cross-entropy"):
            return 0
        if self.kind == "binary-cross-entropy":
            return batch.target.numel()
        if batch.target.is_floating_point():
            return batch.target.numel() // batch.target.shape[1]
        return int((batch.target != UNLABELLED).sum())

    def _cross_entropy(self, output: Tensor, target: Tensor) -> tuple[Tensor, int]:
        soft = target.is_floating_point()
        classes = target.argmax(1) if soft else target.long()
        right = int((output.detach().argmax(1) == classes).sum())
        # The logarithm of a probability is a logit whose softmax is that probability.
        logits = output.clamp(min=SMALLEST).log() if self._gives_probabilities else output
        return F.cross_entropy(logits, target.float() if soft else classes), right

    def _binary_cross_entropy(self, output: Tensor, target: Tensor) -> tuple[Tensor, int]:
        right = int(((output.detach() > (0.5 if self._gives_probabilities else 0.0)) == (target > 0.5)).sum())
        if self._gives_probabilities:
            return F.binary_cross_entropy(output.clamp(0, 1), target), right
        return F.binary_cross_entropy_with_logits(output, target), right

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
    found = [tensor for tensor in tensors_of(output) if tensor.is_floating_point()]
    if not found:
        raise DataError("the model returns no floating-point tensor", "an output to train on", "use --steps 0")
    return found


def _kind_for(output: Tensor, targets: Sequence[Tensor]) -> Kind:
    target = targets[0]
    is_index = not target.is_floating_point()
    if is_index and output.dim() >= 2 and target.shape == (output.shape[0], *output.shape[2:]) and output.shape[1] > 1:
        return "cross-entropy"
    values = [each.float() for each in targets]
    if target.numel() == output.numel():
        if output.dim() >= 2 and output.shape[1] > 1 and target.shape == output.shape and _are_distributions(values):
            return "cross-entropy"
        if all(bool(((each == 0) | (each == 1)).all()) for each in values):
            return "binary-cross-entropy"
        if not is_index:
            return "mean-squared-error"
    raise DataError(
        f"labels of shape {list(target.shape)} for outputs of shape {list(output.shape)}",
        "one class index a sample, or values of the output's own shape (0 and 1 for a single output)",
        "check `y` in the data, or leave it out: the original model then is the teacher",
    )


def _are_distributions(values: Sequence[Tensor]) -> bool:
    """True where every sample's values along axis 1 are shares that sum to 1."""
    return all(
        bool((each >= 0).all()) and torch.allclose(each.sum(1), torch.ones(()).to(each), atol=1e-4) for each in values
    )


def _are_probabilities(output: Tensor, kind: Kind) -> bool:
    if kind == "cross-entropy":
        return _are_distributions([output.float()])
    return bool(((output >= 0) & (output <= 1)).all())


def _check_range(targets: Sequence[Tensor], classes: int) -> None:
    for target in targets:
        labels = target[target != UNLABELLED]
        if labels.numel() and (labels.min() < 0 or labels.max() >= classes):
            raise DataError(
                f"labels from {int(labels.min())} to {int(labels.max())} for {classes} classes",
                f"class indices from 0 to {classes - 1}",
                "check `y` in the data",
            )

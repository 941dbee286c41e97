"""The brief fine-tune: slopes in a parameter group of their own, the best state by held-out loss kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from prelu_doctor import records
from prelu_doctor.data.batches import Batch
from prelu_doctor.devices import device_of
from prelu_doctor.errors import ForwardError
from prelu_doctor.treatment.objective import Objective
from prelu_doctor.treatment.surgery import copy_of
from prelu_doctor.treatment.training_set import TrainingSet
from prelu_doctor.undisturbed import undisturbed

Progress = Callable[[int, int, float], None]
"""Told the step, the number of steps, and the training loss."""


@dataclass(frozen=True)
class Training:
    """Options of the fine-tune.

    Attributes:
        epochs: Passes over the training samples; used where `steps` is None.
        steps: Optimiser steps; 0 for none.
        optimizer: Which optimiser.
        lr: Learning rate of everything but the slopes.
        alpha_lr: Learning rate of the slopes; ten times `lr` where None, because slopes that start at 0 hardly move at
            the rate of the weights.
        alpha_weight_decay: Weight decay of the slopes. He et al. 2015 use none: decay pushes them to 0.
        alpha_range: Slopes are kept within these bounds after every step.
        freeze_alpha_after: Steps after which the slopes stay as they are.
        control: Also train the untouched model by the same steps, to tell whether the surgery helped.
        seed: Seed of order and dropout.
    """

    epochs: float = 5.0
    steps: int | None = None
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    alpha_lr: float | None = None
    alpha_weight_decay: float = 0.0
    alpha_range: tuple[float, float] | None = None
    freeze_alpha_after: int | None = None
    control: bool = True
    seed: int = 0

    @property
    def wanted(self) -> bool:
        """False where there are no steps to take."""
        return (self.epochs if self.steps is None else self.steps) > 0

    def steps_on(self, training_set: TrainingSet) -> int:
        """Number of optimiser steps on a training set."""
        if self.steps is not None:
            return self.steps
        return math.ceil(self.epochs * training_set.batches_an_epoch)


def fine_tune(
    model: nn.Module,
    original: nn.Module,
    training_set: TrainingSet,
    options: Training,
    progress: Progress = lambda step, steps, loss: None,
) -> records.FineTune | str:
    """Trains a treated model in place and leaves it in its best state.

    Args:
        model: The treated model.
        original: The untreated one: teacher where there are no labels, and the figure to compare with.
        training_set: Training and held-out samples.
        options: How to train.
        progress: Told after every step.

    Returns:
        What was reached; or, where there was nothing to train, the reason.

    Raises:
        DataError: The labels do not fit the model.
        ForwardError: The model cannot be run, or not be trained.
    """
    if not options.wanted:
        return "no training was asked for"
    if not training_set.held_out:
        return "there are no samples to hold out"
    if not _trainable(model):
        return "all parameters are frozen"
    steps = options.steps_on(training_set)
    with undisturbed(original):
        torch.manual_seed(options.seed)
        objective = Objective(original, training_set.all)
        start = evaluate(model, objective, training_set.held_out)
        if not math.isfinite(start.loss):
            return f"the held-out loss is {start.loss} before the first step"
        if objective.kind == "distillation" and start.loss == 0.0:
            return "without labels the original model is the teacher, and the converted one equals it already"
        best = _train(model, objective, training_set, options, steps, start, progress)
        before = evaluate(original, objective, training_set.held_out)
    return records.FineTune(
        objective=objective.kind,
        steps=steps,
        epochs=steps / training_set.batches_an_epoch,
        best_step=best.step,
        original=before,
        start=start,
        best=best.evaluation,
    )


def control_arm(
    original: nn.Module,
    training_set: TrainingSet,
    options: Training,
    progress: Progress = lambda step, steps, loss: None,
) -> records.Evaluation:
    """Trains a copy of the untouched model by the same steps on the same batches in the same order.

    Returns:
        Its quality in its best state, to compare the treated model's with.
    """
    model = copy_of(original)
    with undisturbed(original):
        torch.manual_seed(options.seed)
        objective = Objective(original, training_set.all)
        start = evaluate(model, objective, training_set.held_out)
        if not _trainable(model):
            return start
        steps = options.steps_on(training_set)
        return _train(model, objective, training_set, options, steps, start, progress).evaluation


def _trainable(model: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in model.parameters())


def evaluate(model: nn.Module, objective: Objective, batches: Sequence[Batch]) -> records.Evaluation:
    """Mean loss (and accuracy, with class labels) over batches, in eval mode."""
    device = device_of(model)
    total, samples, right, predictions = 0.0, 0, 0, 0
    with torch.no_grad(), undisturbed(model):
        for batch in batches:
            loss, correct = objective.loss(model, batch.to(device))
            total += float(loss) * batch.size
            samples += batch.size
            right += correct
            predictions += objective.predictions(batch)
    return records.Evaluation(loss=total / samples, accuracy=right / predictions if predictions else None)


@dataclass
class _Best:
    step: int
    evaluation: records.Evaluation
    state: dict[str, Tensor]


def _train(
    model: nn.Module,
    objective: Objective,
    training_set: TrainingSet,
    options: Training,
    steps: int,
    start: records.Evaluation,
    progress: Progress,
) -> _Best:
    """Runs the steps, looks at the held-out part about twenty times, and loads the best state found."""
    device = device_of(model)
    slopes = slope_parameters(model)
    optimizer = _optimizer(model, slopes, options)
    every = max(1, steps // 20)
    best = _Best(0, start, _copied(model))
    flags = [(module, module.training) for module in model.modules()]
    training_set.rewind()
    model.train()
    try:
        for step, batch in enumerate(_endless(training_set, steps), start=1):
            if step - 1 == options.freeze_alpha_after:
                _freeze(slopes)
            loss = _step(model, objective, optimizer, batch.to(device))
            _clamp(slopes, options.alpha_range)
            progress(step, steps, loss)
            if not math.isfinite(loss):
                break
            if step % every == 0 or step == steps:
                best = _better(best, step, evaluate(model, objective, training_set.held_out), model)
    finally:
        for module, flag in flags:
            module.training = flag
        for slope in slopes:
            slope.requires_grad_(True)
        optimizer.zero_grad()
        model.load_state_dict(best.state)
    return best


def _step(model: nn.Module, objective: Objective, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    optimizer.zero_grad()
    loss, _ = objective.loss(model, batch)
    _backward(loss)
    optimizer.step()
    return float(loss.detach())


def _backward(loss: Tensor) -> None:
    try:
        loss.backward()
    except RuntimeError as error:
        raise ForwardError(
            f"no gradient goes back through the model: {error}", "a model that can be trained", "use --steps 0"
        ) from error


def _endless(training_set: TrainingSet, steps: int) -> Iterator[Batch]:
    done = 0
    while done < steps:
        for batch in training_set.epoch():
            yield batch
            done += 1
            if done >= steps:
                return


def _better(best: _Best, step: int, evaluation: records.Evaluation, model: nn.Module) -> _Best:
    return _Best(step, evaluation, _copied(model)) if evaluation.loss < best.evaluation.loss else best


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def slope_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The slopes of all PReLUs of a model that are not frozen, each once."""
    slopes = {id(module.weight): module.weight for module in model.modules() if isinstance(module, nn.PReLU)}
    return [slope for slope in slopes.values() if slope.requires_grad]


def _optimizer(model: nn.Module, slopes: list[nn.Parameter], options: Training) -> torch.optim.Optimizer:
    own = {id(slope) for slope in slopes}
    others = [parameter for parameter in model.parameters() if id(parameter) not in own and parameter.requires_grad]
    alpha_lr = 10 * options.lr if options.alpha_lr is None else options.alpha_lr
    groups = [
        {"params": others, "lr": options.lr},
        {"params": slopes, "lr": alpha_lr, "weight_decay": options.alpha_weight_decay},
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=0.9)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=options.lr)


def _freeze(slopes: Sequence[nn.Parameter]) -> None:
    """Takes the slopes out of training; without a gradient, momentum cannot move them either."""
    for slope in slopes:
        slope.requires_grad_(False)
        slope.grad = None


@torch.no_grad()
def _clamp(slopes: Sequence[nn.Parameter], bounds: tuple[float, float] | None) -> None:
    if bounds is None:
        return
    for slope in slopes:
        slope.clamp_(*bounds)

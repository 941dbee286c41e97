"""What a model takes, as far as its forward, its weights and its file tell; batches are brought into that form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.data.forward_signature import ForwardSignature, signature_of
from prelu_doctor.data.model_types import as_input, as_target, model_float_type
from prelu_doctor.data.shapes import named_inputs, open_shape_text, shape_text, type_name
from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped, listed
from prelu_doctor.expected_inputs import ExpectedInput, ExpectedInputs


@dataclass(frozen=True)
class Intake:
    """What a model takes.

    Attributes:
        model: The module, where shapes can be tried on it; None for a file that is run without one.
        expected: What the file tells; None where it tells nothing.
        signature: The arguments of its forward.
        float_type: Type of floating inputs and targets.
    """

    model: nn.Module | None
    expected: ExpectedInputs | None
    signature: ForwardSignature
    float_type: torch.dtype

    @property
    def only_size(self) -> int | None:
        """The only batch size that the model takes; None where any size goes, or where nobody knows."""
        return self.expected.fixed_batch if self.expected is not None and self.expected.batched else None

    @property
    def told_shapes(self) -> list[tuple[int, ...]]:
        """The shape of one sample of each input, where the file tells all their sizes; else nothing."""
        inputs = () if self.expected is None or not self.expected.batched else self.expected.inputs
        shapes = [each.shape[1:] for each in inputs]
        known = [tuple(size for size in shape if size is not None) for shape in shapes]
        return known if known == shapes else []

    def check_given(self, input_shapes: Sequence[tuple[int, ...]]) -> None:
        """Checks the shapes that the user gave against the file.

        Raises:
            DataError: The file says something else.
        """
        if self.expected is None or not input_shapes:
            return
        wanted = [each.shape[1:] for each in self.expected.inputs]
        fitting = len(wanted) == len(input_shapes) and all(map(fits, input_shapes, wanted))
        if not fitting or not self.expected.batched:
            given = " ".join(f"--input-shape {','.join(map(str, shape))}" for shape in input_shapes)
            raise DataError(
                f"{given}, and the model's file takes {described(self.expected)}",
                "the shapes of one sample, without the batch axis, that the file takes",
                "leave --input-shape out, or give the sizes that the file leaves open (?)",
            )

    def fitted(self, batch: Batch, name: str) -> Batch:
        """The batch in the model's types; where a file tells its inputs, in their order, and checked.

        Args:
            batch: As somebody made it.
            name: Of what it came from, for messages.

        Raises:
            DataError: It does not fit the file.
        """
        target = None if batch.target is None else as_target(batch.target, self.float_type)
        if self.expected is None:
            return replace(batch.inputs_changed(lambda tensor: as_input(tensor, self.float_type)), target=target)
        batch = replace(self._by_position(batch, self.expected), target=target)
        wanted = self.expected.inputs
        found = named_inputs(batch)
        if len(found) != len(wanted):
            raise DataError(
                f"{name}: {len(found)} tensors ({listed(found)})",
                f"the {len(wanted)} inputs that the model's file takes: {listed(each.name for each in wanted)}",
                "name the arrays like the inputs, or yield them in this order",
            )
        if not batch.whole:
            self._check_shapes(batch, self.expected, name)
        places = iter(wanted)
        return batch.inputs_changed(lambda tensor: _cast(tensor, next(places), name))

    def _by_position(self, batch: Batch, expected: ExpectedInputs) -> Batch:
        """Inputs that are named like the file's, in the file's order: it may take none by name."""
        names = [each.name for each in expected.inputs]
        if batch.args or set(batch.kwargs) != set(names):
            return batch
        return replace(batch, args=tuple(batch.kwargs[name] for name in names), kwargs={})

    def _check_shapes(self, batch: Batch, expected: ExpectedInputs, name: str) -> None:
        if not expected.batched:
            raise DataError(
                f"{name}: batches of samples, for a model whose inputs do not all have them on axis 0: "
                f"{described(expected)}",
                "whole calls, which are run as they are",
                "--data module:callable that yields prelu_doctor.Call(...)",
            )
        for tensor, wanted in zip(batch.tensors(), expected.inputs, strict=True):
            if not fits(tuple(tensor.shape[1:]), wanted.shape[1:]):
                raise DataError(
                    f"{name}: '{escaped(wanted.name)}' holds samples of shape {shape_text(tensor.shape[1:])}",
                    f"{open_shape_text(wanted.shape[1:])}, which the model's file takes",
                    "samples as the model was trained on",
                )


def intake_of(model: nn.Module | None, expected: ExpectedInputs | None = None) -> Intake:
    """What a model takes.

    Args:
        model: The module; None where there is none at hand.
        expected: What its file tells.
    """
    told = [] if expected is None else [each.dtype for each in expected.inputs if each.dtype.is_floating_point]
    float_type = told[0] if model is None and told else model_float_type(model)
    return Intake(model, expected, signature_of(model, expected), float_type)


def fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """True where the sizes are those that are wanted; None wants any."""
    return len(shape) == len(wanted) and all(
        open_size in (None, size) for size, open_size in zip(shape, wanted, strict=True)
    )


def described(expected: ExpectedInputs) -> str:
    """As "x: float32 1x512, state: float32 2x1x128"."""
    return ", ".join(
        f"{escaped(each.name)}: {type_name(each.dtype)} {open_shape_text(each.shape)}" for each in expected.inputs
    )


def _cast(tensor: Tensor, wanted: ExpectedInput, name: str) -> Tensor:
    """The tensor in the type that a file wants, as long as no value changes its meaning."""
    both_float = tensor.is_floating_point() and wanted.dtype.is_floating_point
    if both_float or tensor.dtype == wanted.dtype:
        return tensor.to(wanted.dtype)
    if _is_whole(tensor.dtype) and _is_whole(wanted.dtype):
        cast = tensor.to(wanted.dtype)
        if torch.equal(cast.to(tensor.dtype), tensor):
            return cast
    raise DataError(
        f"{name}: '{escaped(wanted.name)}' holds {type_name(tensor.dtype)}",
        f"{type_name(wanted.dtype)}, which the model's file takes",
        "convert it as it was converted in training",
    )


def _is_whole(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)

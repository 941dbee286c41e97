"""The eager model as a plain function: named tensors in, named tensors out, nothing left behind in the model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import ForwardError
from prelu_doctor.leaves import LeafPath, leaves_of, path_text


def eager_outputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The model's output tensors on this batch, by name, in order.

    Run it inside `undisturbed(model)`. The batch itself is left as it is, also by a forward that works in place.

    Raises:
        ForwardError: If the forward raises; the original error is the cause.
        TypeError: If the output holds something that is not a tensor.
    """
    try:
        with torch.no_grad():
            output = batch.clone().run(model)
    except Exception as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in named_inputs(model, batch).items())
        raise ForwardError(
            f"the model's forward raised {type(error).__name__}: {error} on inputs {shapes}",
            "a forward that takes batches of this size",
            "check the data, or choose other batch sizes",
        ) from error
    return named_tensors(output)


def named_inputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The batch's tensors by the names of the forward's arguments; `*inputs` become inputs_0, inputs_1, ...

    So do the parts of an argument that is a tuple or a list. Plain values are left out.
    """
    leaves = leaves_of(named_arguments(model, batch))
    return _by_name((path, leaf) for path, leaf in leaves if isinstance(leaf, Tensor))


def named_arguments(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """The batch's arguments by name, whatever structure they have."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # a compiled forward has no signature
        parameters = []
    given = {_argument_name(parameters, position): value for position, value in enumerate(batch.args)}
    return {**given, **batch.kwargs}


def named_tensors(output: Any) -> dict[str, Tensor]:
    """Every tensor of a forward's output, depth first, by the path of keys to it; `output` where there is one alone.

    Takes tuples, lists, mappings, dataclasses and registered pytree nodes, nested as they come. None is left out: it
    holds no value.

    Raises:
        TypeError: If a leaf is neither a tensor nor None.
    """
    leaves = [(path, leaf) for path, leaf in leaves_of(output) if leaf is not None]
    for path, leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise TypeError(f"{path_text(path)} is a {type(leaf).__name__}, not a tensor")
    return _by_name(leaves)


def _by_name(leaves: Iterable[tuple[LeafPath, Tensor]]) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for path, leaf in leaves:
        name = path_text(path)
        while name in named:  # {"a_b": ..., "a": {"b": ...}}
            name += "_"
        named[name] = leaf
    return named


def _argument_name(parameters: list[inspect.Parameter], position: int) -> str:
    for index, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return f"{parameter.name}_{position - index}"
        if index == position and parameter.kind is not parameter.KEYWORD_ONLY:
            return parameter.name
    return f"input_{position}"

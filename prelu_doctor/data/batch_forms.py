"""The forms in which people's loaders yield a batch, brought into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prelu_doctor.data.batches import Batch
from prelu_doctor.data.forward_signature import ForwardSignature
from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped, listed

TARGET_NAMES = ("labels", "y", "target", "label")
_EXPECTED = "a tensor, (x, y), a tuple of inputs, (inputs, y), or a dictionary of tensors"


def batch_from(item: Any, signature: ForwardSignature, what: str) -> Batch:
    """The batch that a loader's item stands for.

    A tuple is read by the number of arguments that the forward requires: that many tensors are the inputs, one more
    is the target. Without a model, or with `*args` alone, one input is taken for required.

    Args:
        item: A tensor; a tuple or list of tensors; (inputs, target) whose inputs are a tuple or dictionary; or a
            dictionary, whose target goes by one of `TARGET_NAMES`. NumPy arrays serve as tensors.
        signature: Of the model's forward.
        what: The name of the source, for messages.

    Raises:
        DataError: Where it has another form.
    """
    if _is_array(item):
        return Batch(args=(_tensor(item),))
    if isinstance(item, Mapping):
        return _from_mapping(item, signature, what)
    if not isinstance(item, Sequence) or isinstance(item, str | bytes) or not item:
        raise DataError(f"{what}: yielded a {escaped(type(item).__name__)}", _EXPECTED)
    if all(_is_array(part) for part in item):
        return _from_arrays([_tensor(part) for part in item], signature, what)
    if len(item) == 2 and _is_array(item[1]) and isinstance(item[0], Mapping | Sequence):
        inputs = batch_from(item[0], _inputs_only(signature, item[0]), what)
        return Batch(args=inputs.args, kwargs=inputs.kwargs, target=_tensor(item[1]))
    raise DataError(f"{what}: yielded ({', '.join(escaped(type(part).__name__) for part in item[:5])})", _EXPECTED)


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "biufc")


def _tensor(value: Any) -> Tensor:
    return value.detach() if isinstance(value, Tensor) else torch.tensor(value)


def _from_arrays(tensors: list[Tensor], signature: ForwardSignature, what: str) -> Batch:
    required = max(1, len(signature.required))
    most = max(required, signature.positional)
    if len(tensors) in (required + 1, most + 1):
        return Batch(args=tuple(tensors[:-1]), target=tensors[-1])
    if required <= len(tensors) <= most or (signature.any_positional and len(tensors) > required):
        return Batch(args=tuple(tensors))
    raise DataError(
        f"{what}: yielded {len(tensors)} tensors",
        f"{required} for the forward's {listed(signature.required)}, and at most one target behind them",
    )


def _inputs_only(signature: ForwardSignature, inputs: Any) -> ForwardSignature:
    """The signature by which all of these inputs are inputs, their target standing beside them."""
    if isinstance(inputs, Mapping):
        names = (*signature.names, *(str(name) for name in inputs))
        return ForwardSignature(names=names, required=tuple(str(name) for name in inputs))
    names = tuple(map(str, range(len(inputs))))
    return ForwardSignature(names=names, required=names, positional=len(names), any_positional=False)


def _from_mapping(item: Mapping[Any, Any], signature: ForwardSignature, what: str) -> Batch:
    odd = [name for name, value in item.items() if not (isinstance(name, str) and _is_array(value))]
    if odd or not item:
        raise DataError(
            f"{what}: yielded a dictionary in which {listed(odd, 3)} is no tensor" if odd else f"{what}: yielded {{}}",
            _EXPECTED,
        )
    label = next((n for n in TARGET_NAMES if n in item and n not in signature.required), None)
    inputs = {name: _tensor(value) for name, value in item.items() if name != label}
    target = None if label is None else _tensor(item[label])
    unknown = [name for name in inputs if name not in signature.names]
    if len(inputs) == 1 and unknown:
        return Batch(args=tuple(inputs.values()), target=target)
    if not inputs or (unknown and not signature.any_name):
        raise DataError(
            f"{what}: yielded a dictionary with the keys {listed(item)}",
            f"the forward's arguments {listed(signature.names)}, and a target called one of {listed(TARGET_NAMES)}",
        )
    return Batch(kwargs=inputs, target=target)

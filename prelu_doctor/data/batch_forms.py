"""The forms in which people's loaders yield a batch, brought into one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from prelu_doctor.data.batches import Batch
from prelu_doctor.data.calls import Call, whole_call
from prelu_doctor.data.forward_signature import ForwardSignature
from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped, listed
from prelu_doctor.leaves import PLAIN

TARGET_NAMES = ("labels", "y", "target", "label")
_EXPECTED = "a tensor, (x, y), a tuple of inputs, (inputs, y), a dictionary of tensors, or a Call"
_SETTINGS = (*PLAIN, torch.dtype, torch.device)
"""Arguments that are no data."""


def batch_from(item: Any, signature: ForwardSignature, what: str) -> Batch:
    """The batch that a loader's item stands for.

    A tuple is read by the number of arguments that the forward requires: that many parts are the inputs, one more
    tensor is the target. Without a model, or with `*args` alone, one input is taken for required. Wherever a tensor
    may stand, so may a tuple, list or dictionary of tensors; where an argument is required or named, a number, a string
    or None.

    Args:
        item: A tensor; a tuple or list of inputs; (inputs, target) whose inputs are a tuple or dictionary; a
            dictionary, whose target goes by one of `TARGET_NAMES`; a `Call`, or the pair (arguments, keyword
            arguments) of a tuple and a dictionary, which is a whole call too. NumPy arrays serve as tensors.
        signature: Of the model's forward.
        what: The name of the source, for messages.

    Raises:
        DataError: Where it has another form.
    """
    if isinstance(item, Call):
        return _from_call(item, what)
    if _is_array(item):
        return Batch(args=(_tensor(item),))
    if isinstance(item, Mapping):
        return _from_mapping(item, signature, what)
    if not isinstance(item, Sequence) or isinstance(item, str | bytes) or not item:
        raise DataError(f"{what}: yielded a {escaped(type(item).__name__)}", _EXPECTED)
    if _is_call(item):
        return _from_call(Call(*item[0], **item[1]), what)
    if len(item) == 2 and _is_array(item[1]) and isinstance(item[0], Mapping | Sequence):
        return _with_target(item[0], _tensor(item[1]), signature, what)
    return _by_position(list(item), signature, what)


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "biufc")


def _tensor(value: Any) -> Tensor:
    return value.detach() if isinstance(value, Tensor) else torch.tensor(value)


def _is_call(item: Sequence[Any]) -> bool:
    """True for (arguments, keyword arguments), as torch.export writes a call's inputs."""
    return (
        len(item) == 2
        and isinstance(item[0], tuple)
        and isinstance(item[1], dict)
        and all(isinstance(name, str) for name in item[1])
    )


def _from_call(call: Call, what: str) -> Batch:
    args, kwargs = (
        pytree.tree_map(lambda leaf: _leaf(leaf, what), tree) for tree in (tuple(call.args), dict(call.kwargs))
    )
    return whole_call(args, kwargs, call.samples, what)


def _leaf(value: Any, what: str) -> Any:
    """A tensor or a plain value; anything else may hold what the program neither copies nor sees."""
    if _is_array(value):
        return _tensor(value)
    if isinstance(value, _SETTINGS):
        return value
    raise DataError(f"{what}: yielded a call with a {escaped(type(value).__name__)} in it", _PARTS)


_PARTS = "tensors, numbers, strings and None, in tuples, lists and dictionaries"


def _by_position(parts: list[Any], signature: ForwardSignature, what: str) -> Batch:
    required = max(1, len(signature.required))
    most = max(required, signature.positional)
    # A plain value is an argument only where one is required: a name or an index often stands behind the inputs.
    odd = not all(_is_part(part) and (k < required or _holds_arrays(part)) for k, part in enumerate(parts))
    odd = odd or not any(_holds_arrays(part) for part in parts)
    if len(parts) in (required + 1, most + 1) and _is_array(parts[-1]) and not odd:
        return _batch(tuple(parts[:-1]), {}, what, parts[-1])
    if (required <= len(parts) <= most or (signature.any_positional and len(parts) > required)) and not odd:
        return _batch(tuple(parts), {}, what)
    if not all(_is_array(part) for part in parts):
        raise DataError(f"{what}: yielded ({', '.join(_kinds(parts))})", _EXPECTED)
    raise DataError(
        f"{what}: yielded {len(parts)} tensors",
        f"{required} for the forward's {listed(signature.required)}, and at most one target behind them",
    )


def _kinds(parts: list[Any]) -> Iterator[str]:
    return (escaped(type(part).__name__) for part in parts[:5])


def _with_target(inputs: Any, target: Tensor, signature: ForwardSignature, what: str) -> Batch:
    """Inputs that stand in a container of their own: one each for the arguments, or all for a lone one."""
    if isinstance(inputs, Mapping):
        return _from_mapping(inputs, _names_only(signature, inputs), what, target)
    parts = list(inputs)
    room = signature.any_positional or len(parts) <= max(1, signature.positional)
    return _batch(tuple(parts) if room and parts else (inputs,), {}, what, target)


def _names_only(signature: ForwardSignature, inputs: Mapping[Any, Any]) -> ForwardSignature:
    """The signature by which all of these inputs are inputs, their target standing beside them."""
    names = (*signature.names, *(str(name) for name in inputs))
    return ForwardSignature(names=names, required=tuple(str(name) for name in inputs))


def _from_mapping(
    item: Mapping[Any, Any], signature: ForwardSignature, what: str, target: Tensor | None = None
) -> Batch:
    odd = [name for name, value in item.items() if not (isinstance(name, str) and _is_part(value))]
    if not odd and not any(_holds_arrays(value) for value in item.values()):
        odd = list(item)
    if odd or not item:
        raise DataError(
            f"{what}: yielded a dictionary in which {listed(odd, 3)} is no tensor" if odd else f"{what}: yielded {{}}",
            _EXPECTED,
        )
    label = next((n for n in TARGET_NAMES if n in item and n not in signature.required), None)
    if label is not None and _is_array(item[label]):
        target = _tensor(item[label])
    else:
        label = None
    inputs = {name: value for name, value in item.items() if name != label}
    unknown = [name for name in inputs if name not in signature.names]
    if len(inputs) == 1 and unknown:
        return _batch(tuple(inputs.values()), {}, what, target)
    if not inputs or (unknown and not signature.any_name):
        raise DataError(
            f"{what}: yielded a dictionary with the keys {listed(item)}",
            f"the forward's arguments {listed(signature.names)}, and a target called one of {listed(TARGET_NAMES)}",
        )
    return _batch((), inputs, what, target)


def _is_part(value: Any) -> bool:
    """True for what may stand where an argument stands: a tree whose leaves are arrays, or one plain value.

    A list of plain values is none: where there is one for each sample, cutting the batch would leave it behind.
    """
    leaves = pytree.tree_leaves(value)
    return isinstance(value, _SETTINGS) or (bool(leaves) and all(_is_array(leaf) for leaf in leaves))


def _holds_arrays(value: Any) -> bool:
    return any(_is_array(leaf) for leaf in pytree.tree_leaves(value))


def _batch(args: tuple[Any, ...], kwargs: dict[str, Any], what: str, target: Any = None) -> Batch:
    for value in (*args, *kwargs.values()):
        if not _is_part(value):
            raise DataError(
                f"{what}: yielded a {escaped(type(value).__name__)} that is more than tensors",
                _PARTS,
                "yield a whole call, which is not cut: prelu_doctor.Call(...)",
            )
    args, kwargs = pytree.tree_map(lambda leaf: _tensor(leaf) if _is_array(leaf) else leaf, (args, kwargs))
    return Batch(args=args, kwargs=kwargs, target=None if target is None else _tensor(target))

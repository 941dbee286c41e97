"""What weights tell without their architecture."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prelu_doctor import records
from prelu_doctor.escaping import reason_of
from prelu_doctor.weights.roles import Layer, Norm, Slope, layer_of, may_be_padding, norm_of, slope_of
from prelu_doctor.weights.values import LARGEST_BLOCK, Values, values_of

MOST_INDICES = 10_000
"""Indices or values that a record holds of one tensor."""
FLAT = 1e-3
"""A slope below this magnitude counts as 0."""
SIGMAS = 3
"""Standard deviations of a normalised input within which a channel that is probably dead gives nothing positive."""
OWN_MEMORY = 2**24
"""Bytes up to which a tensor may be larger than the memory it lies in (an expanded one)."""

_NEVER_MASKS = ("weight", "bias", "gamma", "beta", "running_mean", "running_var")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass
class Examined:
    """What was looked at, what was found, and what was left out.

    Attributes:
        found: The record of it.
        parameters: Elements of the tensors that are no statistics.
        left_out: Tensors that were not looked at, each with the reason.
    """

    found: records.WeightsExamination
    parameters: int
    left_out: list[records.Unresolved] = field(default_factory=list)


def examine(state: Mapping[str, Tensor], known_slopes: Collection[str] = ()) -> Examined:
    """Look at each tensor once.

    Args:
        state: The weights by name. A tensor under several names is looked at under the first.
        known_slopes: Paths of modules that are PReLUs, as the recipe of a converted file says.
    """
    own = _without_aliases(state)
    values, left_out = dict[str, Values](), list[records.Unresolved]()
    for name, tensor in own.items():
        reason = _unreadable(tensor)
        if not reason and (tensor.is_floating_point() or tensor.is_complex()):
            try:
                values[name] = values_of(tensor)
            except (RuntimeError, TypeError) as error:  # a type for which torch has no arithmetic
                reason = f"torch cannot compute with {tensor.dtype}: {reason_of(error)}"
        if reason:
            left_out.append(records.Unresolved(id=name, reason=reason))
    shaped = {name: tensor for name, tensor in state.items() if not _shapeless(tensor)}
    real = [name for name in values if _is_real(own[name])]
    layers = [layer for name in values if (layer := layer_of(name, shaped))]
    norms = [norm for name in real if (norm := norm_of(name, shaped))]
    slopes = [slope for name in real if own[name].numel() and (slope := slope_of(name, shaped, known_slopes))]
    found = records.WeightsExamination(
        tensors=len(own),
        floating=len(values),
        layers=len(layers),
        norms=len(norms),
        slopes=[_stored_slopes(slope, own[slope.name]) for slope in slopes],
        non_finite=[_non_finite(name, own[name], held) for name, held in values.items() if held.nan or held.infinite],
        zero_slices=[zero for layer in layers for zero in _zero_slices(layer, values[layer.weight], state)],
        closed_channels=[closed for norm in norms if (closed := _closed_channels(norm, state))],
    )
    return Examined(found, sum(_parameters(name, tensor) for name, tensor in own.items()), left_out)


def _without_aliases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor under the first of its names (tied weights have several)."""
    own: dict[object, str] = {}
    for name, tensor in state.items():
        own.setdefault(_identity(tensor) or name, name)
    return {name: state[name] for name in own.values()}


def _identity(tensor: Tensor) -> object:
    """Equal for two tensors that are one; None where memory does not tell."""
    if _unreadable(tensor) or not tensor.numel():
        return None
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _unreadable(tensor: Tensor) -> str:
    """Why a tensor's values are not looked at; empty where they are."""
    if _shapeless(tensor):
        return "it is nested, so that it has no one shape" if tensor.is_nested else "it is lazy: it has no shape yet"
    if tensor.is_meta:
        return "a meta tensor: it holds no data"
    if tensor.layout != torch.strided:
        return f"it is no plain array but {tensor.layout}"
    if tensor.is_quantized:
        return "it is quantised: what its values stand for depends on scales beside them"
    size = tensor.numel() * tensor.element_size()
    if size > max(tensor.untyped_storage().nbytes(), OWN_MEMORY):
        return f"its {tensor.numel()} elements lie in the memory of fewer"
    return ""


def _shapeless(tensor: Tensor) -> bool:
    return bool(tensor.is_nested or torch.nn.parameter.is_lazy(tensor))


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not _unreadable(tensor)


def _parameters(name: str, tensor: Tensor) -> int:
    return 0 if _shapeless(tensor) or name.rpartition(".")[2] in _STATISTICS else tensor.numel()


def _non_finite(name: str, tensor: Tensor, held: Values) -> records.NonFiniteTensor:
    one_sign = not held.nan and min(held.positive_infinite, held.negative_infinite) == 0
    return records.NonFiniteTensor(
        tensor=name,
        elements=tensor.numel(),
        nan=held.nan,
        infinite=held.infinite,
        # What a layer multiplies by or adds is no mask: there an infinity is a fault.
        mask=one_sign and held.infinite + held.zeros == tensor.numel() and name.rpartition(".")[2] not in _NEVER_MASKS,
    )


def _zero_slices(layer: Layer, held: Values, state: Mapping[str, Tensor]) -> Iterator[records.ZeroSlices]:
    shape = list(state[layer.weight].shape)
    if not state[layer.weight].numel():
        return
    zero_along = (~held.rows, ~held.columns)
    for slices, axis in (("outputs", layer.axis), ("inputs", 1 - layer.axis)):
        zero = zero_along[axis]
        quantity = int(zero.sum())
        if not quantity:
            continue
        whole = quantity == len(zero)
        dead = _dead_outputs(layer, zero, state) if slices == "outputs" else 0
        padding = slices == "outputs" and may_be_padding(layer, quantity)
        yield records.ZeroSlices(
            tensor=layer.weight,
            shape=shape,
            slices="outputs" if slices == "outputs" else "inputs",
            axis=axis,
            of=len(zero),
            zero=quantity,
            indices=[] if whole else _indices(zero),
            dead=dead,
            doubt=layer.doubt,
            may_be_padding=padding,
        )
        if whole:  # then its inputs are, too
            return


def _dead_outputs(layer: Layer, zero: Tensor, state: Mapping[str, Tensor]) -> int:
    """Outputs that are a constant of at most 0."""
    if not layer.alone:
        return 0
    if not layer.bias:
        return int(zero.sum())
    bias = state[layer.bias]
    return int((zero & (bias.detach().float() <= 0)).sum()) if _is_real(bias) else 0


def _closed_channels(norm: Norm, state: Mapping[str, Tensor]) -> records.ClosedChannels | None:
    scale = state[norm.scale].detach()
    shift = state[norm.shift].detach() if norm.shift else torch.zeros(1).expand(scale.shape)
    if not _is_real(shift):
        return None
    pairs = zip(scale.split(LARGEST_BLOCK), shift.split(LARGEST_BLOCK), strict=True)
    masks = [_closed(some.double(), others.double()) for some, others in pairs]
    proved, probable = (torch.cat([mask[which] for mask in masks]) for which in (0, 1))
    if not (proved.any() or probable.any()):
        return None
    return records.ClosedChannels(
        tensor=norm.scale,
        shift=norm.shift,
        of=len(scale),
        running_statistics=norm.running,
        proved=int(proved.sum()),
        proved_indices=_indices(proved),
        probable=int(probable.sum()),
        probable_indices=_indices(probable),
    )


def _closed(scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    proved = (scale == 0) & (shift <= 0)
    return proved, (shift + SIGMAS * scale.abs() <= 0) & ~proved


def _stored_slopes(slope: Slope, tensor: Tensor) -> records.StoredSlopes:
    values = tensor.detach().float() if tensor.element_size() == 1 else tensor.detach()
    finite = values[values.isfinite()]
    some = finite.numel() > 0
    return records.StoredSlopes(
        tensor=slope.name,
        of=tensor.numel(),
        surety=slope.surety,
        min=float(finite.min()) if some else None,
        mean=float(finite.mean(dtype=torch.float64)) if some else None,
        max=float(finite.max()) if some else None,
        flat=int((finite.abs() < FLAT).sum()),
        values=[value if math.isfinite(value) else None for value in values[:MOST_INDICES].tolist()],
    )


def _indices(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten()[:MOST_INDICES].tolist()

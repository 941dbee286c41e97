"""Follows units through operations by carrying a tensor of labels along: which element holds which unit.

A label tensor has the shape of the value it describes. `u + 1` stands where an element depends on unit u alone, and is
0 where u is 0; `NOTHING` where an element is always 0 (padding); `FOREIGN` where it carries some other signal. Data
movement (flatten, concat, shuffles) is replayed on the labels themselves and so comes out right by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from prelu_doctor.sites.graph import Call, Graph, Ref

NOTHING = 0
FOREIGN = -1

Spoil = Callable[[Tensor, str], None]
"""Told which labels met an operation that does not keep a zero at zero, and why."""


class Carrier:
    """Carries labels from value to value along the calls of a graph.

    Args:
        graph: The traced forward.
        spoil: Called with labels that were mixed with another signal or moved off zero, and the reason.
    """

    def __init__(self, graph: Graph, spoil: Spoil = lambda labels, reason: None) -> None:
        self.graph = graph
        self.labels: dict[int, Tensor] = {}
        self.lost: dict[int, tuple[str, list[Tensor]]] = {}
        self._spoil = spoil

    def of(self, value: int) -> Tensor:
        """The labels of a value: foreign where none were carried to it."""
        known = self.labels.get(value)
        return torch.full(self.graph.shapes[value], float(FOREIGN)) if known is None else known

    def carry(self, call: Call) -> None:
        """Labels what a call writes from what it reads; leaves it foreign where the operation is not understood."""
        op = call.op if call.op in _TABLE else call.op.removesuffix("_")
        try:
            outputs = _TABLE[op](self, call)
        except (KeyError, RuntimeError, TypeError, IndexError, ValueError):
            # An operation outside the table, or one whose arguments cannot be replayed on labels.
            outputs = []
            for value in self._labelled(call):
                self._spoil(self.labels[value], f"is read by {call.op}, through which it cannot be followed")
        for value, labels in zip(call.writes, outputs, strict=False):
            if tuple(labels.shape) == self.graph.shapes[value]:
                self.labels[value] = labels
        read = [self.labels[value] for value in self._labelled(call)]
        self.lost.update({value: (call.op, read) for value in call.writes if value not in self.labels})

    def spoil_lost(self, values: Iterable[int]) -> None:
        """Spoils the units behind values that carry their signal without a label, as the indices of a maximum do."""
        for value in values:
            op, read = self.lost.get(value, ("", []))
            for labels in read:
                self._spoil(labels, f"is read through an output of {op} that cannot be followed")

    def spoil(self, labels: Tensor, reason: str) -> None:
        """Passes on which units are spoiled."""
        self._spoil(labels, reason)

    def _labelled(self, call: Call) -> Iterable[int]:
        return [value for value in dict.fromkeys(call.reads) if value in self.labels]


def labels_along(shape: tuple[int, ...], axis: int) -> Tensor:
    """Labels of a value whose units lie along one axis: `u + 1` at unit u."""
    along = [1] * len(shape)
    along[axis] = -1
    return torch.arange(1, shape[axis] + 1, dtype=torch.float32).reshape(along).expand(shape)


def by_channel(labels: Tensor, axis: int) -> Tensor:
    """Labels `[channels, rest]`, also of a vector."""
    return labels.movedim(axis, 0).reshape(labels.shape[axis], -1)


def one_label(flat: Tensor) -> tuple[Tensor, Tensor]:
    """The single label along the last axis, zeros aside.

    Args:
        flat: Labels `[..., P]`.

    Returns:
        The label `[...]`, foreign where several meet, and the mask `[...]` of where several meet.
    """
    highest = flat.amax(-1, keepdim=True)
    highest = torch.where((highest == NOTHING) & (flat == FOREIGN).any(-1, keepdim=True), float(FOREIGN), highest)
    mixed = ((flat != NOTHING) & (flat != highest)).any(-1)
    return torch.where(mixed, float(FOREIGN), highest.squeeze(-1)), mixed


def _move(carrier: Carrier, call: Call) -> list[Tensor]:
    """Replays an operation that only moves elements."""
    output = call.func(*_with_labels(carrier, call.args), **_with_labels(carrier, call.kwargs))
    return [output] if isinstance(output, Tensor) else list(output)


def _view(carrier: Carrier, call: Call) -> list[Tensor]:
    """A view; labels are laid out otherwise in memory than the values, and may need a copy where these need none."""
    return [carrier.of(call.reads[0]).reshape(carrier.graph.shapes[call.writes[0]])]


def _with_labels(carrier: Carrier, argument: Any) -> Any:
    if isinstance(argument, Ref):
        return carrier.of(argument.value)
    if isinstance(argument, tuple | list):
        return type(argument)(_with_labels(carrier, item) for item in argument)
    if isinstance(argument, dict):
        return {name: _with_labels(carrier, item) for name, item in argument.items()}
    return argument


def _pad(carrier: Carrier, call: Call) -> list[Tensor]:
    """Zero padding adds nothing; any other constant is a signal of its own; reflection moves elements."""
    mode = call.arguments.get("mode", "constant")
    if mode != "constant":
        return _move(carrier, call)
    filler = FOREIGN if call.arguments.get("value") else NOTHING
    return [torch.nn.functional.pad(carrier.of(call.reads[0]), call.arguments["pad"], value=filler)]


def _keep(carrier: Carrier, call: Call) -> list[Tensor]:
    """An elementwise function that is 0 at 0."""
    return [carrier.of(call.reads[0])]


def _shift(carrier: Carrier, call: Call) -> list[Tensor]:
    """A function of each channel by itself that is not 0 at 0."""
    labels = carrier.of(call.reads[0])
    carrier.spoil(labels, f"passes {call.op}, which does not keep zero at zero")
    return [labels]


def _root(carrier: Carrier, call: Call) -> list[Tensor]:
    """A function that is 0 at 0 and undefined below: a revived unit, whose slope lets it fall below, would give NaN."""
    labels = carrier.of(call.reads[0])
    carrier.spoil(labels, f"passes {call.op}, which is undefined below zero")
    return [labels]


def _clamp(carrier: Carrier, call: Call) -> list[Tensor]:
    low, high = call.arguments.get("min"), call.arguments.get("max")
    low = call.arguments.get("min_val", low)
    high = call.arguments.get("max_val", high)
    numbers = all(bound is None or isinstance(bound, int | float) for bound in (low, high))
    if numbers and (low is None or low <= 0) and (high is None or high >= 0):
        return _keep(carrier, call)
    return _shift(carrier, call)


def _power(carrier: Carrier, call: Call) -> list[Tensor]:
    exponent = call.arguments.get("exponent")
    if not isinstance(exponent, int | float) or exponent <= 0:
        return _shift(carrier, call)
    return (_keep if float(exponent).is_integer() else _root)(carrier, call)


def _add(carrier: Carrier, call: Call) -> list[Tensor]:
    if len(call.reads) < 2:
        addend = call.args[1] if len(call.args) > 1 else None
        return (_keep if addend == 0 else _shift)(carrier, call)
    left, right = torch.broadcast_tensors(*(carrier.of(value) for value in call.reads[:2]))
    for one, other in ((left, right), (right, left)):
        met = (one > 0) & (other != NOTHING) & (other != one)
        carrier.spoil(one[met], "is added to another signal (a residual sum)")
    return [_joined(left, right)]


def _multiply(carrier: Carrier, call: Call) -> list[Tensor]:
    if len(call.reads) < 2:
        return _keep(carrier, call)
    left, right = torch.broadcast_tensors(*(carrier.of(value) for value in call.reads[:2]))
    clash = (left > 0) & (right > 0) & (left != right)
    for one in (left, right):
        carrier.spoil(one[clash], "is multiplied by another unit")
    joined = _joined(left, right)
    return [torch.where((left == NOTHING) | (right == NOTHING), float(NOTHING), joined)]


def _divide(carrier: Carrier, call: Call) -> list[Tensor]:
    if len(call.reads) > 1:
        divisor = carrier.of(call.reads[1])
        carrier.spoil(divisor[divisor > 0], "divides another signal")
    labels = carrier.of(call.reads[0])
    return [torch.broadcast_to(labels, carrier.graph.shapes[call.writes[0]])]


def _joined(left: Tensor, right: Tensor) -> Tensor:
    """One label an element: the unit's, where only one side has a unit; foreign where two units meet."""
    joined = torch.where(left > 0, left, right)
    joined = torch.where((left == FOREIGN) & (right <= 0), float(FOREIGN), joined)
    clash = (left > 0) & (right > 0) & (left != right)
    return torch.where(clash, float(FOREIGN), joined)


def _pool(carrier: Carrier, call: Call) -> list[Tensor]:
    """Pooling and resizing act on each channel by itself: every position of the output has the channel's label."""
    labels = carrier.of(call.reads[0])
    spatial = _spatial_rank(call)
    shape = carrier.graph.shapes[call.writes[0]]
    flat = labels.flatten(labels.dim() - spatial)
    if flat.shape[-1] == 0:
        return [torch.full(shape, float(FOREIGN))]
    channel = _one_label(carrier, flat, call)
    return [channel.reshape(*channel.shape, *[1] * spatial).expand(shape)]


def _reduce(carrier: Carrier, call: Call) -> list[Tensor]:
    """A mean or sum over positions; over units it would mix them."""
    labels = carrier.of(call.reads[0])
    dims = call.arguments.get("dim")
    if dims is None or dims == []:
        dims = list(range(labels.dim()))
    dims = [dim % max(labels.dim(), 1) for dim in ([dims] if isinstance(dims, int) else dims)]
    kept = [dim for dim in range(labels.dim()) if dim not in dims]
    flat = labels.permute(*kept, *dims).flatten(len(kept)) if dims else labels.unsqueeze(-1)
    if flat.shape[-1] == 0:
        return []
    reduced = _one_label(carrier, flat, call)
    return [reduced.reshape(shape) for shape in [carrier.graph.shapes[value] for value in call.writes[:1]]]


def _one_label(carrier: Carrier, flat: Tensor, call: Call) -> Tensor:
    """`one_label`, with the units that stand together spoiled."""
    labels, mixed = one_label(flat)
    carrier.spoil(flat[mixed], f"is mixed with other signals by {call.op}")
    return labels


def _spatial_rank(call: Call) -> int:
    return next((int(digit) for digit in call.op if digit.isdigit()), 2)


_MOVES = """
    flatten unflatten permute transpose t movedim moveaxis swapaxes swapdims squeeze
    unsqueeze expand contiguous clone detach alias lift_fresh slice select narrow split split_with_sizes chunk
    unsafe_chunk unsafe_split tensor_split unbind cat concat stack hstack vstack roll flip repeat tile broadcast_to
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle unfold numpy_T mT T adjoint expand_as
    ravel atleast_1d atleast_2d atleast_3d rot90
""".split()
_KEEPS = """
    dropout feature_dropout alpha_dropout relu relu6 leaky_relu prelu _prelu_kernel gelu silu hardswish mish elu celu
    selu tanh softsign abs neg square sign sin asinh tan atan erf expm1 to _to_copy type_as half float
    double bfloat16 hardshrink softshrink tanhshrink requires_grad_ _conj nan_to_num
""".split()
_POOLS = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d lp_pool2d
    max_pool2d_with_indices max_pool3d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d
    upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa
""".split()
_SHIFTS = """
    batch_norm instance_norm layer_norm group_norm rms_norm sigmoid hardsigmoid softplus exp
""".split()

_TABLE: dict[str, Callable[[Carrier, Call], list[Tensor]]] = {
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "view_as", "reshape_as"), _view),
    **dict.fromkeys(_KEEPS, _keep),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_SHIFTS, _shift),
    **dict.fromkeys(("clamp", "clip", "clamp_min", "clamp_max", "hardtanh"), _clamp),
    "threshold": lambda carrier, call: (_keep if call.activation else _shift)(carrier, call),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("add", "sub", "rsub"), _add),
    **dict.fromkeys(("mean", "sum", "amax", "nansum"), _reduce),
    **dict.fromkeys(("sqrt", "log1p"), _root),
    "pow": _power,
    "mul": _multiply,
    "div": _divide,
}

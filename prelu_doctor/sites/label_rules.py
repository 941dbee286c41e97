"""What every operation does to labels: where its units go, and whether it keeps a zero at zero.

Data movement (flatten, concat, shuffles) is replayed on the labels themselves and so comes out right by construction.
Functions of several operands are told by which of these, being 0, make the result 0 (`ZERO_WHEN`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prelu_doctor.sites.graph import Call, Graph, Ref
from prelu_doctor.sites.label_joins import join, merge
from prelu_doctor.sites.label_products import PRODUCT_RULES
from prelu_doctor.sites.labels import FOREIGN, NOTHING, filled, one_label, thin

if TYPE_CHECKING:
    from prelu_doctor.sites.carrier import Carrier

Rule = Callable[["Carrier", Call], list[Tensor]]
"""Gives the labels of what a call writes, as far as they are known."""


def rule_of(call: Call) -> Rule:
    """The rule for a call.

    Raises:
        KeyError: The operation has none.
    """
    return _RULES[call.op if call.op in _RULES else call.op.removesuffix("_")]


# Moving elements


def _move(carrier: Carrier, call: Call) -> list[Tensor]:
    """Replays an operation that only moves elements."""
    output = call.func(*_with_labels(carrier, call.args), **_with_labels(carrier, call.kwargs))
    return [output] if isinstance(output, Tensor) else list(output)


def _with_labels(carrier: Carrier, argument: Any) -> Any:
    if isinstance(argument, Ref):
        return carrier.of(argument.value)
    if isinstance(argument, tuple | list):
        return type(argument)(_with_labels(carrier, item) for item in argument)
    if isinstance(argument, dict):
        return {name: _with_labels(carrier, item) for name, item in argument.items()}
    return argument


def _view(carrier: Carrier, call: Call) -> list[Tensor]:
    """A view; labels are laid out otherwise in memory than the values, and may need a copy where these need none."""
    return [carrier.of(call.reads[0]).reshape(_shape(carrier, call))]


def _like(carrier: Carrier, call: Call) -> list[Tensor]:
    """Expands or reshapes to what another tensor has."""
    labels, shape = carrier.of(call.reads[0]), _shape(carrier, call)
    return [labels.reshape(shape) if "as" in call.op and call.op != "expand_as" else labels.expand(shape)]


def _cat(carrier: Carrier, call: Call) -> list[Tensor]:
    """A concatenation; labels stay thin along the other axes."""
    parts = [carrier.of(value) for value in call.reads]
    parts = [part for part in parts if part.dim() == len(_shape(carrier, call))]  # cat skips an empty vector
    axis = call.arguments["dim"] % parts[0].dim()
    thinned = [thin(part).expand(*(-1,) * axis, part.shape[axis], *(-1,) * (part.dim() - axis - 1)) for part in parts]
    widest = [max(part.shape[other] for part in thinned) for other in range(parts[0].dim())]
    widest[axis] = -1
    return [torch.cat([part.expand(widest) for part in thinned], axis).expand(_shape(carrier, call))]


def _pad(carrier: Carrier, call: Call) -> list[Tensor]:
    """Zero padding adds nothing; any other constant is a signal of its own; reflection moves elements."""
    mode = call.arguments.get("mode", "constant")
    if mode != "constant":
        return _move(carrier, call)
    filler = FOREIGN if call.arguments.get("value") else NOTHING
    return [torch.nn.functional.pad(carrier.of(call.reads[0]), call.arguments["pad"], value=filler)]


def _pick(carrier: Carrier, call: Call) -> list[Tensor]:
    """Takes elements by index: replayed where the index is a constant; else labels must be the same along its axes."""
    constants = carrier.graph.constants
    given = [value for value in call.reads[1:] if value in constants]
    if len(given) == len(call.reads) - 1:
        return _replayed(carrier.of(call.reads[0]), call, {value: constants[value] for value in given})
    labels = carrier.of(call.reads[0])
    for axis in _picked_axes(call, labels.dim()):
        label, mixed = one_label(thin(labels).movedim(axis, -1))
        if mixed.any():
            raise ValueError("it cannot be told which elements are picked")
        labels = label.unsqueeze(axis).expand(_with_size(label, axis, labels.shape[axis]))
    # Whatever is picked now has the same label, so the first element will do.
    firsts = {value: torch.zeros(carrier.graph.shapes[value], dtype=torch.long) for value in call.reads[1:]}
    return _replayed(labels.expand(carrier.graph.shapes[call.reads[0]]), call, firsts)


def _replayed(labels: Tensor, call: Call, indices: dict[int, Tensor]) -> list[Tensor]:
    tensors = {**indices, call.reads[0]: labels}

    def put(argument: Any) -> Any:
        if isinstance(argument, Ref):
            return tensors[argument.value]
        return type(argument)(map(put, argument)) if isinstance(argument, tuple | list) else argument

    return [call.func(*put(call.args), **{name: put(value) for name, value in call.kwargs.items()})]


def _picked_axes(call: Call, rank: int) -> list[int]:
    if call.op == "index":
        return [axis for axis, index in enumerate(call.arguments["indices"]) if index is not None]
    dim = 0 if call.op == "embedding" else call.arguments.get("dim")
    return list(range(rank)) if dim is None else [dim % rank]


def _with_size(labels: Tensor, axis: int, size: int) -> list[int]:
    sizes = list(labels.shape)
    sizes.insert(axis, size)
    return sizes


def _foreign(carrier: Carrier, call: Call) -> list[Tensor]:
    """Reads no more than the shape."""
    return [filled(_shape(carrier, call), NOTHING if "zeros" in call.op else FOREIGN)]


# Functions of one operand


def _of_one(rule: Rule) -> Rule:
    """The rule of a function of its first operand; units that are read otherwise, as a bound or an index, are mixed."""

    def checked(carrier: Carrier, call: Call) -> list[Tensor]:
        for value in call.reads[1:]:
            if value in carrier.labels and value != call.reads[0]:
                carrier.mixed(carrier.labels[value], f"is read by {call.op} as something other than its input")
        return rule(carrier, call)

    return checked


def _keep(carrier: Carrier, call: Call) -> list[Tensor]:
    """An elementwise function that is 0 at 0."""
    return [carrier.of(call.reads[0])]


def _shift(carrier: Carrier, call: Call) -> list[Tensor]:
    """A function of each channel by itself that is not 0 at 0."""
    labels = carrier.of(call.reads[0])
    carrier.shifted(labels, f"passes {call.op}, which does not keep zero at zero")
    return _keep(carrier, call)


def _root(carrier: Carrier, call: Call) -> list[Tensor]:
    """A function that is 0 at 0 and undefined below: a revived unit, whose slope lets it fall below, would give NaN."""
    if not never_negative(carrier.graph, call.reads[0]):
        carrier.shifted(carrier.of(call.reads[0]), f"passes {call.op}, which is undefined below zero")
    return _keep(carrier, call)


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
    if len(call.reads) != 1 or not isinstance(exponent, int | float) or exponent <= 0:
        return _shift(carrier, call)
    return (_keep if float(exponent).is_integer() else _root)(carrier, call)


def _threshold(carrier: Carrier, call: Call) -> list[Tensor]:
    return (_keep if call.activation else _shift)(carrier, call)


def never_negative(graph: Graph, value: int) -> bool:
    """True where a value was made so that it cannot fall below 0, whatever slopes the rectifiers get."""
    maker = graph.maker(value)
    if maker is None:
        return False
    op = maker.op.removesuffix("_")
    exponent = maker.arguments.get("exponent")
    if op == "pow" and isinstance(exponent, int | float) and exponent % 2 == 0:
        return True
    if op == "mul":
        other = maker.arguments["other"]
        factors = set(maker.reads)
        same = len(factors) == 1 and len(maker.reads) == 2
        return same or (
            all(never_negative(graph, factor) for factor in factors) and (isinstance(other, Ref) or other >= 0)
        )
    return op in _POSITIVE or (op in _SIGN_KEEPING and never_negative(graph, maker.reads[0]))


# Functions of several operands, element by element


def _elementwise(carrier: Carrier, call: Call) -> list[Tensor]:
    """A function of several operands, as `ZERO_WHEN` tells it."""
    op = _plain(call)
    operands = {name: labels for name in _OPERANDS if (labels := _operand(carrier, call, name)) is not None}
    tensors = {call.value(name) for name in operands} - {None}
    if not tensors.issuperset(call.reads):
        raise ValueError(f"{call.op} reads more than {list(operands)}")
    off_zero = f"passes {call.op}, which does not keep zero at zero"
    reason = off_zero if len(tensors) == 1 else _MEETINGS.get(op, f"meets another signal in {call.op}")
    return [join(carrier, operands, ZERO_WHEN[op], reason).expand(_shape(carrier, call))]


_OPERANDS = ("self", "other", "end", "weight", "tensor1", "tensor2", "mask", "value", "condition")


def _operand(carrier: Carrier, call: Call, name: str) -> Tensor | None:
    argument = call.arguments.get(name)
    if isinstance(argument, Ref):
        return carrier.of(argument.value)
    return None if argument is None else filled((), NOTHING if argument == 0 else FOREIGN)


def _compare(carrier: Carrier, call: Call) -> list[Tensor]:
    """A comparison: keeps zero at False or it does not."""
    if len(call.reads) == 1:
        other = call.arguments["other"]
        return (_shift if _COMPARISONS[_plain(call)](0, other) else _keep)(carrier, call)
    return _elementwise(carrier, call)


_COMPARISONS = {name: getattr(operator, name) for name in ("gt", "lt", "ge", "le", "eq", "ne")}


def _minimum(carrier: Carrier, call: Call) -> list[Tensor]:
    """The minimum of a unit and something that is never negative is 0 where the unit is."""
    one, other = call.reads
    sets: list[tuple[str, ...]] = [("self", "other")]
    sets += [("self",)] if never_negative(carrier.graph, other) else []
    sets += [("other",)] if never_negative(carrier.graph, one) else []
    operands = {"self": carrier.of(one), "other": carrier.of(other)}
    return [join(carrier, operands, sets, f"meets another signal in {call.op}").expand(_shape(carrier, call))]


def _gate(carrier: Carrier, call: Call) -> list[Tensor]:
    """`glu`: the first half times the sigmoid of the second."""
    signal, gate = carrier.of(call.reads[0]).chunk(2, call.arguments["dim"])
    labels = join(carrier, {"signal": signal, "gate": gate}, [("signal",)], "is the gate of another signal")
    return [labels.expand(_shape(carrier, call))]


# Functions of many elements


def _pool(carrier: Carrier, call: Call) -> list[Tensor]:
    """Pooling and resizing act on each channel by itself."""
    labels = carrier.of(call.reads[0])
    return [_within_channels(carrier, call, labels, labels.dim() - _spatial_rank(call))]


def _sample_grid(carrier: Carrier, call: Call) -> list[Tensor]:
    """Samples each channel at points that are not known here."""
    return [_within_channels(carrier, call, carrier.of(call.reads[0]), 2, replay=False)]


def _within_channels(carrier: Carrier, call: Call, labels: Tensor, leading: int, *, replay: bool = True) -> Tensor:
    """Labels of an operation on the axes behind the leading ones: one label each; none where only padding is seen."""
    shape = _shape(carrier, call)
    flat = thin(labels).flatten(leading)
    if 0 in labels.shape:
        return filled(shape, FOREIGN)
    label = merge(carrier, flat, call.op)
    label = label.reshape(*label.shape, *[1] * (len(shape) - leading))
    if replay and bool((flat == NOTHING).any()) and not bool((flat == NOTHING).all()):
        present = (labels != NOTHING).float()
        seen = call.func(present, *call.args[1:], **call.kwargs)
        seen = seen if isinstance(seen, Tensor) else seen[0]
        return torch.where(seen != 0, label, float(NOTHING))
    return label.expand(shape)


def _fold(carrier: Carrier, call: Call) -> list[Tensor]:
    """Adds overlapping patches up: `[N, C x K, L]` to images, each channel by itself."""
    labels = carrier.of(call.reads[0])
    shape = _shape(carrier, call)
    window = call.arguments["kernel_size"]
    channels = labels.unflatten(-2, (-1, window[0] * window[1])).flatten(-2)
    label = merge(carrier, channels, call.op)[..., None, None]
    seen = call.func((labels != NOTHING).float(), *call.args[1:], **call.kwargs)
    return [torch.where(seen != 0, label.expand(shape), float(NOTHING))]


def _extreme(carrier: Carrier, call: Call) -> list[Tensor]:
    """`max` and `min`, of one tensor or of two."""
    if "other" not in call.arguments:
        return _of_one(_reduce)(carrier, call)
    operands = {"self": carrier.of(call.reads[0]), "other": carrier.of(call.reads[1])}
    labels = join(carrier, operands, [("self", "other")], f"meets another signal in {call.op}")
    return [labels.expand(_shape(carrier, call))]


def _reduce(carrier: Carrier, call: Call) -> list[Tensor]:
    """A mean or sum over positions; over units it would mix them."""
    labels = thin(carrier.of(call.reads[0]))
    dims = call.arguments.get("dim")
    if dims is None or dims == []:
        dims = list(range(labels.dim()))
    dims = [dim % max(labels.dim(), 1) for dim in ([dims] if isinstance(dims, int) else dims)]
    kept = [dim for dim in range(labels.dim()) if dim not in dims]
    flat = labels.permute(*kept, *dims).flatten(len(kept)) if dims else labels.unsqueeze(-1)
    if 0 in carrier.graph.shapes[call.reads[0]]:
        return []
    reduced = merge(carrier, flat, call.op)
    if len(_shape(carrier, call)) != len(kept):
        for dim in sorted(dims):
            reduced = reduced.unsqueeze(dim)
    return [reduced.expand(_shape(carrier, call))]


def _along(carrier: Carrier, call: Call) -> list[Tensor]:
    """A function of all elements along one axis, 0 where all are 0; the output has that axis too."""
    labels = carrier.of(call.reads[0])
    dim = call.arguments["dim"] % labels.dim()
    label = merge(carrier, thin(labels).movedim(dim, -1), call.op).unsqueeze(dim)
    return [label.expand(_shape(carrier, call))]


def _softmax(carrier: Carrier, call: Call) -> list[Tensor]:
    labels = carrier.of(call.reads[0])
    carrier.shifted(labels, f"passes {call.op}, which does not keep zero at zero")
    return _along(carrier, call)


def _spatial_rank(call: Call) -> int:
    return next((int(digit) for digit in call.op if digit.isdigit()), 2)


# Tables

_MOVES = """
    flatten unflatten permute transpose t movedim moveaxis swapaxes swapdims squeeze
    unsqueeze expand slice select narrow split split_with_sizes chunk
    unsafe_chunk unsafe_split tensor_split unbind stack hstack vstack dstack column_stack roll flip fliplr flipud repeat
    tile broadcast_to pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle unfold numpy_T mT T adjoint
    ravel atleast_1d atleast_2d atleast_3d rot90 broadcast_tensors meshgrid block_diag
    tril triu diagonal diag_embed diag im2col
""".split()
_MOVES_LIKE = "expand_as view_as reshape_as type_as".split()
"""Read their second operand for its shape or type alone."""
_SHAPE_ONLY = """
    zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros new_ones new_full new_empty
""".split()
_PICKS = "index index_select gather take_along_dim take embedding repeat_interleave".split()
_KEEPS = """
    dropout feature_dropout alpha_dropout native_dropout relu relu6 leaky_relu rrelu prelu _prelu_kernel gelu silu
    hardswish mish elu celu selu tanh softsign abs absolute neg negative positive square sign sgn sin sinh arcsin asin
    asinh tan atan arctan arcsinh erf expm1 to _to_copy half float double bfloat16 int long bool hardshrink
    softshrink tanhshrink requires_grad_ _conj conj resolve_conj resolve_neg nan_to_num ceil floor round trunc fix frac
    deg2rad rad2deg contiguous clone detach alias lift_fresh
""".split()
_POOLS = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices fractional_max_pool2d
    fractional_max_pool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa
""".split()
_REDUCTIONS = """
    mean sum nansum nanmean amax amin median nanmedian prod std var linalg_vector_norm norm
    frobenius_norm any count_nonzero
""".split()
_ALONG = "cumsum cumprod sort topk msort diff".split()
_SHIFTS = """
    batch_norm instance_norm layer_norm group_norm rms_norm sigmoid hardsigmoid softplus log_sigmoid exp exp2 cos cosh
    log log2 log10 reciprocal rsqrt erfc logical_not acos sinc
""".split()
_POSITIVE = "abs absolute square sigmoid hardsigmoid exp exp2 softplus softmax linalg_vector_norm norm sqrt".split()
_SIGN_KEEPING = """
    relu relu6 leaky_relu prelu dropout sign sgn mean sum amax amin cumsum flatten view reshape permute transpose select
    slice squeeze unsqueeze expand contiguous clone detach to _to_copy
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d
""".split()

ZERO_WHEN: dict[str, tuple[tuple[str, ...], ...]] = {
    **dict.fromkeys(
        ("add", "sub", "rsub", "maximum", "fmax", "fmin", "hypot", "atan2", "logical_or", "logical_xor", "bitwise_or"),
        (("self", "other"),),
    ),
    **dict.fromkeys(("gt", "lt", "ne"), (("self", "other"),)),
    **dict.fromkeys(("ge", "le", "eq"), ()),
    **dict.fromkeys(("mul", "logical_and", "bitwise_and"), (("self",), ("other",))),
    **dict.fromkeys(("div", "floor_divide", "fmod", "remainder", "copysign"), (("self",),)),
    "lerp": (("self", "end"), ("self", "weight")),
    "addcmul": (("self", "tensor1"), ("self", "tensor2")),
    "addcdiv": (("self", "tensor1"),),
    "where": (("self", "other"), ("condition", "other")),
    "masked_fill": (("self", "value"),),
}
"""The sets of operands that, all of them being 0, make the result 0 whatever the others are."""

_ALIASES = {"multiply": "mul", "subtract": "sub", "divide": "div", "true_divide": "div"}
_MEETINGS = {
    **dict.fromkeys(("add", "sub", "rsub"), "is added to another signal (a residual sum)"),
    "mul": "is multiplied by another unit",
    "div": "divides another signal",
}


def _plain(call: Call) -> str:
    op = call.op.removesuffix("_")
    return _ALIASES.get(op, op)


def _shape(carrier: Carrier, call: Call) -> tuple[int, ...]:
    """Shape of the first thing that a call writes."""
    return carrier.graph.shapes[call.writes[0]]


_OF_ONE: dict[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _view),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(_PICKS, _pick),
    **dict.fromkeys(_KEEPS, _keep),
    **dict.fromkeys(_SHIFTS, _shift),
    **dict.fromkeys(("sqrt", "log1p", "acosh"), _root),
    **dict.fromkeys(("clamp", "clip", "clamp_min", "clamp_max", "hardtanh"), _clamp),
    "threshold": _threshold,
    "pow": _power,
    "glu": _gate,
    **dict.fromkeys(_POOLS, _pool),
    "grid_sampler": _sample_grid,
    "col2im": _fold,
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_ALONG, _along),
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "_log_softmax"), _softmax),
}

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_MOVES_LIKE, _like),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    **dict.fromkeys(_SHAPE_ONLY, _foreign),
    **{op: _of_one(rule) for op, rule in _OF_ONE.items()},
    **dict.fromkeys((*ZERO_WHEN, *_ALIASES), _elementwise),
    **dict.fromkeys(_COMPARISONS, _compare),
    "minimum": _minimum,
    **dict.fromkeys(("max", "min"), _extreme),
    **PRODUCT_RULES,
}

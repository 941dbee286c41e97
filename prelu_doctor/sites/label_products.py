"""What products of two signals do to labels: matrix products, `einsum`, attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from prelu_doctor.sites.equations import equation
from prelu_doctor.sites.graph import Call, Ref
from prelu_doctor.sites.label_joins import contract, join
from prelu_doctor.sites.labels import FOREIGN, filled

if TYPE_CHECKING:
    from prelu_doctor.sites.carrier import Carrier


def _einsum(carrier: Carrier, call: Call) -> list[Tensor]:
    labels = [carrier.of(value) for value in call.reads]
    operands, output = equation(call, [factor.dim() for factor in labels])
    return _expanded(carrier, call, contract(carrier, call.op, list(zip(labels, operands, strict=True)), output))


def _matmul(carrier: Carrier, call: Call) -> list[Tensor]:
    """Any product of two tensors that contracts the last axis of one with the last but one of the other."""
    left, right = (carrier.of(value) for value in call.reads[-2:])
    product = contract(carrier, call.op, [(left, _rows(left)), (right, _columns(right))], _product_axes(left, right))
    return _expanded(carrier, call, product)


def _rows(labels: Tensor) -> list[str]:
    return [*_batch(labels), "i", "k"][-labels.dim() :]


def _columns(labels: Tensor) -> list[str]:
    return [*_batch(labels), "k", "j"] if labels.dim() > 1 else ["k"]


def _batch(labels: Tensor) -> list[str]:
    return [f".{place:02}" for place in range(labels.dim() - 2, 0, -1)]


def _product_axes(left: Tensor, right: Tensor) -> list[str]:
    batch = max(_batch(left), _batch(right), key=len)
    return [*batch, *(["i"] if left.dim() > 1 else []), *(["j"] if right.dim() > 1 else [])]


def _product_added(carrier: Carrier, call: Call) -> list[Tensor]:
    """`addmm` and its kin: a product, and something added to it."""
    left, right = (carrier.of(value) for value in call.reads[1:3])
    output = _product_axes(left, right)
    if call.op.removesuffix("_") == "addbmm":
        output = ["i", "j"]
    product = contract(carrier, call.op, [(left, _rows(left)), (right, _columns(right))], output)
    if call.arguments.get("beta") == 0:
        return _expanded(carrier, call, product)
    added = carrier.of(call.reads[0])
    total = join(carrier, {"self": added, "product": product}, [("self", "product")], _SUM)
    return _expanded(carrier, call, total)


_SUM = "is added to another signal (a residual sum)"


def _outer(carrier: Carrier, call: Call) -> list[Tensor]:
    left, right = (carrier.of(value) for value in call.reads)
    return _expanded(carrier, call, contract(carrier, call.op, [(left, ["i"]), (right, ["j"])], ["i", "j"]))


def _tensordot(carrier: Carrier, call: Call) -> list[Tensor]:
    left, right = (carrier.of(value) for value in call.reads[:2])
    dims = call.arguments["dims_self"], call.arguments["dims_other"]
    names = [[f"{side}{axis}" for axis in range(labels.dim())] for side, labels in (("l", left), ("r", right))]
    for number, (one, other) in enumerate(zip(*dims, strict=True)):
        names[0][one] = names[1][other] = f"k{number}"
    output = [name for side in names for name in side if name[0] != "k"]
    return _expanded(carrier, call, contract(carrier, call.op, [(left, names[0]), (right, names[1])], output))


def _bilinear(carrier: Carrier, call: Call) -> list[Tensor]:
    """`sum of one[i] weight[o, i, j] other[j]`, and a bias."""
    one, other, weight = (carrier.of(value) for value in call.reads[:3])
    batch = [f".{place:02}" for place in range(one.dim() - 1, 0, -1)]
    factors = [(one, [*batch, "i"]), (other, [*batch, "j"]), (weight, ["o", "i", "j"])]
    product = contract(carrier, call.op, factors, [*batch, "o"])
    if len(call.reads) > 3:
        bias = carrier.of(call.reads[3])
        product = join(carrier, {"product": product, "bias": bias}, [("product", "bias")], _SUM)
    return _expanded(carrier, call, product)


def _attention(carrier: Carrier, call: Call) -> list[Tensor]:
    """Queries, keys and masks say how much of each value is taken: where a value's column is 0, so is the output's."""
    value = carrier.of(_value_of(call, "value"))
    for name, reason in _ROLES.items():
        read = call.arguments.get(name)
        if isinstance(read, Ref) and read.value in carrier.labels:
            carrier.mixed(carrier.of(read.value), f"is read as {reason} of attention, whose softmax is not 0 at 0")
    heads, queries = value.shape[:-2], carrier.graph.shapes[call.writes[0]][-2]
    if call.arguments.get("enable_gqa"):
        value = value.repeat_interleave(carrier.graph.shapes[call.writes[0]][-3] // value.shape[-3], -3)
        heads = value.shape[:-2]
    scores = filled((*heads, queries, value.shape[-2]), FOREIGN)
    output = _product_axes(scores, value)
    return _expanded(
        carrier, call, contract(carrier, call.op, [(scores, _rows(scores)), (value, _columns(value))], output)
    )


_ROLES = {"query": "a query", "key": "a key", "attn_mask": "a mask"}


def _value_of(call: Call, name: str) -> int:
    value = call.value(name)
    assert value is not None
    return value


def _expanded(carrier: Carrier, call: Call, labels: Tensor) -> list[Tensor]:
    return [labels.expand(carrier.graph.shapes[call.writes[0]])]


PRODUCT_RULES: dict[str, Callable[[Carrier, Call], list[Tensor]]] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), _matmul),
    **dict.fromkeys(("addmm", "addmv", "baddbmm", "addbmm"), _product_added),
    **dict.fromkeys(("outer", "ger"), _outer),
    "einsum": _einsum,
    "tensordot": _tensordot,
    "bilinear": _bilinear,
    "scaled_dot_product_attention": _attention,
}

"""What an ONNX file claims of itself, held against what it has: sizes of tensors, depth, functions, domains."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from onnx import FunctionProto, ModelProto, NodeProto, TensorProto

from prelu_doctor.checkpoints.onnx_protobuf import all_nodes, messages
from prelu_doctor.escaping import escaped

DEEPEST = 16
"""Graphs inside graphs, functions inside functions."""
MOST_NODES = 200_000
"""Nodes once every function stands where it is called: ten functions of ten calls each are ten billion nodes."""

_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""What onnxruntime brings itself."""
_REACHING_OUT = frozenset({("com.microsoft", "EPContext"), ("com.microsoft", "PythonOp")})
"""Operators of its own that read files or run code."""

_BITS: dict[int, int] = {
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 32),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.COMPLEX64), 64),
    TensorProto.COMPLEX128: 128,
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16), 16),
    **dict.fromkeys((TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL), 8),
    **{number: 8 for name, number in TensorProto.DataType.items() if name.startswith("FLOAT8")},
    **{number: 4 for name, number in TensorProto.DataType.items() if name in ("INT4", "UINT4", "FLOAT4E2M1")},
    **{number: 2 for name, number in TensorProto.DataType.items() if name in ("INT2", "UINT2")},
}
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def claimed_size(tensor: TensorProto) -> int:
    """Bytes of data that a tensor's shape and type ask for.

    Raises:
        ValueError: A negative size, or a type that is not known.
    """
    if any(size < 0 for size in tensor.dims):
        raise ValueError(f"has the shape {list(tensor.dims)[:8]}")
    if tensor.data_type not in _BITS:
        raise ValueError(f"is of the unknown type {tensor.data_type}")
    return -(-math.prod(map(int, tensor.dims)) * _BITS[tensor.data_type] // 8)


def claim_problem(tensor: TensorProto) -> str:
    """How the data inside a tensor differs from what its shape and type ask for; empty where it does not."""
    elements = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        held = len(tensor.string_data)
        return "" if held == elements else f"claims {elements} texts and has {held}"
    try:
        size = claimed_size(tensor)
    except ValueError as problem:
        return str(problem)
    if tensor.HasField("raw_data"):
        held = len(tensor.raw_data)
        return "" if held == size else f"claims {size} bytes and has {held}"
    held = max(len(getattr(tensor, field)) for field in _FIELDS)
    bits = _BITS[tensor.data_type]
    complex_numbers = tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
    wanted = size if bits < 8 else elements * (2 if complex_numbers else 1)
    return "" if held == wanted else f"claims {wanted} numbers and has {held}"


def structure_problem(model: ModelProto) -> str:
    """What in a model's structure no runtime should be given; empty where nothing is."""
    if len(model.graph.node) > MOST_NODES:  # asked first, because looking at each takes time
        return f"{len(model.graph.node):,} nodes (at most {MOST_NODES:,})"
    return (
        _text_problem(model)
        or _domain_problem(model)
        or ("" if _depth(model.graph) <= DEEPEST else _TOO_DEEP)
        or _function_problem(model)
    )


_TOO_DEEP = f"graphs inside graphs, more than {DEEPEST} deep"


def _text_problem(model: ModelProto) -> str:
    """Text that is none: protocol buffers then hand over bytes, which nobody expects."""
    for message in messages(model):
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING:
                texts = [value] if isinstance(value, str | bytes) else value
                if any(isinstance(text, bytes) for text in texts):
                    return f"a {field.name} that is not UTF-8"
    return ""


def _domain_problem(model: ModelProto) -> str:
    defined = {_key(function) for function in model.functions}
    for node in all_nodes(model):
        name = f"'{escaped(node.op_type)}' of the domain '{escaped(node.domain)}'"
        if _called(node) in defined:
            continue
        if node.domain not in _DOMAINS:
            return f"the operator {name}, which is neither ONNX's own nor defined in the file"
        if (node.domain, node.op_type) in _REACHING_OUT:
            return f"the operator {name}, which reads other files or runs code"
    return ""


def _function_problem(model: ModelProto) -> str:
    """Functions that call themselves, or each other so often that the whole does not fit into memory."""
    functions = {_key(function): function for function in model.functions}
    if len(functions) < len(model.functions):
        return "two functions of one name"
    sizes: dict[tuple[str, str, str], int] = {}
    visiting: list[tuple[str, str, str]] = []

    def size_of(key: tuple[str, str, str]) -> int:
        if key in visiting:
            raise RecursionError(f"the function '{escaped(key[1])}', which calls itself")
        if len(visiting) >= DEEPEST:
            raise RecursionError(f"functions inside functions, more than {DEEPEST} deep")
        if key not in sizes:
            visiting.append(key)
            function = functions[key]
            if max(_depth(function), 0) > DEEPEST:
                raise RecursionError(_TOO_DEEP)
            sizes[key] = inlined(node for node in messages(function) if isinstance(node, NodeProto))
            visiting.pop()
        return sizes[key]

    def inlined(nodes: Iterable[NodeProto]) -> int:
        return sum(size_of(_called(node)) if _called(node) in functions else 1 for node in nodes)

    try:
        for key in functions:
            size_of(key)
        total = inlined(node for node in messages(model.graph) if isinstance(node, NodeProto))
    except RecursionError as problem:
        return str(problem)
    return f"functions that unfold to {total:,} nodes (at most {MOST_NODES:,})" if total > MOST_NODES else ""


def _depth(root: Any) -> int:
    """How many graphs lie inside each other below a graph or function."""
    inner = [
        graph
        for node in root.node
        for attribute in node.attribute
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
    ]
    return 1 + max((_depth(graph) for graph in inner), default=0)


def _key(function: FunctionProto) -> tuple[str, str, str]:
    return (function.domain, function.name, function.overload)


def _called(node: NodeProto) -> tuple[str, str, str]:
    return (node.domain, node.op_type, node.overload)

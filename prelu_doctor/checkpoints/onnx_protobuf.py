"""An ONNX model as protocol buffers: walking them, whatever is nested in what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto


def messages(root: Any) -> Iterator[Any]:
    """Every protocol buffer under `root`, itself first: complete, whatever fields a newer ONNX adds."""
    yield root
    for field, value in root.ListFields():
        if field.message_type is None:
            continue
        for child in [value] if hasattr(value, "ListFields") else value:
            yield from messages(child)


def all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """The nodes of the main graph, of all graphs inside it and of all functions."""
    return (message for message in messages(model) if isinstance(message, NodeProto))


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in the file: initialisers, sparse ones, constants in attributes, at any depth."""
    return (message for message in messages(model) if isinstance(message, TensorProto))


def opset_of(model: ModelProto) -> int:
    """Version of the default operator set; 0 where the file names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)

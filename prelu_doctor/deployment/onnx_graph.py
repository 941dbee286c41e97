"""A fresh ONNX graph, made fit to be given away."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Sequence

from onnx import GraphProto, ModelProto, NodeProto, helper

from prelu_doctor.checkpoints.onnx_protobuf import all_nodes, messages

WRAPPER = "model"
"""Under which attribute the exporter's wrapper holds the user's model."""


def tidy(model: ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name values and nodes of a fresh export after the user's own names, and drop all metadata, in place.

    `PRelu` nodes get the name of their module (`features.2/PRelu`), by which parity compares their slopes. The
    metadata holds stack traces with absolute paths: they would tell where the file was made, and differ there.

    Args:
        model: What the exporter made.
        inputs: Names for the graph's inputs, in order.
        outputs: Names for the graph's outputs, in order. A name that is taken already gets a number.
    """
    _name_prelu_nodes(model)
    _give_outputs_their_own_values(model.graph)
    _rename(model, _new_names(model.graph, inputs, outputs))
    for message in messages(model):
        for field in ("metadata_props", "doc_string"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)


def _name_prelu_nodes(model: ModelProto) -> None:
    taken: set[str] = set()
    for node in (node for node in all_nodes(model) if node.op_type == "PRelu"):
        path = _module_path(node)
        # The second call of a shared module is its path with #2.
        calls = itertools.chain([f"{path}/PRelu"], (f"{path}/PRelu#{call}" for call in itertools.count(2)))
        node.name = next(name for name in calls if name not in taken)
        taken.add(node.name)


def _give_outputs_their_own_values(graph: GraphProto) -> None:
    """An output that is an input, or another output once more, gets an `Identity`: torch 2.10 writes none."""
    taken = {value.name for value in graph.input}
    for number, value in enumerate(graph.output):
        if value.name in taken:
            own = f"{value.name}_output_{number}"
            graph.node.append(helper.make_node("Identity", [value.name], [own]))
            value.name = own
        taken.add(value.name)


def _module_path(node: NodeProto) -> str:
    """`['', 'model', 'model.features.2', 'prelu']` -> `features.2`; a repeated call may read `model.act@1`."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
    names = ast.literal_eval(scopes)
    path = names[-2] if len(names) > 1 else ""
    return re.sub(r"@\d+", "", path).removeprefix(WRAPPER).removeprefix(".")


def _new_names(graph: GraphProto, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, str]:
    """Old name -> new name for every value; who comes first keeps the name that two would like."""
    wanted = dict(zip((value.name for value in graph.input), inputs, strict=True))
    for value, name in zip(graph.output, outputs, strict=True):
        wanted.setdefault(value.name, name)
    for tensor in graph.initializer:
        wanted.setdefault(tensor.name, tensor.name.removeprefix(f"{WRAPPER}."))
    for message in messages(graph):
        for name in message.output if isinstance(message, NodeProto) else ():
            wanted.setdefault(name, name)
    wanted.pop("", None)  # an optional output that is left out
    return _distinct(wanted)


def _distinct(wanted: dict[str, str]) -> dict[str, str]:
    taken: set[str] = set()
    final = {}
    for old, name in wanted.items():
        numbered = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(1)))
        final[old] = next(candidate for candidate in numbered if candidate not in taken)
        taken.add(final[old])
    return final


def _rename(model: ModelProto, names: dict[str, str]) -> None:
    for message in messages(model.graph):
        if isinstance(message, NodeProto):
            message.input[:] = [names.get(name, name) for name in message.input]
            message.output[:] = [names.get(name, name) for name in message.output]
        elif message.DESCRIPTOR.name in ("ValueInfoProto", "TensorProto") and message.name in names:
            message.name = names[message.name]

"""The graphs of a model: the main one, and the bodies of If, Loop and Scan inside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper


@dataclass(eq=False)
class Body:
    """One graph.

    Attributes:
        graph: The protocol buffer.
        parent: The graph around it; None for the main one.
        node: The node of that graph whose body it is; None for the main one.
        key: Place in the model: for each node on the way its index and the name of its attribute.
    """

    graph: GraphProto
    parent: Body | None = None
    node: NodeProto | None = None
    key: tuple[tuple[int, str], ...] = ()
    inner: dict[tuple[int, str], Body] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`main`, `If`, `Loop`, `Scan`, or another operator that has bodies."""
        return self.node.op_type if self.node is not None and self.node.domain in STANDARD else "main" * (not self.key)

    @property
    def lead_and_states(self) -> tuple[int, int]:
        """Of a loop's body: how many inputs stand before its states, and how many states there are.

        A Loop has the number of the turn and whether to go on; in its outputs one stands before the states. A Scan has
        one slice of each of its sequences behind them.
        """
        inputs = len(self.graph.input)
        if self.kind == "Loop":
            return 2, inputs - 2
        assert self.node is not None
        return 0, inputs - int(attributes_of(self.node).get("num_scan_inputs", 0))

    def inside(self) -> Iterator[Body]:
        """The body and all bodies inside it, outermost first."""
        yield self
        for body in self.inner.values():
            yield from body.inside()

    def of_node(self, index: int) -> dict[str, Body]:
        """The bodies of one of its nodes, by attribute."""
        return {name: body for (place, name), body in self.inner.items() if place == index}


STANDARD = ("", "ai.onnx")
"""The names of ONNX's own domain."""


def bodies_of(model: ModelProto) -> Body:
    """The main graph of a model, with all bodies inside it."""
    return _filled(Body(model.graph))


def _filled(body: Body) -> Body:
    for index, node in enumerate(body.graph.node):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                place = (index, attribute.name)
                body.inner[place] = _filled(Body(attribute.g, body, node, (*body.key, place)))
    return body


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """A node's attributes by name; graphs left out."""
    graphs = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    return {
        attribute.name: helper.get_attribute_value(attribute)
        for attribute in node.attribute
        if attribute.type not in graphs
    }

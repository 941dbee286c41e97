"""Follows units through operations by carrying labels from value to value."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from prelu_doctor.sites.graph import Call, Graph
from prelu_doctor.sites.label_rules import rule_of
from prelu_doctor.sites.labels import FOREIGN, NOTHING, filled

Told = Callable[[Tensor, str], None]
"""Told of labels, and what has happened to them."""


def _nobody(_labels: Tensor, _reason: str) -> None:
    """Does not want to know."""


class Carrier:
    """Carries labels along the calls of a graph.

    Args:
        graph: The traced forward.
        shifted: Called with labels whose elements need no longer be 0 where their unit is, and the reason. They still
            stand wherever the unit has a say.
        mixed: Called with labels whose units have a say in elements that do not bear their label, and the reason.
    """

    def __init__(self, graph: Graph, shifted: Told = _nobody, mixed: Told = _nobody) -> None:
        self.graph = graph
        self.labels: dict[int, Tensor] = {}
        self.shifted = shifted
        self.mixed = mixed
        self._lost: dict[int, tuple[str, list[Tensor]]] = {}

    def of(self, value: int) -> Tensor:
        """The labels of a value: foreign where none were carried to it."""
        known = self.labels.get(value)
        return filled(self.graph.shapes[value], FOREIGN) if known is None else known

    def start(self, call: Call) -> None:
        """Labels what a call writes if that is always 0, as the first state of a loop over time is."""
        if call.op in _ZEROS:
            self.labels[call.writes[0]] = filled(self.graph.shapes[call.writes[0]], NOTHING)

    def carry(self, call: Call) -> None:
        """Labels what a call writes from what it reads; where the operation is not understood, its units are mixed."""
        try:
            outputs = rule_of(call)(self, call)
        except (KeyError, RuntimeError, TypeError, IndexError, ValueError):
            # An operation without a rule, or one whose arguments cannot be replayed on labels.
            outputs = []
            for value in self._labelled(call):
                self.mixed(self.labels[value], f"is read by {call.op}, through which it cannot be followed")
        for value, labels in zip(call.writes, outputs, strict=False):
            # An empty value tells nothing about who reads its units where, with other inputs, it is not empty.
            if tuple(labels.shape) == self.graph.shapes[value] and labels.numel():
                self.labels[value] = labels
        read = [self.labels[value] for value in self._labelled(call)]
        self._lost.update({value: (call.op, read) for value in call.writes if value not in self.labels})

    def give_up_lost(self, values: Iterable[int]) -> None:
        """Notes units behind values that carry their signal without a label, as the indices of a maximum do."""
        for value in values:
            op, read = self._lost.get(value, ("", []))
            for labels in read:
                self.mixed(labels, f"is read through an output of {op} that cannot be followed")

    def _labelled(self, call: Call) -> Iterable[int]:
        return [value for value in dict.fromkeys(call.reads) if value in self.labels]


_ZEROS = {"zeros", "zeros_like", "new_zeros"}

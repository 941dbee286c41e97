"""From the graph of one forward to the list of its sites."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from prelu_doctor.records import Function, Unresolved
from prelu_doctor.sites.activations import Activation, is_activation_module
from prelu_doctor.sites.aliases import aliases_of
from prelu_doctor.sites.graph import Call, Graph, Position
from prelu_doctor.sites.producers import Origin, channel_labels, origin_of, unit_axis_of
from prelu_doctor.sites.spots import NO_SITE, Spot, Spots


@dataclass
class FoundSite:
    """One activation call of the forward; calls that share their producers are merged into it.

    Attributes:
        id: As in the report.
        number: Its place among all sites found, from 0.
        key: What every call of the site has in common, in any forward.
        activation: What rectifier it is.
        position: Where its first call stands.
        calls: Its calls in the traced forward.
        origin: What writes its units.
        unit_axis: Axis of the units in its activation tensor.
        axis_assumed: True where no producer told the axis.
        units: Number of units C.
        rank: Number of axes of its activation tensor.
        dtype: Its data type.
        input_independent: True where the model's input does not reach it.
        producers: Names of the layers that write its units, in forward order.
    """

    id: str
    number: int
    key: tuple[object, ...]
    activation: Activation
    position: Position
    calls: list[Call]
    origin: Origin
    unit_axis: int
    axis_assumed: bool
    units: int
    rank: int
    dtype: torch.dtype
    input_independent: bool
    producers: list[str]


@dataclass
class Sites:
    """The sites of one forward or several, in forward order, and what could not be placed.

    Attributes:
        found: The sites.
        declined: Calls that could not be placed.
        idle: Activation modules that no forward ran, each with all its paths.
        spots: Which of the sites, by their number in `found`, each spot of code serves.
    """

    found: list[FoundSite] = field(default_factory=list)
    declined: list[Unresolved] = field(default_factory=list)
    idle: dict[str, frozenset[str]] = field(default_factory=dict)
    spots: Spots = field(default_factory=Spots)

    def __post_init__(self) -> None:
        self._by_key: dict[tuple[object, ...], int] = {site.key: site.number for site in self.found}
        self._placed: dict[int, int] = {}
        self._empty: dict[str, Unresolved] = {}
        self._numbered = len(self.found)

    @property
    def unresolved(self) -> list[Unresolved]:
        """What the report lists as unresolved."""
        reason = "this module is never called in eval mode on this input"
        return [*self.declined, *self._empty.values(), *(Unresolved(id=path, reason=reason) for path in self.idle)]

    def add(self, graph: Graph, call: Call) -> FoundSite | None:
        """The site of an activation call: an earlier one where they share their producers, else a new one.

        Args:
            graph: The forward so far; everything before the call is known.
            call: An activation call.

        Returns:
            None where the call cannot be placed; the reason is then in `unresolved`.
        """
        number = self._number(graph, call)
        self._placed[call.index] = number
        if number != NO_SITE and call.position is not None:
            self._empty.pop(_basic_id(call.position), None)
        return None if number == NO_SITE else self.found[number]

    def _number(self, graph: Graph, call: Call) -> int:
        origin = origin_of(graph, call)
        key = _key(graph, call, origin)
        number = self._by_key.get(key)
        if number is None:
            return self._new(graph, call, origin, key)
        site = self.found[number]
        if graph.shapes[call.reads[0]][site.unit_axis : site.unit_axis + 1] != (site.units,):
            self.decline(call.position, f"has another number of units than the site {site.id} with the same producers")
            return NO_SITE
        return number

    def _new(self, graph: Graph, call: Call, origin: Origin, key: tuple[object, ...]) -> int:
        assert call.activation is not None
        assert call.position is not None
        shape = graph.shapes[call.reads[0]]
        if _lacks_samples(graph, call):
            entry = _unresolved(call.position, f"acts on an empty batch, of shape {list(shape)}, whenever it is called")
            self._empty.setdefault(entry.id, entry)
            return NO_SITE
        if not shape or 0 in shape:
            self.decline(call.position, f"acts on a tensor of shape {list(shape)}, which holds no units")
            return NO_SITE
        axis = self._unit_axis(graph, call, origin)
        if axis is None and shape == (graph.samples,) and call.reads[0] in graph.from_input:
            self.decline(call.position, "acts on a vector of one number a sample, which has no axis of units")
            return NO_SITE
        site = FoundSite(
            id=self._free_id(_basic_id(call.position)),
            number=len(self.found),
            key=key,
            activation=call.activation,
            position=call.position,
            calls=[],
            origin=origin,
            unit_axis=_assumed_axis(shape) if axis is None else axis,
            axis_assumed=axis is None,
            units=shape[_assumed_axis(shape) if axis is None else axis],
            rank=len(shape),
            dtype=graph.dtypes[call.reads[0]],
            input_independent=call.reads[0] not in graph.from_input,
            producers=self._producer_names(origin),
        )
        self.found.append(site)
        self._by_key[key] = site.number
        return site.number

    def _unit_axis(self, graph: Graph, call: Call, origin: Origin) -> int | None:
        """The axis that the nearest producer tells; behind another activation, the axis that this one has."""
        value = call.reads[0]
        sources = [(layer.call.writes[0], layer.axis) for layer in reversed(origin.layers) if layer.kind != "other"]
        for upstream in reversed(origin.upstream):
            number = self._by_key.get(_key(graph, upstream, origin_of(graph, upstream)))
            if number is not None and not self.found[number].axis_assumed:
                sources.append((upstream.writes[0], self.found[number].unit_axis))
        for written, axis in sources:
            labels = channel_labels(graph, written, axis, origin, value)
            if labels is None:
                continue
            found = unit_axis_of(labels)
            if found is not None:
                return found
            if graph.shapes[written][axis] == 1 and len(graph.shapes[written]) == labels.dim():
                return axis
        return None

    def _producer_names(self, origin: Origin) -> list[str]:
        """Names of the layers; behind nothing but another activation, those of that one's producers."""
        names = list(dict.fromkeys(layer.name for layer in origin.layers))
        if names:
            return names
        upstream = {call.position.path for call in origin.upstream if call.position}
        return [name for site in self.found if site.position.path in upstream for name in site.producers]

    def _free_id(self, wanted: str) -> str:
        taken = {site.id for site in self.found}
        if wanted not in taken:
            return wanted
        stem = wanted.rpartition("#")[0] or wanted
        return next(name for k in range(2, len(taken) + 3) if (name := f"{stem}#{k}") not in taken)

    def decline(self, position: Position | None, reason: str) -> None:
        """Lists a call as unresolved, once."""
        assert position is not None
        entry = _unresolved(position, reason)
        if entry not in self.declined:
            self.declined.append(entry)

    def settle(self, graph: Graph) -> None:
        """Closes a forward: names the sites that it added, and notes what it declined and which modules it ran."""
        _number_single_calls(self.found, self.found[self._numbered :], graph)
        self._numbered = len(self.found)
        for position, reason in graph.declined:
            self.decline(position, reason)
        self.idle = {path: aliases for path, aliases in self.idle.items() if not aliases & graph.ran}
        self._note_spots(graph)
        self._placed.clear()

    def _note_spots(self, graph: Graph) -> None:
        """Notes which calls went to which site; one on an empty batch says nothing of that, and any slope serves it."""
        runs: dict[tuple[tuple[str, ...], Spot], list[int]] = defaultdict(list)
        telling: set[tuple[tuple[str, ...], Spot]] = set()
        for call in graph.activations():
            assert call.position is not None
            number = self._placed.get(call.index, NO_SITE)
            run = call.position.run, Spot(call.position.home, call.position.location)
            runs[run].append(number)
            if number != NO_SITE or not _lacks_samples(graph, call):
                telling.add(run)
                self.spots.modules[call.position.module].add(number)
        for run in (run for run in runs if run in telling):
            self.spots.add_run(run[1], tuple(runs[run]))


def _unresolved(position: Position, reason: str) -> Unresolved:
    return Unresolved(id=_basic_id(position), reason=f"{position.source}: {reason}")


def _lacks_samples(graph: Graph, call: Call) -> bool:
    """Whether a call acts on an empty batch, as a detector's head does that got no boxes."""
    samples, *sizes = graph.shapes[call.reads[0]] or (1,)
    return samples == 0 and 0 not in sizes


def find_sites(model: nn.Module, graph: Graph) -> Sites:
    """Every activation call of a traced forward, placed.

    Args:
        model: The module that was traced.
        graph: What `trace` recorded of it.

    Returns:
        All sites in forward order; activation calls that hold no units and activation modules that were never called
        are listed as unresolved.
    """
    sites = Sites(idle=_activation_modules(model, graph.functions))
    for call in graph.activations():
        site = sites.add(graph, call)
        if site:
            site.calls.append(call)
    sites.settle(graph)
    return sites


def _key(graph: Graph, call: Call, origin: Origin) -> tuple[object, ...]:
    assert call.activation is not None
    assert call.position is not None
    kind = call.activation.kind
    return origin.signature(graph, call, kind) or ("position", kind, call.position.path)


def _basic_id(position: Position) -> str:
    if position.module is not None:
        return f"{position.module}#{position.ordinal}"
    return f"{position.owner}{position.path[-1]}"


def _number_single_calls(sites: Sequence[FoundSite], new: Sequence[FoundSite], graph: Graph) -> None:
    """Takes `#1` off a new site whose module's caller makes the call once."""
    often = Counter(
        (call.position.path[:-1], str(call.position.module))
        for call in graph.activations()
        if call.position and call.position.module is not None
    )
    taken = Counter(site.id.rpartition("#")[0] for site in sites)
    for site in new:
        stem = site.id.rpartition("#")[0]
        called_once = often[(site.position.path[:-1], str(site.position.module))] == 1
        if site.position.module is not None and called_once and taken[stem] == 1:
            site.id = stem


def _activation_modules(model: nn.Module, functions: Collection[Function]) -> dict[str, frozenset[str]]:
    return {
        path: frozenset(aliases_of(model, module))
        for path, module in model.named_modules()
        if is_activation_module(module, functions)
    }


def _assumed_axis(shape: tuple[int, ...]) -> int:
    """Axis 1 for images and volumes, else the last one."""
    return 1 if len(shape) > 3 else len(shape) - 1

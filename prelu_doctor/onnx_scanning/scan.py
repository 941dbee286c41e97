"""Scans an ONNX file on a data set, with the same records as the scan of a PyTorch model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from prelu_doctor import records
from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import DataError, ForwardError
from prelu_doctor.onnx_scanning.bodies import Body
from prelu_doctor.onnx_scanning.counting import Counting, Counts, Watched
from prelu_doctor.onnx_scanning.dataflow import Dataflow, dataflow_of
from prelu_doctor.onnx_scanning.fingerprints import Fingerprints
from prelu_doctor.onnx_scanning.model import OnnxModel
from prelu_doctor.onnx_scanning.names import shorten_ids
from prelu_doctor.onnx_scanning.sessions import Session
from prelu_doctor.onnx_scanning.survey import Survey, infer_types
from prelu_doctor.onnx_scanning.translation import Shape
from prelu_doctor.scanning.layout import Layout, Prints, layouts_told_by
from prelu_doctor.scanning.probe import Examined
from prelu_doctor.scanning.scan import DEFAULTS, Thresholds, constant_slope, learned_slopes, site_record
from prelu_doctor.scanning.tally import Tally
from prelu_doctor.sites.find import FoundSite, Sites
from prelu_doctor.sites.graph import Call

Placed = list[tuple[FoundSite, Call]]
"""Activation calls with their sites."""


@dataclass(frozen=True)
class OnnxScan:
    """A scanned ONNX file.

    Attributes:
        sites: What the report says of each site, in forward order.
        unresolved: What could not be placed, seen or reached.
        samples: Samples scanned.
    """

    sites: list[records.Site]
    unresolved: list[records.Unresolved]
    samples: int


def scan_onnx(
    model: OnnxModel,
    batches: Iterator[Batch],
    *,
    thresholds: Thresholds = DEFAULTS,
    progress: Callable[[int], None] = lambda samples: None,
) -> OnnxScan:
    """Counts on which samples every unit of an ONNX model fires.

    The counts are those of `scan_model` on the PyTorch model that the file was exported from, as far as the two
    compute the same numbers: a pre-activation within rounding of 0 may fall on either side.

    Args:
        model: The file.
        batches: The samples, each batch seen once. The state kept is O(units).
        thresholds: Where rare and dormant begin.
        progress: Told the number of samples done after each batch.

    Raises:
        CheckpointError: onnxruntime does not take the file.
        DataError: There are no samples, or they do not fit the file's inputs.
        ForwardError: onnxruntime stopped at one of them.
    """
    probe, samples = _Probe(model), 0
    for batch in batches:
        if batch.size == 0:
            continue
        probe.run(batch)
        samples += batch.counted
        progress(samples)
    if not samples:
        raise DataError("the data holds no samples", "at least one sample", "check --data and --max-samples")
    return OnnxScan(probe.site_records(thresholds), probe.unresolved(), samples)


class _Probe:
    """Watches the activations of a file, batch after batch."""

    def __init__(self, model: OnnxModel) -> None:
        self._model = model
        self._types = infer_types(model.stored.model)
        self._survey = Survey(model.stored.model, self._types)
        self._surveying = Session(model, self._survey)
        self._sites = Sites()
        self._examined: dict[int, Examined] = {}
        self._watched: dict[tuple[object, ...], tuple[Watched, int]] = {}
        self._slopes: dict[int, str | None] = {}
        self._hidden: list[records.Unresolved] = []
        self._unreached: list[tuple[Body, records.Unresolved]] = []
        self._lost: list[records.Unresolved] = []
        self._counting: tuple[Counting, Session] | None = None

    def run(self, batch: Batch) -> None:
        """Scans one batch."""
        counting, session = self._counting or self._planned_on_few(batch)
        results = session.run(batch)
        if counting.reached(results):
            counting, session = self._planned(batch)
            results = session.run(batch)
        for watched, counts in counting.read(results):
            self._tally(watched, counts, batch)
        for examined in self._examined.values():
            examined.tally.commit()

    def site_records(self, thresholds: Thresholds) -> list[records.Site]:
        """What the report says of each site."""
        owners = Counter(self._slopes.values())
        return [
            site_record(examined, self._slopes_of(number, examined, owners), thresholds)
            for number, examined in self._examined.items()
        ]

    def unresolved(self) -> list[records.Unresolved]:
        """What could not be placed, seen or reached."""
        unreached = [entry for _, entry in self._unreached]
        every = [*self._sites.unresolved, *self._hidden, *unreached, *self._lost]
        return list({(entry.id, entry.reason): entry for entry in every}.values())

    # Planning

    def _planned_on_few(self, batch: Batch) -> tuple[Counting, Session]:
        few = batch.few()
        try:
            return self._planned(few)
        except ForwardError:
            if few.size == batch.size:
                raise
        # A file may hold the size of its batch as a number, although its inputs do not say so.
        return self._planned(replace(batch, only_size=True))

    def _planned(self, batch: Batch) -> tuple[Counting, Session]:
        """Finds the activations that a run on this batch goes through, and prepares to count these too."""
        flow = self._flow(batch)
        new = self._place(flow)
        layouts = self._layouts(flow, new, batch)
        for site, call in new:
            self._watch(flow, site, call, layouts[site.id])
        self._hidden = flow.hidden
        seen = {key[:-1] for key in self._watched}
        self._unreached = [(body, entry) for body, entry in flow.unreached if body.key not in seen]
        bodies = {body.key: body for body, _ in self._unreached}
        watched = [one for one, _ in self._watched.values()]
        counting = Counting(self._model.stored.model, watched, list(bodies.values()))
        self._lose(counting)
        self._counting = counting, Session(self._model, counting)
        return self._counting

    def _flow(self, batch: Batch) -> Dataflow:
        shapes = self._survey.shapes(self._surveying.run(batch))
        return dataflow_of(self._model.stored, self._types, shapes, batch.size)

    def _place(self, flow: Dataflow) -> Placed:
        """Places every activation of a run; those that no earlier run went through."""
        new: Placed = []
        for call in flow.graph.activations():
            site = self._sites.add(flow.graph, call)
            if site is not None and flow.rectifying[call.index].key not in self._watched:
                site.calls.append(call)
                new.append((site, call))
                self._slopes.setdefault(site.number, flow.slopes.get(call.index))
        self._sites.settle(flow.graph)
        shorten_ids([site for site, _ in new], flow.graph)
        return new

    def _layouts(self, flow: Dataflow, new: Placed, batch: Batch) -> dict[str, Layout]:
        """By site id where its samples lie, told by its first call."""
        first = {site.number: (site, call) for site, call in reversed(new)}
        sites = [site for site, _ in first.values()]
        asked = [(flow.rectifying[call.index], flow.graph.shapes[call.reads[0]]) for _, call in first.values()]
        by_key = {
            node.key: call.position.path
            for (node, _), (_, call) in zip(asked, first.values(), strict=True)
            if call.position
        }
        prints = Fingerprints(self._model.stored.model, asked)
        session = Session(self._model, prints)

        def prints_of(changed: Batch) -> Prints:
            shapes = [shape for _, shape in asked]
            if changed.size != batch.size:
                shapes = self._shapes(changed, [node.key for node, _ in asked])
            found = prints.read(session.run(changed), shapes)
            return {by_key[key]: numbers for key, numbers in found.items()}

        return layouts_told_by(prints_of, batch, sites)

    def _shapes(self, batch: Batch, keys: Sequence[tuple[object, ...]]) -> list[Shape]:
        """The shapes of some pre-activations in a run; empty for those that it does not reach."""
        flow = self._flow(batch)
        shapes = {
            node.key: flow.graph.shapes[flow.graph.calls[index].reads[0]] for index, node in flow.rectifying.items()
        }
        return [shapes.get(key, ()) for key in keys]

    def _watch(self, flow: Dataflow, site: FoundSite, call: Call, layout: Layout) -> None:
        node = flow.rectifying[call.index]
        shape = flow.graph.shapes[call.writes[0]]
        self._watched[node.key] = Watched(node, site.unit_axis, site.units, shape, layout), site.number
        if site.number not in self._examined:
            tally = Tally(site.units, site.activation.function)
            self._examined[site.number] = Examined(site, layout, tally, flow.graph, site.calls)

    def _lose(self, counting: Counting) -> None:
        for one, reason in counting.lost:
            number = self._watched[one.node.key][1]
            self._examined.pop(number, None)
            self._lost.append(records.Unresolved(id=self._sites.found[number].id, reason=reason))

    # Counting

    def _tally(self, watched: Watched, counts: Counts, batch: Batch) -> None:
        """Counts what one run showed of an activation; samples that only fill the batch up are left out."""
        examined = self._examined.get(self._watched[watched.node.key][1])
        if examined is None or not counts.elements:
            return
        rows = len(counts.positive)
        examined.rows |= not (watched.layout.known and rows == batch.size)
        kept = -(-rows * batch.counted // batch.size)  # as many of the rows as of the samples
        examined.tally.saw_negative_infinity |= counts.negative_infinities > 0
        examined.tally.add(
            fired=torch.from_numpy(counts.positive[:kept] > 0),
            positive=torch.from_numpy(counts.positive[:kept].sum(0).astype(np.int64)),
            positions=counts.elements // watched.units * kept // rows,
            magnitude=torch.from_numpy(counts.magnitude[:kept].copy()),
        )

    def _slopes_of(self, number: int, examined: Examined, owners: Counter[str | None]) -> records.Slopes | None:
        site = examined.site
        if site.activation.slope is not None:
            return constant_slope(site.activation.slope)
        name = self._slopes.get(number)
        tensors = {tensor.name: tensor for tensor in self._model.stored.model.graph.initializer}
        if name is None or name not in tensors:
            return None
        values = torch.from_numpy(self._model.stored.tensor(tensors[name]).astype(np.float64))
        return learned_slopes(values, site.units, tied=owners[name] > 1)

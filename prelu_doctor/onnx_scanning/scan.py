"""Scans an ONNX file on a data set, with the same records as the scan of a PyTorch model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import ModelProto

from prelu_doctor import records
from prelu_doctor.checkpoints.onnx_files import Array
from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import DataError, ForwardError
from prelu_doctor.escaping import escaped, reason_of
from prelu_doctor.onnx_scanning.bodies import Body
from prelu_doctor.onnx_scanning.counting import Counting, Counts, Watched
from prelu_doctor.onnx_scanning.dataflow import Dataflow, dataflow_of
from prelu_doctor.onnx_scanning.feeds import Feeds
from prelu_doctor.onnx_scanning.layouts import Prints, fitting_layouts, grows, moves_of
from prelu_doctor.onnx_scanning.model import OnnxModel
from prelu_doctor.onnx_scanning.survey import Survey, infer_types
from prelu_doctor.scanning.layout import Layout
from prelu_doctor.scanning.probe import Examined
from prelu_doctor.scanning.scan import DEFAULTS, Thresholds, constant_slope, learned_slopes, site_record
from prelu_doctor.scanning.tally import Tally
from prelu_doctor.sites.find import FoundSite, Sites
from prelu_doctor.sites.graph import Call


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
        for piece in probe.feeds.pieces(batch):
            if piece.size:
                probe.run(piece)
                samples += piece.size
        progress(samples)
    if not samples:
        raise DataError("the data holds no samples", "at least one sample", "check --data and --max-samples")
    return OnnxScan(probe.records(thresholds), probe.unresolved(), samples)


class _Session:
    """A model with additions, ready to run."""

    def __init__(self, model: OnnxModel, feeds: Feeds, grown: ModelProto, outputs: Sequence[str], samples: str) -> None:
        self._session = model.stored.session(grown)
        self._feeds = feeds
        self._outputs = list(outputs)
        self._samples = samples

    def run(self, batch: Batch) -> list[Array]:
        """What the added outputs give on a batch of as many samples as the file takes."""
        import onnxruntime

        arrays: dict[str, Any] = self._feeds.arrays(batch)
        arrays[self._samples] = np.array([batch.size], np.int64)
        taken = {one.name for one in self._session.get_inputs()}
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        if not self._outputs:
            return []
        try:
            results: list[Array] = self._session.run(
                self._outputs, {name: array for name, array in arrays.items() if name in taken}, options
            )
        except Exception as error:  # onnxruntime's exceptions share no root but this
            shapes = ", ".join(
                f"{escaped(name)} {list(array.shape)}" for name, array in arrays.items() if name != self._samples
            )
            raise ForwardError(
                f"onnxruntime stopped while it ran the model: {reason_of(error)}",
                f"a model that runs on {shapes}",
                "check --data, --input-shape and --batch-size",
            ) from error
        return results


class _Probe:
    """Watches the activations of a file, batch after batch."""

    def __init__(self, model: OnnxModel) -> None:
        self.feeds = Feeds(model.expected, escaped(model.stored.path))
        self._model = model
        self._types = infer_types(model.stored.model)
        self._sites = Sites()
        self._examined: dict[int, Examined] = {}
        self._watched: dict[tuple[object, ...], tuple[Watched, int]] = {}
        self._flow: Dataflow | None = None
        self._slopes: dict[int, str | None] = {}
        self._counting: tuple[Counting, _Session] | None = None

    def run(self, batch: Batch) -> None:
        """Scans one batch of at most as many samples as the file takes."""
        whole = self.feeds.padded(batch)
        if self._counting is None:
            self._plan(self.feeds.padded(_two_samples(batch)))
        counting, results = self._results(whole)
        if counting.reached(results):
            self._plan(whole)
            counting, results = self._results(whole)
        for watched, counts in counting.read(results):
            self._tally(watched, counts, batch.size, whole.size)
        for examined in self._examined.values():
            examined.tally.commit()

    def _results(self, batch: Batch) -> tuple[Counting, list[Array]]:
        assert self._counting is not None
        counting, session = self._counting
        return counting, session.run(batch)

    def records(self, thresholds: Thresholds) -> list[records.Site]:
        """What the report says of each site."""
        owners = Counter(self._slopes.values())
        return [
            site_record(examined, self._slopes_of(number, examined, owners), thresholds)
            for number, examined in self._examined.items()
        ]

    def unresolved(self) -> list[records.Unresolved]:
        """What could not be placed, seen or reached."""
        assert self._flow is not None
        assert self._counting is not None
        lost = [
            records.Unresolved(id=self._sites.found[self._watched[one.node.key][1]].id, reason=reason)
            for one, reason in self._counting[0].lost
        ]
        unreached = [entry for _, entry in self._flow.unreached]
        every = [*self._sites.unresolved, *self._flow.hidden, *unreached, *lost]
        return list({(entry.id, entry.reason): entry for entry in every}.values())

    # Planning

    def _plan(self, batch: Batch) -> None:
        """Finds the sites that a run on this batch goes through, and prepares to count them."""
        stored = self._model.stored
        survey = Survey(stored.model, self._types)
        session = self._session(survey)
        shapes = survey.shapes(session.run(batch))
        flow = dataflow_of(stored, self._types, shapes, batch.size)
        new = self._place(flow)
        if new:
            layouts = self._layouts(flow, new, batch, survey, session)
            for site, call in new:
                self._watch(flow, site, call, layouts.get(site.number, Layout(known=False)))
        seen = {key for key in self._watched}
        flow.unreached = [(body, entry) for body, entry in flow.unreached if not _known(body, seen)]
        self._flow = flow
        bodies: dict[Any, Body] = {body.key: body for body, _ in flow.unreached}
        counting = Counting(stored.model, [one for one, _ in self._watched.values()], list(bodies.values()))
        self._counting = (counting, self._session(counting))
        for one, _ in counting.lost:
            self._examined.pop(self._watched[one.node.key][1], None)

    def _session(self, grown: Survey | Prints | Counting) -> _Session:
        return _Session(self._model, self.feeds, grown.model, grown.outputs, grown.samples)

    def _place(self, flow: Dataflow) -> list[tuple[FoundSite, Call]]:
        """Places every activation of a run; those that no earlier run went through."""
        new = []
        for call in flow.graph.activations():
            known = flow.rectifying[call.index].key in self._watched
            site = self._sites.add(flow.graph, call)
            if site is not None and not known:
                site.calls.append(call)
                new.append((site, call))
                self._slopes.setdefault(site.number, flow.slopes.get(call.index))
        self._sites.settle(flow.graph)
        return new

    def _watch(self, flow: Dataflow, site: FoundSite, call: Call, layout: Layout) -> None:
        whole = self.feeds.fixed_batch == 1 or (not layout.known and site.unit_axis == 0)
        node = flow.rectifying[call.index]
        shape = flow.graph.shapes[call.writes[0]]
        watched = Watched(node, site.unit_axis, site.units, shape, None if whole else layout)
        self._watched[node.key] = watched, site.number
        if site.number not in self._examined:
            tally = Tally(site.units, site.activation.function)
            self._examined[site.number] = Examined(site, layout, tally, flow.graph, site.calls)

    def _layouts(
        self, flow: Dataflow, new: Sequence[tuple[FoundSite, Call]], batch: Batch, survey: Survey, session: _Session
    ) -> dict[int, Layout]:
        """By the number of a site where its samples lie; sites whose samples cannot be told apart are left out."""
        if batch.size < 2:
            return {}
        first = {site.number: (site, call) for site, call in reversed(new) if not site.input_independent}
        asked = {
            number: (flow.rectifying[call.index], flow.graph.shapes[call.reads[0]])
            for number, (_, call) in first.items()
        }
        prints = Prints(self._model.stored.model, list(asked.values()))
        printer = self._session(prints)
        one, other = _changed_samples(batch)
        before, after_first, after_others = (prints.read(printer.run(each)) for each in (batch, one, other))
        fitting: dict[int, list[Layout]] = {}
        for number, (node, _) in asked.items():
            if node.key in before:
                moves = moves_of(before[node.key], after_first[node.key], after_others[node.key])
                fitting[number] = fitting_layouts(moves, first[number][0].unit_axis, batch.size)
        doubtful = [number for number, layouts in fitting.items() if len(layouts) > 1]
        if doubtful and self.feeds.fixed_batch is None and batch.size == 2:
            grown = self._shapes_of_three(flow, batch, survey, session)
            for number in doubtful:
                node, shape = asked[number]
                three = grown.get(node.key)
                fitting[number] = [layout for layout in fitting[number] if three and grows(layout, shape, three)]
        return {number: layouts[0] for number, layouts in fitting.items() if len(layouts) == 1}

    def _shapes_of_three(
        self, flow: Dataflow, batch: Batch, survey: Survey, session: _Session
    ) -> dict[tuple[object, ...], tuple[int, ...]]:
        try:
            shapes = survey.shapes(session.run(batch.take(torch.tensor([0, 1, 0]))))
        except ForwardError:  # a file may take batches of certain sizes only
            return {}
        grown = dataflow_of(self._model.stored, self._types, shapes, 3)
        return {
            node.key: grown.graph.shapes[grown.graph.calls[index].reads[0]] for index, node in grown.rectifying.items()
        }

    # Counting

    def _tally(self, watched: Watched, counts: Counts, samples: int, run: int) -> None:
        """Counts what one run showed of an activation; samples that only fill the batch up are left out."""
        examined = self._examined.get(self._watched[watched.node.key][1])
        if examined is None or not counts.elements:
            return
        positions = counts.elements // watched.units
        positive, magnitude = counts.positive, counts.magnitude
        by_sample = (watched.layout is None and run == 1) or (
            watched.layout is not None and watched.layout.known and len(positive) == run
        )
        if by_sample:
            positive, magnitude = positive[:samples], magnitude[:samples]
            positions = positions * samples // run
        else:
            examined.rows = True
            if samples < run:  # which rows only fill the batch up cannot be told
                return
        examined.tally.saw_negative_infinity |= counts.negative_infinities > 0
        examined.tally.add(
            fired=torch.from_numpy(positive > 0),
            positive=torch.from_numpy(positive.sum(0).astype(np.int64)),
            positions=positions,
            magnitude=torch.from_numpy(magnitude.copy()),
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


def _known(body: Body, watched: set[tuple[object, ...]]) -> bool:
    """Whether an activation of this very body is watched already."""
    return any(key[:-1] == body.key for key in watched)


def _two_samples(batch: Batch) -> Batch:
    """Samples 0 and 1; a single one is doubled, because several models treat a batch of one apart."""
    return batch.take(slice(0, 2)) if batch.size > 1 else batch.take(torch.tensor([0, 0]))


def _changed_samples(batch: Batch) -> tuple[Batch, Batch]:
    """The batch with another sample 0, and with other samples in all places but 0.

    Each sample is replaced by the next one, which is valid input; where that changes nothing, it is reversed along its
    last axis.
    """
    places = torch.arange(batch.size)
    following = (places + 1) % batch.size
    first = batch.take(torch.where(places == 0, following, places))
    others = batch.take(torch.where(places == 0, places, following))
    if _same(first, batch) or _same(others, batch):
        return _reversed(batch, places == 0), _reversed(batch, places != 0)
    return first, others


def _same(one: Batch, other: Batch) -> bool:
    pairs = zip((*one.args, *one.kwargs.values()), (*other.args, *other.kwargs.values()), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def _reversed(batch: Batch, which: torch.Tensor) -> Batch:
    def reverse(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        if tensor.dim() > 1:
            changed[which] = tensor[which].flip(-1)
        return changed

    return Batch(tuple(reverse(x) for x in batch.args), {name: reverse(x) for name, x in batch.kwargs.items()})

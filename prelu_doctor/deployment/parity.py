"""The proof that an ONNX file computes the same function as the eager model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from prelu_doctor import __version__
from prelu_doctor.data.batches import Batch, joined
from prelu_doctor.data.shapes import named_inputs
from prelu_doctor.deployment.onnx_session import open_onnx
from prelu_doctor.deployment.side_by_side import SideBySide, Source
from prelu_doctor.deployment.slopes import compare_slopes
from prelu_doctor.devices import device_of
from prelu_doctor.errors import DataError, ForwardError
from prelu_doctor.escaping import escaped
from prelu_doctor.records import Model, ParityCheck, ParityReport, Tool
from prelu_doctor.undisturbed import undisturbed

MAX_SLICES = 4
"""How many batches of each size are compared, where the data has as many."""

LARGEST_FIXED_BATCH = 4096
"""Samples: a file that nobody vouches for may declare any number, and would be given as many."""


def check_parity(
    model: nn.Module,
    onnx_path: Path,
    batches: Iterable[Batch] | Callable[[], Iterator[Batch]],
    *,
    batch_sizes: tuple[int, ...] = (1, 2, 5),
    tolerance: float = 1e-5,
    synthetic: bool = False,
    model_record: Model,
    progress: Callable[[str], None] = lambda _: None,
) -> ParityReport:
    """Run both on the same samples at several batch sizes, and compare every output.

    Several sizes, because an export may have frozen the batch axis. A file whose inputs declare one size is compared
    at that size alone, and the report says so; one that declares an open axis must keep to it. Samples are taken from
    the data in order and repeated where the data holds too few; whole calls are compared one by one. Slopes of `PRelu`
    nodes that carry a module's name are compared bit by bit besides: a wrong slope shows only where an input reaches
    its negative side.

    Args:
        model: The eager model; as before afterwards.
        onnx_path: The file to judge. It is validated before it is run.
        batches: The data, or a callable for a fresh iterator over it.
        batch_sizes: Numbers of samples N to compare at, where the file leaves N open.
        tolerance: Largest scaled error max |onnx - torch| / max |torch| that passes.
        synthetic: Whether the data is seeded noise.
        model_record: What the report says about the model.
        progress: Called with a line for each batch size.

    Raises:
        CheckpointError: If the file cannot be used.
        DataError: If there is no data, or the file wants other inputs than the data has.
        ForwardError: If the eager model runs at no batch size. At some of them, it is a failed check: the file was
            to take any.
        BrokenPromiseError: If the eager model gives something that is not a tensor.
    """
    onnx_file = open_onnx(onnx_path)
    fixed = onnx_file.fixed_batch
    if fixed is not None:
        _check_fixed_batch(fixed, onnx_path)
        batch_sizes = (fixed,)
    source: Source = "synthetic" if synthetic else "data"
    slices = _slices(iter(batches() if callable(batches) else batches), batch_sizes)
    checks = compare_slopes(model, onnx_file, source)
    with undisturbed(model):
        pair = SideBySide(model, onnx_file, source, tolerance)
        checks += _compare_slices(pair, (batch.to(device_of(model)) for batch in slices), progress)
    return ParityReport(
        tool=Tool(version=__version__),
        model=model_record,
        onnx_path=str(onnx_path),
        onnx_sha256=onnx_file.stored.sha256,
        opset=onnx_file.stored.opset,
        tolerance=tolerance,
        checks=checks,
        verdict="healthy" if all(check.passed for check in checks) else "findings",
        fixed_batch=fixed,
    )


def _check_fixed_batch(size: int, path: Path) -> None:
    if size > LARGEST_FIXED_BATCH:
        raise DataError(
            f"{escaped(path)} takes batches of {size:,} samples alone",
            f"an open batch axis, or one of at most {LARGEST_FIXED_BATCH:,}",
            "export the model again with fewer samples",
        )


def _samples(batches: Iterable[Batch], wanted: int) -> Batch:
    """The first samples of the data as one batch; batches after one of another shape are left out."""
    collected: list[Batch] = []
    for batch in of_one_shape(batches):
        collected.append(batch)
        if sum(each.size for each in collected) >= wanted:
            break
    if not sum(batch.size for batch in collected):
        raise DataError("the data holds no sample", "at least one sample to compare outputs on", "check the data")
    return joined(collected)


def of_one_shape(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches up to the first whose samples have another shape (of a whole call: whose tensors have)."""
    shapes = None
    for batch in batches:
        found = _sample_shapes(batch)
        if shapes not in (None, found):
            return
        shapes = found
        yield batch


def _sample_shapes(batch: Batch) -> list[tuple[object, ...]]:
    first = 0 if batch.whole else 1
    return [(name, tensor.shape[first:], tensor.dtype) for name, tensor in sorted(named_inputs(batch).items())]


def _slices(batches: Iterator[Batch], batch_sizes: tuple[int, ...]) -> Iterator[Batch]:
    """What to compare on: batches of every size, or the first whole calls just as they are."""
    first = next(batches, None)
    rest = batches if first is None else itertools.chain([first], batches)
    if first is not None and first.whole:
        return itertools.islice(of_one_shape(rest), MAX_SLICES)
    if first is not None and first.only_size:
        batch_sizes = (first.size,)
    return _resized(_samples(rest, MAX_SLICES * sum(batch_sizes)), batch_sizes)


def _resized(samples: Batch, batch_sizes: tuple[int, ...]) -> Iterator[Batch]:
    """Batches of every size, each of the samples that come next; round again from the first when they run out."""
    start = 0
    for size in batch_sizes:
        for _ in range(min(MAX_SLICES, -(-samples.size // size))):
            yield samples.take(torch.arange(start, start + size) % samples.size)
            start += size


def _compare_slices(pair: SideBySide, slices: Iterable[Batch], progress: Callable[[str], None]) -> list[ParityCheck]:
    checks: list[ParityCheck] = []
    refusals: list[ForwardError] = []
    for batch in slices:
        progress(f"parity at batch size {batch.size}")
        outcome = pair.compare(batch)
        if isinstance(outcome, ForwardError):
            refusals.append(outcome)
            outcome = [pair.failure(f"the model itself does not run: {outcome.__cause__}", batch)]
        checks += outcome
    if len(refusals) == len(checks):  # it never ran, and that says nothing about the file
        raise refusals[0]
    return checks

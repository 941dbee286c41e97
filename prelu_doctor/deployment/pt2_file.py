"""A model as a torch.export program: one file that needs neither the model's class nor this package."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prelu_doctor.checkpoints.exported_programs import read_exported_program
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.data.batches import Batch
from prelu_doctor.deployment.eager import eager_outputs, named_arguments, named_tensors
from prelu_doctor.deployment.parity import MAX_SLICES, of_one_shape
from prelu_doctor.deployment.quiet import quiet
from prelu_doctor.devices import device_of
from prelu_doctor.errors import BrokenPromiseError, DoctorError, ForwardError
from prelu_doctor.treatment.preservation import compare_outputs, is_preserved
from prelu_doctor.undisturbed import undisturbed

BATCH_AXIS = "batch"
"""What the program calls axis 0 of its inputs, where it takes any number of samples."""

BATCH_SIZES = (1, 2, 5)
"""Numbers of samples at which an open batch axis is proved."""

_MOST_SAMPLES = 4096


@dataclass(frozen=True)
class Pt2File:
    """What an export wrote.

    Attributes:
        path: The file.
        fixed_batch: The only batch size that the program takes; None where it takes any.
        fixed_because: Why the batch axis could not be left open; empty where it was.
    """

    path: Path
    fixed_batch: int | None = None
    fixed_because: str = ""


def export_pt2(model: nn.Module, batches: Callable[[], Iterator[Batch]], path: Path) -> Pt2File:
    """Writes the model in eval mode as a program that computes the same outputs, read back and proved.

    Axis 0 of every input becomes dynamic. Where the exporter refuses that, or the program that was read back computes
    something else at another batch size, it takes one sample at a time, or as many as the data's batches have; where
    the data yields whole calls, it takes what the first of them holds. The file holds no sample of the data and names
    no path of this machine.

    Args:
        model: The eager model; as before afterwards.
        batches: The data.
        path: The file to write.

    Raises:
        ForwardError: The model's forward raised.
        BrokenPromiseError: The exporter refuses, or the program's outputs are not the model's.
    """
    first = next(batches())
    reasons: list[str] = []
    if not first.resizable:
        reasons.append("the data yields whole calls" if first.whole else "the model takes batches of this size alone")
    for size in (None, 1, first.size) if first.resizable else (first.size,):
        try:
            _save(_exported(model, _of_size(first, size or 2), open_batch=size is None), path)
            _prove(model, path, batches, BATCH_SIZES if size is None else (size,))
        except (BrokenPromiseError, ForwardError) as error:
            refusal = error
            reasons.append(error.found.splitlines()[0])
            continue
        return Pt2File(path, size, reasons[0] if reasons else "")
    path.unlink(missing_ok=True)
    raise refusal


def _of_size(batch: Batch, size: int) -> Batch:
    """The first samples of a batch, round again where it has fewer."""
    return batch if batch.size == size else batch.take(torch.arange(size) % batch.size)


def _exported(model: nn.Module, batch: Batch, *, open_batch: bool) -> torch.export.ExportedProgram:
    batch = batch.clone().to(device_of(model))
    with undisturbed(model), quiet():
        plain = _plain_output(model, batch)
        axes = {0: torch.export.Dim(BATCH_AXIS, min=1)}
        arguments = named_arguments(model, batch) if batch.kwargs else batch.args
        shapes: Any = pytree.tree_map(lambda leaf: axes if isinstance(leaf, Tensor) else None, arguments)
        try:
            with torch.no_grad():
                return torch.export.export(
                    model if plain else _Flat(model).eval(),
                    batch.args,
                    dict(batch.kwargs),
                    dynamic_shapes=(shapes if plain or batch.kwargs else (shapes,)) if open_batch else None,
                )
        except Exception as error:  # the exporter runs the user's forward, which may raise anything
            raise BrokenPromiseError(
                f"the model cannot be exported as a program: {_reason(error)}",
                "a forward made of tensor operations alone",
                "remove what depends on the values of the inputs, or leave --pt2 out",
            ) from error


class _Flat(nn.Module):
    """The model with a tuple of tensors for its output, where that is of a class which a reader may not have."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Tensor, **kwargs: Tensor) -> tuple[Tensor, ...]:
        return tuple(named_tensors(self.model(*args, **kwargs)).values())


def _plain_output(model: nn.Module, batch: Batch) -> bool:
    eager_outputs(model, batch)  # raises what the user is to know
    with torch.no_grad():
        return _is_plain(batch.clone().run(model))


def _is_plain(output: Any) -> bool:
    if type(output) in (tuple, list):
        return all(map(_is_plain, output))
    return (
        all(map(_is_plain, output.values())) if type(output) is dict else isinstance(output, Tensor) or output is None
    )


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"


def _save(program: torch.export.ExportedProgram, path: Path) -> None:
    for node in program.graph.nodes:
        if "stack_trace" in node.meta:
            node.meta["stack_trace"] = _FOLDERS.sub(_shortened, node.meta["stack_trace"])
    if program.example_inputs is not None:  # which are samples of the user's
        program.example_inputs = pytree.tree_map(_zeros, program.example_inputs)
    with quiet():
        torch.export.save(program, path)


_FOLDERS = re.compile(r'File "([^"]*)"')


def _shortened(match: re.Match[str]) -> str:
    """A file without the folders of this machine; those inside a package stay."""
    path = match[1].replace("\\", "/")
    if path.startswith("<"):  # generated code, which names the file that it was made of
        return f'File "{path.partition(" ")[0]}"'
    _, packaged, inside = path.rpartition("-packages/")
    return f'File "{inside if packaged else path.rpartition("/")[2]}"'


def _zeros(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, Tensor) else value


def _prove(model: nn.Module, path: Path, batches: Callable[[], Iterator[Batch]], sizes: tuple[int, ...]) -> None:
    """Compares the program that was read back with the model, on as much of the data as a few batches hold."""
    program = read_exported_program(path, Reading()).module
    assert program is not None
    try:
        taking = _OneByOne(program.to(device_of(model)))
        kept = compare_outputs(model, taking, _slices(batches, sizes), promised=True)
    except DoctorError:
        raise
    except Exception as error:  # the program's own code, or the model's at a size that it does not take
        raise BrokenPromiseError(
            f"the exported program does not run as the model does: {_reason(error)}",
            "the same outputs at every batch size",
            "look for a forward that depends on the batch size, or leave --pt2 out",
        ) from error
    if not is_preserved(kept):
        raise BrokenPromiseError(
            f"the exported program's outputs differ from the model's by {kept.max_change:.3g} (largest output "
            f"{kept.scale:.3g})",
            "the same outputs at every batch size",
            "look for a forward that depends on the batch size or draws random numbers; nothing was written",
        )


class _OneByOne(nn.Module):
    """A program, which takes its tensors one by one, called as the model is."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.program(*(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)))


def _slices(batches: Callable[[], Iterator[Batch]], sizes: tuple[int, ...]) -> Iterator[Batch]:
    """Batches of the sizes, the samples in turn; at the end what is left of each batch of the data as it is."""
    first = next(batches())
    if not first.resizable:
        yield from itertools.islice(of_one_shape(batches()), MAX_SLICES)
        return
    for size in sizes:
        yield _of_size(first, size)
    if len(sizes) > 1:
        yield first
        return
    (size,) = sizes
    for start in range(0, min(first.size, _MOST_SAMPLES) - size + 1, size):
        yield first.take(slice(start, start + size))

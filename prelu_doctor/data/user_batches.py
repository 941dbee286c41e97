"""Batches from the user's own code: an iterable, a Dataset or a DataLoader that a callable returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.data.calls import Call
from prelu_doctor.data.intake import Intake
from prelu_doctor.data.passes import Source
from prelu_doctor.data.randomness import OwnRandomness
from prelu_doctor.data.shapes import named_inputs, shape_text
from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped
from prelu_doctor.imports import call_user_code, imported_object, user_code

_EXPECTED = "a callable that returns an iterable of batches, a Dataset or a DataLoader"


def user_dataset(
    spec: str,
    *,
    intake: Intake,
    input_shapes: Sequence[tuple[int, ...]],
    batch_size: int,
    max_samples: int | None,
    seed: int,
) -> Dataset:
    """The batches of `module:callable` or `file.py:callable`; every pass is the same.

    A callable that returns an iterator (a generator) is called anew for each pass. The global random generators of
    torch, NumPy and Python are seeded for each pass and put back between its steps, so that shuffling loaders and
    random transforms repeat themselves.

    Args:
        spec: What the user wrote.
        intake: What the model takes.
        input_shapes: That the samples must have; none: anything.
        batch_size: For a Dataset; batches of a loader or an iterable keep their size.
        max_samples: Most samples of a pass.
        seed: Of the random generators.

    Raises:
        DataError: Where the code is not there, raises, or yields something else than batches.
    """
    what = escaped(spec)
    source = Source(_opened(spec, what, batch_size, seed), what, seed, guard=lambda: user_code(what, error=DataError))

    def batches() -> Iterator[Batch]:
        return source.batches(intake, input_shapes, max_samples)

    first = next(batches(), None)
    if first is None:
        raise DataError(f"{what}: yielded no batches", "at least one batch")
    told = ", ".join(f"{escaped(name)}: {shape_text(tensor.shape)}" for name, tensor in named_inputs(first).items())
    kind = "call" if first.whole else "batch"
    return Dataset(spec, synthetic=False, seed=seed, scanned=batches, contents=f"first {kind} {told}")


def _opened(spec: str, what: str, batch_size: int, seed: int) -> Callable[[], Iterable[Any]]:
    """A function that opens a pass over the raw batches."""
    named = imported_object(spec, option="--data", error=DataError)

    def returned() -> Any:
        return call_user_code(named, {}, what=what, error=DataError) if callable(named) else named

    with OwnRandomness(seed).active():
        source = returned()
    _check_source(source, what)
    if isinstance(source, TorchDataset):
        source = DataLoader(source, batch_size=batch_size)
    if not isinstance(source, Iterator):
        rewind = _rewinder(source)

        def rewound() -> Any:
            rewind()
            return source

        return rewound
    if not callable(named):
        raise DataError(f"{what}: an iterator, which can be read only once", _EXPECTED)
    return returned


def _check_source(source: object, what: str) -> None:
    wrong = isinstance(source, Tensor | Mapping | str | bytes | nn.Module | Call) or not (
        isinstance(source, Iterable | TorchDataset)
    )
    if wrong:
        remedy = "return [Call(...)], or yield the calls" if isinstance(source, Call) else ""
        raise DataError(f"{what}: returned a {escaped(type(source).__name__)}", _EXPECTED, remedy)
    if isinstance(source, tuple) and all(isinstance(part, Tensor) for part in source):
        raise DataError(
            f"{what}: returned a tuple of {len(source)} tensors", _EXPECTED, "return TensorDataset(x, y), or [(x, y)]"
        )


def _rewinder(source: Any) -> Callable[[], None]:
    """Put the loader's own generators back to where they were when the source was opened."""
    if not isinstance(source, DataLoader):
        return lambda: None
    own = [source.generator, getattr(source.sampler, "generator", None)]
    states = [(generator, generator.get_state()) for generator in own if isinstance(generator, torch.Generator)]

    def rewind() -> None:
        for generator, state in states:
            generator.set_state(state)

    return rewind

"""Names of weights that differ from the architecture's by what wraps the one or the other, made equal."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from prelu_doctor.checkpoints.versions import below, with_versions_of
from prelu_doctor.checkpoints.wrappers import wrapperless, wrapperless_path
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, listed

_COUNTER = "num_batches_tracked"
_TRIED = 20


def fit_names(state: dict[str, Tensor], targets: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The weights under the architecture's names, as far as a wrapper is all that makes the difference.

    Wrappers' prefixes (`module.`, `_orig_mod.`) do not matter on either side. Where the architecture is a part of what
    was trained (`model.` in a LightningModule), that part is taken out: what it has is all that the architecture needs.

    Args:
        state: By the file's names.
        targets: The architecture's parameters and buffers.

    Returns:
        The weights, and a note of what was done and left out; may be empty.

    Raises:
        CheckpointError: Where several parts of what was trained would fit.
    """
    counters = [name for name in targets if name not in state and is_counter(name, state)]
    if not _missing(state, targets):
        return state, _untold(counters, state)
    renamed = _without_wrappers(state, targets)
    if not _missing(renamed, targets):
        return renamed, _untold([name for name in targets if name not in renamed], renamed)
    prefixes = _fitting_prefixes(state, targets)
    if not prefixes:
        return renamed, ""
    if len(prefixes) > 1:
        keys = [prefix.removesuffix(".") for prefix in prefixes]
        raise CheckpointError(
            f"the file holds the architecture's weights {len(keys)} times: below {listed(keys, 5)}",
            "one set of weights",
            f"--weights-key with one of them, behind the key that holds them all: --weights-key {escaped(keys[0])}",
        )
    return _part(state, prefixes[0])


def is_counter(name: str, state: Collection[str]) -> bool:
    """Whether the name is that of a batch norm's count of batches: old files have none, and inference needs none."""
    owner, _, last = name.rpartition(".")
    return last == _COUNTER and (f"{owner}.running_mean" if owner else "running_mean") in state


def prefix_hint(found: list[str], expected: list[str]) -> str:
    """What to do where the file's names lack a prefix that the architecture's have; else ""."""
    addable = _prefix_between(expected, found)
    if addable:
        return f"save the weights again with the prefix '{escaped(addable)}' added: then every name would match"
    return ""


def _missing(state: Collection[str], targets: Mapping[str, Tensor]) -> bool:
    given = {id(targets[name]) for name in state if name in targets}
    return any(
        name not in state and id(target) not in given and not is_counter(name, state)
        for name, target in targets.items()
    )


def _untold(counters: list[str], state: Collection[str]) -> str:
    absent = [name for name in counters if name.endswith(_COUNTER) and name not in state]
    return (
        f"{_COUNTER} of {len(absent)} norms is not in the file and stays as the architecture has it" if absent else ""
    )


def _without_wrappers(state: dict[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    inner = {wrapperless(name): name for name in targets}
    paths = {wrapperless_path(path): path for path in _paths(targets)}
    renamed = {inner.get(wrapperless(name), name): tensor for name, tensor in state.items()}
    if len(inner) < len(targets) or len(renamed) < len(state):
        return state
    return with_versions_of(state, renamed, lambda path: paths.get(wrapperless_path(path), path))


def _paths(names: Collection[str]) -> set[str]:
    return {name[:place] for name in names for place in range(len(name)) if name[place] == "."}


def _fitting_prefixes(state: dict[str, Tensor], targets: Mapping[str, Tensor]) -> list[str]:
    """The leading parts of names below which everything stands that the architecture needs, and nothing else."""
    # A few names are enough: the first may be a tied weight's that the file has by its other name.
    for first in list(targets)[:_TRIED]:
        prefixes = [name.removesuffix(first) for name in state if name.endswith(f".{first}")]
        fitting = [prefix for prefix in prefixes if _fits(_below(state, prefix), targets)]
        if fitting:
            return fitting
    return []


def _fits(part: dict[str, Tensor], targets: Mapping[str, Tensor]) -> bool:
    return part.keys() <= targets.keys() and not _missing(part, targets)


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _part(state: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], str]:
    part = with_versions_of(state, _below(state, prefix), below(prefix))
    others = [name for name in state if not name.startswith(prefix)]
    left_out = f", left out: {listed(others, 5)}" if others else ""
    return part, f"prefix '{escaped(prefix)}' removed{left_out}"


def _prefix_between(longer: list[str], shorter: list[str]) -> str:
    """The prefix without which the longer names are the shorter ones; "" where there is none."""
    if not longer:
        return ""
    parts = longer[0].split(".")
    prefixes = (".".join(parts[:k]) + "." for k in range(1, len(parts)))
    return next((p for p in prefixes if {p + name for name in shorter} == set(longer)), "")

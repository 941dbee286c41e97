"""The prefixes that wrappers leave in the names of weights."""

from __future__ import annotations

from torch import Tensor

from prelu_doctor.checkpoints.versions import with_versions_of

COMPILE_MARK = "_orig_mod."
PREFIXES = ("module.", COMPILE_MARK)  # DistributedDataParallel and DataParallel, torch.compile
_AVERAGED = "n_averaged"  # the buffer of a torch.optim.swa_utils.AveragedModel, which calls the model `module`


def without_wrappers(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The weights under their names without wrappers' prefixes, and a note of what was removed.

    A leading prefix goes only where every name has it; `_orig_mod.` behind a dot (a compiled part of a model) goes
    wherever it stands, because a compiled part is the only thing that makes it. Names that would collide are kept.

    Args:
        state: The weights by name.

    Returns:
        The weights in the same order, and the note ("" where nothing was removed).
    """
    removed: list[str] = []
    if _AVERAGED in state and _common_prefix([name for name in state if name != _AVERAGED]) == PREFIXES[0]:
        state = with_versions_of(state, {name: value for name, value in state.items() if name != _AVERAGED})
        removed.append(f"'{_AVERAGED}' of an averaged model left out")
    names = list(state)
    while prefix := _common_prefix(names):
        names = [name.removeprefix(prefix) for name in names]
        removed.append(f"prefix '{prefix}' removed")
    inner = sum(f".{COMPILE_MARK}" in name for name in names)
    if inner:
        names = [name.replace(f".{COMPILE_MARK}", ".") for name in names]
        removed.append(f"'{COMPILE_MARK}' removed from within {inner} names")
    if len(set(names)) < len(names):
        return state, ""
    fitted = with_versions_of(state, dict(zip(names, state.values(), strict=True)), wrapperless_path)
    return fitted, ", ".join(removed)


def wrapperless_path(path: str) -> str:
    """The path of a module without any wrapper's prefix; "" for the wrapper itself."""
    return wrapperless(f"{path}.x")[:-2]


def wrapperless(name: str) -> str:
    """The name without any wrapper's prefix: what two names of one weight have in common."""
    name = name.replace(f".{COMPILE_MARK}", ".")
    while prefix := _common_prefix([name]):
        name = name.removeprefix(prefix)
    return name


def _common_prefix(names: list[str]) -> str:
    # Nothing but the prefix is no prefix: a name must remain.
    return next((p for p in PREFIXES if names and all(n.startswith(p) and len(n) > len(p) for n in names)), "")

"""The prefixes that wrappers leave in the names of weights."""

from __future__ import annotations

from torch import Tensor

COMPILE_MARK = "_orig_mod."
PREFIXES = ("module.", COMPILE_MARK)  # DistributedDataParallel and DataParallel, torch.compile


def without_wrappers(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The weights under their names without wrappers' prefixes, and a note of what was removed.

    A leading prefix goes only where every name has it; `_orig_mod.` behind a dot (a compiled part of a model) goes
    wherever it stands, because a compiled part is the only thing that makes it. Names that would collide are kept.

    Args:
        state: The weights by name.

    Returns:
        The weights in the same order, and the note ("" where nothing was removed).
    """
    names = list(state)
    removed: list[str] = []
    while prefix := _common_prefix(names):
        names = [name.removeprefix(prefix) for name in names]
        removed.append(f"prefix '{prefix}' removed")
    inner = sum(f".{COMPILE_MARK}" in name for name in names)
    if inner:
        names = [name.replace(f".{COMPILE_MARK}", ".") for name in names]
        removed.append(f"'{COMPILE_MARK}' removed from within {inner} names")
    if len(set(names)) < len(names):
        return state, ""
    return dict(zip(names, state.values(), strict=True)), ", ".join(removed)


def wrapperless(name: str) -> str:
    """The name without any wrapper's prefix: what two names of one weight have in common."""
    name = name.replace(f".{COMPILE_MARK}", ".")
    while prefix := _common_prefix([name]):
        name = name.removeprefix(prefix)
    return name


def _common_prefix(names: list[str]) -> str:
    # Nothing but the prefix is no prefix: a name must remain.
    return next((p for p in PREFIXES if names and all(n.startswith(p) and len(n) > len(p) for n in names)), "")

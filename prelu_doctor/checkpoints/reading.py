"""How a checkpoint may be read: what the user allowed, and which part of the file they want."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """The user's word on a file.

    Attributes:
        trust: Read pickles of any class and run programs of any operation: the file may then run any code.
        allow_classes: Names of classes (`package.module.Class`) that may be imported for this file; nothing that the
            file itself holds runs.
        weights_key: Where in a training dictionary the weights stand, as `ema` or `ema.shadow`; None: the usual keys.
        weights_alone: True where the user names the architecture, so that no module need be built.
        method: Which of a file's programs to take, and what to run instead of `forward`.
    """

    trust: bool = False
    allow_classes: tuple[str, ...] = ()
    weights_key: str | None = None
    weights_alone: bool = False
    method: str | None = None

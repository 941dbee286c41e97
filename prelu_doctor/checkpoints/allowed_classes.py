"""The classes that the user allows a pickled file to use: imported from where the user says, never from the file."""

from __future__ import annotations

from collections.abc import Sequence

from prelu_doctor.errors import CheckpointError, UsageError
from prelu_doctor.escaping import escaped
from prelu_doctor.imports import imported_object

_EXAMPLE = "--allow-class package.module.Class, or --allow-class __main__.Class=path/to/file.py:Class"


def imported_classes(wishes: Sequence[str]) -> dict[str, type]:
    """The classes by the names that a file may call them.

    Args:
        wishes: `package.module.Class`, or `name=module:Class` (`name=file.py:Class`) where the file has another name
            for it than one can import it by; a script's own classes are called `__main__.Class`.

    Raises:
        CheckpointError: Where it cannot be imported, or is no class.
        UsageError: Where it does not name a class.
    """
    return dict(_imported(wish) for wish in wishes)


def _imported(wish: str) -> tuple[str, type]:
    name, _, spec = wish.partition("=")
    module, _, last = name.rpartition(".")
    if not module or not last or (module == "__main__" and not spec):
        raise UsageError(f"--allow-class {escaped(wish)}", "the full name of a class", _EXAMPLE)
    found = imported_object(spec or f"{module}:{last}", option="--allow-class", error=CheckpointError)
    if not isinstance(found, type):
        kind = "function" if callable(found) else type(found).__name__
        raise CheckpointError(f"--allow-class {escaped(wish)}: a {kind}", "a class", "allow classes alone")
    return name, found

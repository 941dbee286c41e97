"""The classes that the user allows a pickled file to use: imported from where the user says, never from the file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import Enum

from torch import nn

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
    if _acts_by_itself(found):
        raise CheckpointError(
            f"--allow-class {escaped(wish)}: its objects could do something with what the file puts into them",
            "a module, an enum, or a class that only holds values",
            "save model.state_dict() and pass --arch module:callable; or --trust, if you made the file yourself",
        )
    return name, found


def _acts_by_itself(cls: type) -> bool:
    """Whether making an object of a class, giving it a state or letting it go runs more than Python's own.

    A file chooses the state freely: one of the standard library's classes deletes the file that it names. A module has
    its methods from where the user says, and what the file puts on it is checked.
    """
    if issubclass(cls, nn.Module | Enum):
        return False
    library = cls.__module__.partition(".")[0] in sys.stdlib_module_names
    return library or any(
        getattr(cls, name, None) not in (None, getattr(object, name, None)) for name in ("__del__", "__setstate__")
    )

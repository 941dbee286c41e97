"""A pickle read as a description: what it would call stays a note of the call, and nothing is imported or called."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prelu_doctor.untrusted.pickle_values import Keys


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle asks for, never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Made:
    """What a call of the pickle would have returned; equal to itself alone, so that it can be a key.

    Attributes:
        name: What would have been called.
        arguments: With these.
        state: What would have been given to its `__setstate__` or put into its attributes; None where nothing.
    """

    name: Name
    arguments: tuple[Any, ...]
    state: Any = field(default=None)

    def attribute(self, name: str) -> Any:
        """The entry of this name of its state; None where there is none."""
        return self.state.get(name) if isinstance(self.state, dict) else None


class ForeignNameError(pickle.UnpicklingError):
    """The pickle asks for a name that it must not ask for."""

    def __init__(self, name: Name) -> None:
        super().__init__(f"asks for {name}")
        self.name = name


def described(data: bytes, allowed: Callable[[Name], bool]) -> Any:
    """What a pickle describes: dictionaries, lists, tuples, strings, numbers and `Made` objects.

    Memory stays in proportion to the pickle: opcodes that reserve what they claim are not read.

    Args:
        data: The pickle, of protocol 2 to 5.
        allowed: Which names it may ask for.

    Raises:
        ForeignNameError: Where it asks for another.
        Exception: Of any kind, where it is damaged.
    """
    return _Reader(io.BytesIO(data), allowed).load()


# The Python reader of the standard library: the one in C reserves memory for any memo index that a pickle names.
_Base: type[Any] = pickle._Unpickler

_READ = frozenset(
    getattr(pickle, opcode)
    for opcode in (
        "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE "
        "SHORT_BINUNICODE BINUNICODE8 EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS "
        "SETITEM SETITEMS MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD"
    ).split()
)


class _Reader(_Base):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, allowed: Callable[[Name], bool]) -> None:
        super().__init__(file)
        self._allowed = allowed
        self._keys = Keys()

    def find_class(self, module: str, name: str) -> Name:
        found = Name(module, name)
        if not self._allowed(found):
            raise ForeignNameError(found)
        return found

    def _call(self) -> None:
        """REDUCE and NEWOBJ: a note of the call."""
        arguments = self.stack.pop()
        name = self.stack[-1]
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("calls something that is not a name")
        self.stack[-1] = Made(name, arguments)

    def _build(self) -> None:
        """BUILD: the state is kept beside what it belongs to."""
        state = self.stack.pop()
        made = self.stack[-1]
        if not isinstance(made, Made):
            raise pickle.UnpicklingError("gives a state to something that no call made")
        made.state = state

    def _set_item(self) -> None:
        self._keys.check(self.stack[-2:-1])
        self.load_setitem()

    def _set_items(self) -> None:
        self._keys.check(self.stack[::2])
        self.load_setitems()

    dispatch = {code: read for code, read in _Base.dispatch.items() if bytes([code]) in _READ} | {
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
    }

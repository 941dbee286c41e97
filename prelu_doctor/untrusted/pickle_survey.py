"""A dry run of a pickle: every wish is written down and none is fulfilled."""

from __future__ import annotations

import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names, under which protocol 2 writes Python 3's
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any, ClassVar

from prelu_doctor.escaping import escaped
from prelu_doctor.untrusted.pickle_names import STORAGE_BYTES, Role, is_enum, role_of
from prelu_doctor.untrusted.pickle_values import (
    Claim,
    Claims,
    Made,
    Named,
    Refused,
    Storage,
    called,
    check_attributes,
    made_parameter,
)

_MOST_STEPS = 5_000_000
"""Reads from a pickle: each can make an object of 200 bytes, and takes a microsecond."""
_MOST_LAYERS = 10_000
"""An RNN's: its `__setstate__` runs a loop over them."""


@dataclass
class Survey:
    """What the pickles of one file ask for.

    Attributes:
        claims: What its tensors come to.
        allowed: The user's classes, by the names that the file may call them.
        held: Bytes that the file holds of the storage with a key, None where it holds none.
        asked: Every name that was asked for, in order.
        storages: By key.
    holds_source: Whether it refers to the source code of its classes, as modules do in the old format.
    """

    claims: Claims
    allowed: Mapping[str, type]
    held: Callable[[str], int | None]
    asked: dict[str, Role] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    holds_source: bool = False

    @property
    def foreign(self) -> list[str]:
        """The names that nothing stands for."""
        return [name for name, role in self.asked.items() if role is Role.FOREIGN]


class Stream:
    """Bytes that are read once, in so many steps at most.

    Args:
        data: All of them.
        position: Where to begin.
    """

    def __init__(self, data: bytes | mmap, position: int = 0) -> None:
        self._data = data
        self._steps = 0
        self.position = position

    def read(self, count: int) -> bytes:
        """Exactly so many bytes.

        Raises:
            EOFError: Where so many are not there.
            Refused: Where this was done too often.
        """
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise Refused(f"it takes more than {_MOST_STEPS} steps to unpickle")
        piece = self._data[self.position : self.position + count]
        if len(piece) < count:
            raise EOFError("it ends too early")
        self.position += count
        return piece

    def readline(self) -> bytes:
        """The bytes up to the end of the line.

        Raises:
            EOFError: Where it has none.
        """
        end = self._data.find(b"\n", self.position)
        if end < 0:
            raise EOFError("it ends too early")
        return self.read(end + 1 - self.position)


def survey_pickle(stream: Stream, survey: Survey) -> Any:
    """Goes through one pickle, up to its end.

    Args:
        stream: Stands behind the pickle afterwards.
        survey: Written to.

    Returns:
        What the pickle would make, of dictionaries, lists, texts and numbers, with claims in place of tensors.

    Raises:
        Refused: Where the pickle wants something that is not granted, whatever its name.
        Exception: Of any kind, where it is damaged.
    """
    return _DryRun(stream, survey).load()


_PurePython: Any = pickle._Unpickler  # in C, the index of a memo can ask for gigabytes


class _DryRun(_PurePython):  # type: ignore[misc] # typed nowhere
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PurePython.dispatch)

    def __init__(self, stream: Stream, survey: Survey) -> None:
        super().__init__(stream, encoding="utf-8")
        self._survey = survey

    def find_class(self, module: str, name: str) -> Named:
        module, name = NAME_MAPPING.get((module, name)) or (IMPORT_MAPPING.get(module, module), name)
        full = f"{module}.{name}"
        role = role_of(full, self._survey.allowed)
        self._survey.asked[full] = role
        return Named(full, role)

    def get_extension(self, code: int) -> None:
        # The registry belongs to this process; what a file means by a number is not knowable.
        self.append(self.find_class("copyreg extension", str(code)))

    def persistent_load(self, pid: object) -> Any:
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            self._survey.holds_source = True
            return pid[1]
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"):
            raise Refused("it refers to something that is no storage")
        return self._storage(*pid[1:])

    def _storage(self, cls: object, key: object, _place: object, count: object, view: object = None) -> Storage:
        itemsize = STORAGE_BYTES.get(cls.name.rpartition(".")[2]) if isinstance(cls, Named) else None
        if itemsize is None or not isinstance(key, str) or type(count) is not int or count < 0:
            raise Refused("a storage in it has a type, a name or a size that is none")
        storage = Storage(key, itemsize, count * itemsize)
        if self._survey.storages.setdefault(key, storage) != storage:
            raise Refused(f"its storage '{escaped(key)}' has two sizes")
        held = self._survey.held(key)
        if held is None or storage.size > held:
            raise Refused(f"its storage '{escaped(key)}' claims {storage.size} bytes, and the file holds {held or 0}")
        return storage if view is None else _part_of(storage, view)

    def _frame(self) -> None:
        self.read(8)  # its length: frames tell readers how much to fetch, and mean nothing else

    def _bytearray(self) -> None:
        raise Refused("it asks for a bytearray of any size")

    def _frozenset(self) -> None:
        members = self.pop_mark()
        self._survey.claims.keys.check(members)
        self.append(frozenset())

    def _dict(self) -> None:
        items = self.pop_mark()
        self._survey.claims.keys.check(items[::2])
        self.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _set_item(self) -> None:
        self._survey.claims.keys.check(self.stack[-2:-1])
        self.load_setitem()

    def _set_items(self) -> None:
        self._survey.claims.keys.check(self.stack[::2])
        self.load_setitems()

    def _add_items(self) -> None:
        self._survey.claims.keys.check(self.stack)
        self.load_additems()

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _new(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], arguments)

    def _new_with_names(self) -> None:
        names, arguments = self.stack.pop(), self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], (arguments, names))

    def _instantiate(self, cls: object, arguments: list[object]) -> None:
        self.append(self._call(cls, tuple(arguments)))

    def _call(self, function: object, arguments: object) -> Any:
        if not isinstance(function, Named):
            raise Refused("it calls something that it did not ask for by name")
        if function.role is Role.CALL:
            return called(function, arguments, self._survey.claims)
        if function.role in (Role.INERT, Role.FOREIGN) or is_enum(self._survey.allowed.get(function.name)):
            return Made(function)
        raise Refused(f"it calls '{escaped(function.name)}'")

    def _make(self, cls: object, arguments: object) -> Any:
        if not isinstance(cls, Named):
            raise Refused("it makes something that it did not ask for by name")
        if cls.role in (Role.INERT, Role.FOREIGN, Role.ALLOWED) or (cls.role is Role.MODULE and arguments == ()):
            return Made(cls)
        if cls.name == "torch.nn.parameter.Parameter" and isinstance(arguments, tuple):
            return made_parameter(self._survey.claims, *arguments)
        if cls.name in ("collections.OrderedDict", "collections.Counter") and arguments == ():
            return {}
        raise Refused(f"it calls '{escaped(cls.name)}' with arguments")

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, dict):
            check_attributes(state, OrderedDict)
        elif isinstance(target, Claim):
            self._check_parameter_state(state)
        elif not isinstance(target, Made):
            raise Refused("it puts attributes on something that has none")
        elif target.of.role in (Role.MODULE, Role.ALLOWED):
            _check_layers(state, target.of)

    def _check_parameter_state(self, state: object) -> None:
        if not isinstance(state, tuple) or any(isinstance(part, dict) and part for part in state):
            raise Refused("a parameter in it carries hooks, or a state that is none")
        if len(state) == 4:
            self._survey.claims.view(*state)

    dispatch[pickle.FRAME[0]] = _frame
    dispatch[pickle.BYTEARRAY8[0]] = _bytearray
    dispatch[pickle.FROZENSET[0]] = _frozenset
    dispatch[pickle.DICT[0]] = _dict
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items
    dispatch[pickle.ADDITEMS[0]] = _add_items
    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.NEWOBJ[0]] = _new
    dispatch[pickle.NEWOBJ_EX[0]] = _new_with_names
    dispatch[pickle.BUILD[0]] = _build


def _part_of(storage: Storage, view: object) -> Storage:
    if not (isinstance(view, tuple) and len(view) == 3 and all(type(part) is int and part >= 0 for part in view[1:])):
        raise Refused("a part of a storage in it has a place that is none")
    key, start, count = view
    if (start + count) * storage.itemsize > storage.size:
        raise Refused(f"a part of its storage '{escaped(storage.key)}' lies beyond its end")
    return Storage(f"{storage.key}:{key}", storage.itemsize, count * storage.itemsize)


def _check_layers(state: object, of: Named) -> None:
    if of.role is Role.MODULE and not isinstance(state, dict):
        raise Refused(f"what it puts on a '{escaped(of.name)}' are no attributes")
    layers = state.get("num_layers") if isinstance(state, dict) else None
    if isinstance(layers, int) and layers > _MOST_LAYERS:
        raise Refused(f"a '{escaped(of.name)}' in it has {layers} layers")

"""What a pickle would make, as claims: storages and tensors by their sizes alone, and refusals where those are odd."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from prelu_doctor.escaping import escaped
from prelu_doctor.untrusted.pickle_names import CALLS, Role, element_bytes

_MOST_AXES = 64
_MOST_TUPLES = 1000
_BYTES_AN_ENTRY = 40  # of a dictionary or a set that a call copies
_LARGEST_KEY = 2**60  # Python hashes whole numbers modulo 2^61 - 1: larger ones can be made to collide
_MOST_RATIO = 10
_ALWAYS_FINE = 2**20
_ENCODINGS = ("latin1", "latin-1", "ascii", "utf-8", "utf8")
_FLAGS = ("conj", "neg")


class Refused(Exception):  # noqa: N818 - a decision, not a failure
    """What a pickle asks for is not granted; the text is the reason, after "refused, because"."""


@dataclass(frozen=True)
class Named:
    """Something that the pickle asked for by name."""

    name: str
    role: Role


@dataclass(eq=False)
class Made:
    """What a class was made into, or a call would have returned."""

    of: Named

    def __setitem__(self, key: object, value: object) -> None:
        """Fill nothing."""

    def append(self, value: object) -> None:
        """Append nothing."""

    def add(self, value: object) -> None:
        """Add nothing."""


@dataclass(frozen=True)
class Storage:
    """Numbers in the file that tensors are views of; sizes in bytes."""

    key: str
    itemsize: int
    size: int


@dataclass(eq=False)
class Claim:
    """A tensor, by what it claims: its number of elements, and bytes an element."""

    elements: int
    itemsize: int


class Claims:
    """What all tensors together claim, each view of a storage counted once, and what calls copy.

    Args:
        file_size: In bytes; they may claim ten times that and a mebibyte.

    Attributes:
        keys: Of the dictionaries and sets.
    """

    def __init__(self, file_size: int) -> None:
        self._limit = _MOST_RATIO * file_size + _ALWAYS_FINE
        self._file_size = file_size
        self._views: dict[object, int] = {}
        self._total = 0
        self._copied = 0
        self.keys = Keys()

    def copied(self, size: int) -> None:
        """Counts what a call copies of its argument, which a small file may pass to a thousand calls.

        Raises:
            Refused: Where all calls together copy too much.
        """
        self._copied += size
        if self._copied > self._limit:
            raise Refused(f"its calls copy more than its {self._file_size} bytes can hold")

    def view(self, storage: object, offset: object, size: object, stride: object, itemsize: int = 0) -> Claim:
        """A tensor that looks at a part of a storage.

        Raises:
            Refused: Where the part does not lie in it.
        """
        if not isinstance(storage, Storage):
            raise Refused("a tensor in it has no storage")
        shape, strides, (start,) = _sizes(size), _sizes(stride), _sizes((offset,))
        itemsize = itemsize or storage.itemsize
        if len(shape) != len(strides):
            raise Refused(f"a tensor in it has {len(shape)} axes and {len(strides)} strides")
        end = start + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1 if all(shape) else 0
        if end * itemsize > storage.size:
            raise Refused(
                f"a tensor of shape {_shown(shape)} in it reaches to byte {end * itemsize} of a storage of "
                f"{storage.size} bytes"
            )
        return self.sized(shape, itemsize, (storage.key, start, shape, strides, itemsize))

    def sized(self, size: object, itemsize: int, identity: object = None) -> Claim:
        """A tensor of a size; one with the same identity is counted once.

        Raises:
            Refused: Where all tensors together claim too much.
        """
        shape = _sizes(size)
        elements = math.prod(shape)
        identity = object() if identity is None else identity
        if identity not in self._views:
            self._views[identity] = elements * itemsize
            self._total += elements * itemsize
        if self._total > self._limit:
            raise Refused(
                f"its tensors claim more than its {self._file_size} bytes can hold: one of shape {_shown(shape)} "
                f"brings them to {self._total} bytes"
            )
        return Claim(elements, itemsize)


class Keys:
    """The keys of all dictionaries and members of all sets in a file.

    Hashing a tuple goes through all that it holds: a small pickle nests tuples so deep, or so often in each other, that
    the hash never ends or the interpreter falls over. And its hash has no secret: thousands can be made to collide.
    """

    def __init__(self) -> None:
        self._tuples = 0

    def check(self, keys: Iterable[object]) -> None:
        """Check that these are such as programs use.

        Raises:
            Refused: Where a key is nested or huge, or too many are tuples.
        """
        for key in keys:
            self._tuples += isinstance(key, tuple)
            parts = key if isinstance(key, tuple) and len(key) <= _MOST_AXES else (key,)
            if not all(_is_plain_key(part) for part in parts):
                raise Refused("a key of a dictionary in it is nested or huge")
        if self._tuples > _MOST_TUPLES:
            raise Refused(f"more than {_MOST_TUPLES} keys of dictionaries in it are tuples")


def called(function: Named, arguments: object, claims: Claims) -> Any:
    """What a call of one of the few functions that are granted would return, as a claim.

    Raises:
        Refused: Where its arguments are not what torch.save writes.
    """
    if not isinstance(arguments, tuple):
        raise Refused(f"it calls '{escaped(function.name)}' without arguments")
    try:
        return _FUNCTIONS[function.name](claims, function, *arguments)
    except TypeError as problem:
        raise Refused(f"it calls '{escaped(function.name)}' with arguments that do not fit") from problem


def made_parameter(claims: Claims, data: object = None, requires_grad: object = True) -> Claim:
    """A parameter, made of a tensor."""
    del claims
    _check_flags(requires_grad)
    return data if isinstance(data, Claim) else _no_tensor()


def check_attributes(state: object, owner: type) -> None:
    """Check that no attribute that is put on an object stands in for one of its class: a method, say.

    Raises:
        Refused: Where one does, or the state is no dictionary.
    """
    for part in state if isinstance(state, tuple) else (state,):
        if part is not None and not isinstance(part, dict):
            raise Refused(f"what it puts on a {owner.__name__} are no attributes")
        hidden = [key for key in part or () if not isinstance(key, str) or hasattr(owner, key)]
        if hidden:
            raise Refused(f"it puts '{escaped(hidden[0])}' on a {owner.__name__} in place of what belongs there")


def _is_plain_key(key: object) -> bool:
    return abs(key) < _LARGEST_KEY if isinstance(key, int) else not isinstance(key, tuple | frozenset)


def _sizes(sizes: object) -> tuple[int, ...]:
    if not isinstance(sizes, tuple | list) or len(sizes) > _MOST_AXES:
        raise Refused("a tensor in it has a shape that is none")
    if not all(type(size) is int and 0 <= size < 2**63 for size in sizes):
        raise Refused("a tensor in it has a shape, stride or offset that is no whole number from 0 on")
    return tuple(sizes)


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"


def _no_tensor() -> Claim:
    raise Refused("a parameter in it is no tensor")


def _check_flags(requires_grad: object, hooks: object = None) -> None:
    if not isinstance(requires_grad, bool):
        raise Refused("a tensor in it has a requires_grad that is neither true nor false")
    if not (hooks is None or (isinstance(hooks, dict) and not hooks)):
        raise Refused("a tensor in it carries hooks")


def _check_metadata(metadata: object) -> None:
    if metadata and not (
        isinstance(metadata, dict) and all(key in _FLAGS and isinstance(flag, bool) for key, flag in metadata.items())
    ):
        raise Refused("a tensor in it has odd metadata")


def _itemsize(dtype: object) -> int:
    found = element_bytes(dtype.name) if isinstance(dtype, Named) else None
    if found is None:
        raise Refused("a tensor in it has a type that is none")
    return found


def _tensor(claims: Claims, _of: Named, storage: object, offset: object, size: object, stride: object) -> Claim:
    return claims.view(storage, offset, size, stride)


def _tensor_v2(
    claims: Claims, _of: Named, storage: object, offset: object, size: object, stride: object,
    requires_grad: object, hooks: object, metadata: object = None,
) -> Claim:  # fmt: skip
    _check_flags(requires_grad, hooks)
    _check_metadata(metadata)
    return claims.view(storage, offset, size, stride)


def _tensor_v3(
    claims: Claims, _of: Named, storage: object, offset: object, size: object, stride: object,
    requires_grad: object, hooks: object, dtype: object, metadata: object = None,
) -> Claim:  # fmt: skip
    _check_flags(requires_grad, hooks)
    _check_metadata(metadata)
    return claims.view(storage, offset, size, stride, _itemsize(dtype))


def _quantized(
    claims: Claims, _of: Named, storage: object, offset: object, size: object, stride: object,
    _quantizer: object, requires_grad: object, hooks: object,
) -> Claim:  # fmt: skip
    _check_flags(requires_grad, hooks)
    return claims.view(storage, offset, size, stride)


def _sparse(claims: Claims, _of: Named, _layout: object, data: object) -> Claim:
    """Counted as if it were dense: any reader may make it so."""
    parts = data if isinstance(data, tuple) else ()
    tensors = [part for part in parts if isinstance(part, Claim)]
    shapes = [part for part in parts if isinstance(part, tuple)]
    if len(tensors) not in (2, 3) or len(shapes) != 1:
        raise Refused("a sparse tensor in it lacks its parts")
    return claims.sized(shapes[0], tensors[-1].itemsize)


def _meta(claims: Claims, _of: Named, dtype: object, size: object, stride: object, requires_grad: object) -> Claim:
    _sizes(stride)
    _check_flags(requires_grad)
    return claims.sized(size, _itemsize(dtype))


def _from_cpu(claims: Claims, _of: Named, data: object, dtype: object, device: object, requires_grad: object) -> Claim:
    _check_flags(requires_grad)
    if not isinstance(data, Claim) or not isinstance(device, str):
        raise Refused("a tensor of another device in it lacks its data")
    return claims.sized((data.elements,), _itemsize(dtype))


def _parameter(_claims: Claims, _of: Named, data: object, requires_grad: object, hooks: object) -> Claim:
    _check_flags(requires_grad, hooks)
    return data if isinstance(data, Claim) else _no_tensor()


def _parameter_with_state(
    claims: Claims, of: Named, data: object, requires_grad: object, hooks: object, state: object
) -> Claim:
    check_attributes(state, torch.Tensor)
    return _parameter(claims, of, data, requires_grad, hooks)


def _of_type(claims: Claims, of: Named, function: object, cls: object, arguments: object, state: object) -> Claim:
    if not (isinstance(function, Named) and function.name.startswith("torch._utils._rebuild_")):
        raise Refused(f"it calls '{escaped(of.name)}' on what builds no tensor")
    if not (isinstance(cls, Named) and cls.name in ("torch.Tensor", "torch.nn.parameter.Parameter")):
        raise Refused(f"a tensor in it is of the class '{escaped(getattr(cls, 'name', cls))}'")
    check_attributes(state, torch.Tensor)
    claim: Claim = called(function, arguments, claims)
    return claim


def _plain_parameter(claims: Claims, _of: Named, *arguments: object) -> Claim:
    return made_parameter(claims, *arguments)


def _mapping(claims: Claims, _of: Named, content: object = ()) -> dict[Any, Any]:
    if isinstance(content, dict | list | tuple):
        claims.copied(len(content) * _BYTES_AN_ENTRY)
    if isinstance(content, dict):
        return dict(content)
    if not isinstance(content, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in content):
        raise Refused("a dictionary in it is made of something else than pairs")
    claims.keys.check(pair[0] for pair in content)
    return {pair[0]: pair[1] for pair in content}


def _set(claims: Claims, of: Named, members: object = ()) -> Made:
    if not isinstance(members, list | tuple):
        raise Refused("a set in it is made of something else than a list")
    claims.copied(len(members) * _BYTES_AN_ENTRY)
    claims.keys.check(members)
    return Made(of)


def _complex(_claims: Claims, of: Named, *parts: object) -> Made:
    if not all(isinstance(part, int | float) for part in parts):
        raise Refused("a complex number in it is made of something else than numbers")
    return Made(of)


def _bytes(claims: Claims, _of: Named, text: object, encoding: object) -> bytes:
    """What the bytes are is of no interest."""
    if not isinstance(text, str) or encoding not in _ENCODINGS:
        raise Refused(f"it encodes a text as '{escaped(encoding)}'")
    claims.copied(len(text))
    return b""


def _bytearray(claims: Claims, of: Named, content: object = b"", encoding: object = "latin-1") -> Made:
    if not isinstance(content, bytes | str) or encoding not in _ENCODINGS:
        raise Refused("it asks for a bytearray of any size")
    claims.copied(len(content))
    return Made(of)


def _size(_claims: Claims, _of: Named, sizes: object) -> tuple[int, ...]:
    return _sizes(sizes)


def _named_thing(_claims: Claims, of: Named, *arguments: object) -> Made:
    """A device or a layout."""
    if not all(isinstance(argument, str | int) for argument in arguments):
        raise Refused(f"it calls '{escaped(of.name)}' with arguments that do not fit")
    return Made(of)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "builtins.set": _set,
    "builtins.complex": _complex,
    "builtins.bytearray": _bytearray,
    "_codecs.encode": _bytes,
    "torch.Size": _size,
    "torch.device": _named_thing,
    "torch.serialization._get_layout": _named_thing,
    "torch.nn.parameter.Parameter": _plain_parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _from_cpu,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter_with_state,
}
assert _FUNCTIONS.keys() == CALLS

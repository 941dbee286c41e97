"""Ways in which a file comes to harm, each drawn from a seeded generator."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes | None]
"""The harmed bytes; None where a file has not what the mutation needs."""

_TEXTS = (b"", b"not a model\n", b"<!doctype html><html></html>", b"version https://git-lfs.github.com/spec/v1\n")
_NUMBERS = (b"0", b"-1", b"1", b"4294967296", b"99999999999999999999", b'"1"', b"null", b"1e999", b"[]", b"NaN")


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))] if data else data


def bits_flipped(data: bytes, rng: random.Random) -> bytes:
    harmed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 8, 64))):
        if harmed:
            harmed[rng.randrange(len(harmed))] ^= 1 << rng.randrange(8)
    return bytes(harmed)


def head_flipped(data: bytes, rng: random.Random) -> bytes:
    """Most readers put what they trust first."""
    head = bits_flipped(data[:512], rng)
    return head + data[512:]


def zeroed(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    length = min(rng.choice((1, 16, 512, 65536)), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def inserted(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.choice((1, 8, 100))) + data[place:]


def doubled(data: bytes, rng: random.Random) -> bytes:
    return data + data


def replaced(data: bytes, rng: random.Random) -> bytes:
    return rng.choice(_TEXTS)


def number_changed(data: bytes, rng: random.Random) -> bytes | None:
    """In a JSON text, or in a header of one: lengths, shapes, versions."""
    spots = list(re.finditer(rb"(?<=[:,\[ ])-?\d+(?=[,\]} ])", data[:200_000]))
    if not spots:
        return None
    spot = rng.choice(spots)
    harmed = data[: spot.start()] + rng.choice(_NUMBERS) + data[spot.end() :]
    return _relengthened(data, harmed)


def word_changed(data: bytes, rng: random.Random) -> bytes | None:
    """In a JSON text: a name that means something."""
    spots = list(re.finditer(rb'"[\w.\-]{1,40}"', data[:200_000]))
    if not spots:
        return None
    spot = rng.choice(spots)
    word = rng.choice((b'"F16"', b'"\\u001b[31m"', b'"../../etc/passwd"', b'"[red]x[/red]"', b'""', b"7", b"{}"))
    return _relengthened(data, data[: spot.start()] + word + data[spot.end() :])


def _relengthened(data: bytes, harmed: bytes) -> bytes:
    """A safetensors file tells the length of its header in front of it."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or length > len(data):
        return harmed
    return (length + len(harmed) - len(data)).to_bytes(8, "little", signed=False) + harmed[8:]


def _members(data: bytes) -> dict[str, bytes] | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        return None


def _zipped(members: list[tuple[str, bytes]]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return held.getvalue()


def members_swapped(data: bytes, rng: random.Random) -> bytes | None:
    members = _members(data)
    if not members or len(members) < 2:
        return None
    one, other = rng.sample(sorted(members), 2)
    members[one], members[other] = members[other], members[one]
    return _zipped(list(members.items()))


def member_dropped(data: bytes, rng: random.Random) -> bytes | None:
    members = _members(data)
    if not members:
        return None
    members.pop(rng.choice(sorted(members)))
    return _zipped(list(members.items()))


def member_renamed(data: bytes, rng: random.Random) -> bytes | None:
    members = _members(data)
    if not members:
        return None
    old = rng.choice(sorted(members))
    new = rng.choice((f"../{old}", f"/{old}", "x", old.upper(), "archive/data.pkl", "evil/\x1b[31m.py"))
    return _zipped([(new if name == old else name, content) for name, content in members.items()])


def member_harmed(data: bytes, rng: random.Random) -> bytes | None:
    """With a right checksum, so that the harm reaches whoever reads the member."""
    members = _members(data)
    if not members:
        return None
    # Small members tell the structure; the large ones are weights.
    small = sorted(name for name, content in members.items() if 0 < len(content) < 100_000)
    if not small:
        return None
    name = rng.choice(small)
    harm = rng.choice((bits_flipped, bits_flipped, truncated, zeroed, number_changed, word_changed, inserted))
    content = harm(members[name], rng)
    if content is None:
        return None
    members[name] = content
    return _zipped(list(members.items()))


def numbers_not_finite(data: bytes, rng: random.Random) -> bytes | None:
    """A few float32 weights become NaN or infinite, wherever in the file weights may lie."""
    members = _members(data)
    if members is None:
        return _not_finite(data, rng)
    weights = sorted(name for name, content in members.items() if "data/" in name and len(content) >= 4)
    if not weights:
        return None
    name = rng.choice(weights)
    members[name] = _not_finite(members[name], rng)
    return _zipped(list(members.items()))


def _not_finite(data: bytes, rng: random.Random) -> bytes:
    harmed = bytearray(data)
    for _ in range(rng.choice((1, 3))):
        place = 4 * rng.randrange(len(data) // 4 + 1)
        harmed[place : place + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), float("-inf"))))
    return bytes(harmed[: len(data)])


def storage_type_changed(data: bytes, rng: random.Random) -> bytes | None:
    """The pickle claims another data type for all its tensors."""
    other = rng.choice((b"HalfStorage", b"DoubleStorage", b"BoolStorage", b"ComplexFloatStorage", b"QInt8Storage"))
    members = _members(data)
    if members is None:
        return data.replace(b"FloatStorage", other) if b"FloatStorage" in data else None
    pickles = [name for name, content in members.items() if b"FloatStorage" in content]
    if not pickles:
        return None
    return _zipped([(n, c.replace(b"FloatStorage", other) if n in pickles else c) for n, c in members.items()])


def json_changed(data: bytes, rng: random.Random) -> bytes | None:
    """A JSON document with one of its entries gone or of another type."""
    try:
        document = json.loads(data)
    except ValueError:
        return None
    places = list(_places(document))
    if not places:
        return None
    holder, key = rng.choice(places)
    if rng.random() < 0.4 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = rng.choice((None, -1, 10**12, "x", [], {}, True, [[10**9]], {"auto_map": "a.b"}))
    return json.dumps(document).encode()


def _places(value: object) -> list[tuple[dict[str, object] | list[object], object]]:
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        pairs = list(enumerate(value)) if isinstance(value, list) else []
    return [(value, key) for key, _ in pairs] + [place for _, inner in pairs for place in _places(inner)]


MUTATIONS: tuple[Mutation, ...] = (
    truncated,
    bits_flipped,
    bits_flipped,
    head_flipped,
    zeroed,
    inserted,
    doubled,
    replaced,
    number_changed,
    word_changed,
    members_swapped,
    member_dropped,
    member_renamed,
    member_harmed,
    member_harmed,
    member_harmed,
    numbers_not_finite,
    storage_type_changed,
    json_changed,
)


def mutated(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """The name of a mutation drawn at random, and what it made of the bytes."""
    while True:
        mutation = rng.choice(MUTATIONS)
        harmed = mutation(data, rng)
        if harmed is not None:
            return mutation.__name__, harmed

"""Pickles written by hand, opcode by opcode, and the files that torch.save would put them in."""

from __future__ import annotations

import zipfile
from pathlib import Path

EMPTY_DICT = b"}"
FALSE, TRUE, NONE = b"\x89", b"\x88", b"N"


def named(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + len(raw).to_bytes(4, "little") + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def dict_of(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in items.items()) + b"u"


def call(function: str, *arguments: bytes) -> bytes:
    return named(function) + tuple_of(*arguments) + b"R"


def made(cls: str, *arguments: bytes) -> bytes:
    return named(cls) + tuple_of(*arguments) + b"\x81"


def storage(key: str = "0", count: int = 4, cls: str = "torch.FloatStorage") -> bytes:
    return tuple_of(text("storage"), named(cls), text(key), text("cpu"), number(count)) + b"Q"


def tensor(
    size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0, of: bytes | None = None
) -> bytes:
    return call(
        "torch._utils._rebuild_tensor_v2",
        of or storage(),
        number(offset),
        tuple_of(*map(number, size)),
        tuple_of(*map(number, stride)),
        FALSE,
        call("collections.OrderedDict"),
    )


def pickle_of(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def saved_zip(path: Path, body: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """A file in the format of torch.save whose pickle is the body; one storage of 16 bytes, if nothing else is said."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", body)
        archive.writestr("m/byteorder", b"little")
        for key, content in (storages or {"0": bytes(16)}).items():
            archive.writestr(f"m/data/{key}", content)
        archive.writestr("m/version", b"3\n")
    return path


MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")


def saved_legacy(path: Path, body: bytes, keys: bytes = b"]", storages: bytes = b"") -> Path:
    """A file in the old format: magic number, version, the machine, the object, names of storages, storages."""
    path.write_bytes(MAGIC + pickle_of(number(1001)) + pickle_of(EMPTY_DICT) + body + pickle_of(keys) + storages)
    return path

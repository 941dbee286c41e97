"""A part of an open file, as a file of its own: no byte outside of it can be read."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from typing_extensions import Buffer


class FilePart(io.RawIOBase):
    """Bytes `start` to `start + length` of a file, without copying them.

    Args:
        file: Open for reading; it belongs to the caller, and no one else may read it meanwhile.
        start: Of the part's first byte.
        length: In bytes.
    """

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        super().__init__()
        self._file = file
        self._start = start
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The place of the next byte, counted from the part's start."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place in the part or behind its end; returns it."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        if origin + offset < 0:
            raise OSError("a place before the file's start")
        self._at = origin + offset
        return self._at

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill the buffer as far as the part goes; returns the number of bytes."""
        room = memoryview(buffer).cast("B")
        wanted = max(0, min(len(room), self._length - self._at))
        self._file.seek(self._start + self._at)
        read = self._file.readinto(room[:wanted])  # type: ignore[attr-defined]
        self._at += read
        return int(read)

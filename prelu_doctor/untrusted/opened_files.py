"""One opening of a file for all that is done with it: what was checked and hashed is what is read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from prelu_doctor.errors import DoctorError
from prelu_doctor.escaping import escaped

_DESCRIPTORS = Path("/proc/self/fd")


@dataclass(frozen=True)
class OpenedFile:
    """A file that stays the same one, whatever comes to stand at its path.

    Attributes:
        path: To read it by. Where the system has `/proc/self/fd`, this is the open file itself.
        sha256: Of its bytes, in hex.
    """

    path: Path
    sha256: str


@dataclass(frozen=True)
class HashedFile:
    """A file that was read.

    Attributes:
        path: As the user, or another file, named it.
        sha256: Of the bytes that were read, in hex.
    """

    path: Path
    sha256: str


@contextlib.contextmanager
def opened(path: Path, *, error: type[DoctorError]) -> Iterator[OpenedFile]:
    """Opens a file once, hashes it, and sees to it that it is the same until the end.

    A file that is moved or replaced meanwhile does no harm where there is `/proc/self/fd`: the open one is read on.
    Elsewhere, and where its bytes are written to, the end is an error.

    Args:
        path: A regular file.
        error: The leaf to raise.

    Raises:
        DoctorError: Of that leaf, where the file cannot be opened, is not a regular one, or changed; and whatever is
            raised inside, with the path that the user gave for the one that was read.
    """
    with _binary(path, error) as file:
        before = _state(os.fstat(file.fileno()))
        through = _through(file, path)
        try:
            yield OpenedFile(through, hashlib.file_digest(file, "sha256").hexdigest())
        except DoctorError as problem:
            _check_unchanged(file, path, through, before, error)
            raise _renamed(problem, through, path) from problem.__cause__
        _check_unchanged(file, path, through, before, error)


def bytes_of(path: Path, most: int, *, error: type[DoctorError]) -> bytes:
    """The bytes of a small file, read once.

    Args:
        path: A regular file.
        most: How many it may have.
        error: The leaf to raise.

    Raises:
        DoctorError: Of that leaf, where the file cannot be opened, is not a regular one, or is longer.
    """
    with _binary(path, error) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= most else b""
    if len(content) != size:
        problem = f"longer than {most} bytes" if size > most else "changed while it was read"
        raise error(f"{escaped(path)}: {problem}", "a file of the size that programs write")
    return content


def _binary(path: Path, error: type[DoctorError]) -> BufferedReader:
    try:
        # A pipe that took the file's place must not be waited for.
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"{escaped(path)}: {reason}", "a readable file", "check the path and its permissions") from problem
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise error(f"{escaped(path)}: not a regular file", "a file on disk", "copy it to disk first")
    return os.fdopen(number, "rb")


def _through(file: BufferedReader, path: Path) -> Path:
    descriptor = _DESCRIPTORS / str(file.fileno())
    return descriptor if descriptor.exists() else path


def _state(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _check_unchanged(
    file: BufferedReader, path: Path, through: Path, before: tuple[int, ...], error: type[DoctorError]
) -> None:
    try:
        now = os.fstat(file.fileno()) if through != path else path.stat()
    except OSError:
        now = None
    if now is None or _state(now) != before:
        raise error(
            f"{escaped(path)}: changed while it was read",
            "a file that nobody writes to meanwhile",
            "run it again on a copy of the file",
        )


def _renamed(problem: DoctorError, through: Path, path: Path) -> DoctorError:
    """The error with the user's path where the message has the one that was read."""
    if through == path:
        return problem
    parts = (problem.found, problem.expected, problem.remedy)
    return type(problem)(*(part.replace(str(through), escaped(path)) for part in parts))

"""The second files of an ONNX model: opened once, checked, and read through the same descriptor.

Runtimes follow links and trust lengths, so a hostile file could pull any file of this machine into its weights. A name
that was checked may stand for another file when it is opened again; an open file stays what it is.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType

from onnx import TensorProto

from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped


class SecondFiles:
    """The files beside a model in which its tensors keep their data.

    Args:
        path: The model's own file; the others lie in its folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: dict[str, int] = {}
        self._left: dict[str, int] = {}

    def __enter__(self) -> SecondFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read(self, tensor: TensorProto, size: int) -> bytes:
        """The data of a tensor.

        All tensors of a file together may read as many bytes as it has, so that no file grows in memory.

        Args:
            tensor: One whose data lies outside.
            size: Bytes that its shape and type ask for.

        Raises:
            CheckpointError: The second file is not a plain file inside the folder, or does not hold what is claimed.
        """
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        problem = _name_problem(location)
        if not problem and location not in self._open:
            problem = self._opened(location)
        if not problem:
            problem = self._extent_problem(location, entries, size)
        if problem:
            raise CheckpointError(
                f"{escaped(self._path)}: tensor {escaped(tensor.name)} keeps its data in "
                f"{escaped(location or 'nothing')}, which {problem}",
                "a regular file inside the model's folder, without links, long enough for the tensor",
                "get the model together with its data file from its source, or export it again",
            )
        self._left[location] -= size
        with os.fdopen(os.dup(self._open[location]), "rb") as file:
            file.seek(int(entries.get("offset") or 0))
            return file.read(size)

    def _opened(self, location: str) -> str:
        """Opens a second file; what is wrong with it, or nothing."""
        *folders, name = PurePosixPath(location).parts
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            for step in folders:
                inner = _open_unlinked(step, folder, directory=True)
                os.close(folder)
                folder = inner
            descriptor = _open_unlinked(name, folder)
        except OSError as error:
            linked = any(step.is_symlink() for step in self._steps(location))
            return "is or passes a symbolic link" if linked else _os_problem(error)
        finally:
            os.close(folder)
        self._open[location] = descriptor
        status = os.fstat(descriptor)
        self._left[location] = status.st_size
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"
        return "" if status.st_nlink == 1 else "has hard links elsewhere"

    def _steps(self, location: str) -> list[Path]:
        parts = PurePosixPath(location).parts
        return [self._path.parent.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]

    def _extent_problem(self, location: str, entries: dict[str, str], size: int) -> str:
        held = os.fstat(self._open[location]).st_size
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or size)
        except ValueError:
            return "is addressed by something that is not a number"
        if offset < 0 or length < 0 or offset + length > held:
            return f"has {held} bytes, too few for {length} bytes at {offset}"
        if length != size:
            return f"is to hold {length} bytes of it, where its shape and type ask for {size}"
        if size > self._left[location]:
            return f"has {held} bytes, fewer than all the tensors in it claim together"
        return ""


def _name_problem(location: str) -> str:
    pure, windows = PurePosixPath(location), PureWindowsPath(location)
    if not pure.parts or "\0" in location:
        return "names no file"
    if pure.is_absolute() or windows.drive or windows.root or "\\" in location or ".." in pure.parts:
        return "is not a plain path inside the folder"
    return ""


def _open_unlinked(name: str, folder: int, *, directory: bool = False) -> int:
    """Opens a file in an open folder unless it is a symbolic link; a pipe does not make it wait."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_DIRECTORY if directory else 0)
    return os.open(name, flags, dir_fd=folder)


def _os_problem(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return f"cannot be opened: {escaped(error.strerror or error)}"

"""The records of a program's zip archive, read from memory, so that what is checked is what is run."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, reason_of
from prelu_doctor.untrusted.zip_checks import check_open_zip


class UnsafeProgramError(Exception):
    """The program asks for more than arithmetic on tensors; the message says for what."""


@dataclass(frozen=True)
class ProgramArchive:
    """A zip archive as torch writes it: its records below one top folder.

    Attributes:
        path: The file, for messages.
        content: All its bytes.
        names: Of its records, without the top folder.
    """

    path: Path
    content: bytes
    names: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> ProgramArchive:
        """Reads the file once, and checks the archive in the bytes that were read.

        Raises:
            CheckpointError: It is no sound zip archive, or claims more than it holds, or two records share a name.
        """
        content = path.read_bytes()
        check_open_zip(io.BytesIO(content), path, error=CheckpointError)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
        return cls(path, content, tuple(entry.filename.partition("/")[2] or entry.filename for entry in entries))

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(io.BytesIO(self.content))

    @cached_property
    def _entries(self) -> dict[str, zipfile.ZipInfo]:
        return dict(zip(self.names, self._zip.infolist(), strict=True))

    def read(self, name: str) -> bytes:
        """The bytes of a record.

        Raises:
            CheckpointError: It is not there or cannot be read.
        """
        try:
            return self._zip.read(self._entries[name])
        except KeyError:
            raise CheckpointError(
                f"{escaped(self.path)}: it has no '{escaped(name)}'", "a whole archive", "save it again with torch"
            ) from None
        except Exception as error:
            raise damage(self.path, error) from error


def damage(path: Path, error: BaseException) -> CheckpointError:
    """What to say of a program that cannot be read."""
    return CheckpointError(
        f"{escaped(path)}: cannot be read: {reason_of(error)}",
        "a whole file as torch writes it",
        "copy or download it again, or save it anew with the torch that is installed here",
    )

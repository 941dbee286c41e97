"""The records of a program's zip archive, read from memory, so that what is checked is what is run."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, reason_of

_COMPRESSED = (".py", ".debug_pkl", ".pkl")
"""Endings of what torch compresses."""
_EXPANSION = 20
"""How much larger than the file everything in it may be."""


class UnsafeProgramError(Exception):
    """The program asks for more than arithmetic on tensors; the message says for what."""


@dataclass(frozen=True)
class ProgramArchive:
    """A zip archive as torch writes it: its records below one top folder, tensors stored plainly.

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
        """Reads the file once.

        Raises:
            CheckpointError: It is no sound zip archive, or claims more than it holds, or two records share a name.
        """
        content = path.read_bytes()
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                entries = archive.infolist()
        except Exception as error:  # a hostile directory raises whatever it likes
            raise damage(path, error) from error
        claimed = sum(entry.file_size for entry in entries)
        packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        squeezed = [entry.filename for entry in packed if not entry.filename.endswith(_COMPRESSED)]
        if claimed > _EXPANSION * len(content) or squeezed:
            raise CheckpointError(
                f"{escaped(path)}: its entries claim {claimed:,} bytes, the file has {len(content):,}"
                + (f", and '{escaped(squeezed[0])}' is compressed" if squeezed else ""),
                "an archive as torch writes it, which compresses code alone",
                "save it again with torch",
            )
        # torch finds a record without regard to case.
        often = Counter(entry.filename.casefold() for entry in entries)
        twice = [entry.filename for entry in entries if often[entry.filename.casefold()] > 1]
        if twice:
            raise CheckpointError(
                f"{escaped(path)}: two entries are called '{escaped(twice[0])}'",
                "one entry of each name",
                "save it again with torch",
            )
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

"""Zip archives, looked at before they are read: where their parts lie, what they are called, what they unpack to."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import IO

from prelu_doctor.errors import DoctorError
from prelu_doctor.escaping import escaped, plain

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s5H3L2H")
_USUAL_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LEADS_OUT = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
_MOST_RATIO = 10
_ALWAYS_FINE = 2**20
"""Bytes: so much may come out of any archive, however small."""


def check_zip(path: Path, *, error: type[DoctorError], case_matters: bool = False) -> None:
    """Check that an archive says one thing to every reader, and unpacks to about what it is.

    Two readers must not see two archives in one file: the directory stands once, at the end, without a comment behind
    it; every part lies before it, overlaps no other, and has one name, the same in both places where names stand. No
    name leads out of a folder, nothing is a link, and all parts together unpack to at most ten times the file and a
    mebibyte.

    Args:
        path: The archive.
        error: The leaf to raise.
        case_matters: Whether its readers tell `x` from `X`. torch's do not: one of two such parts is checked and the
            other one read.

    Raises:
        DoctorError: Of that leaf, with the reason.
    """
    with path.open("rb") as file:
        check_open_zip(file, path, error=error, case_matters=case_matters)


def check_open_zip(file: IO[bytes], path: Path, *, error: type[DoctorError], case_matters: bool = False) -> None:
    """The same for an archive that is open, and may be a part of a file; the path is for messages."""
    try:
        with zipfile.ZipFile(file) as archive:
            size = file.seek(0, 2)
            problem = _first_problem(archive.infolist(), archive.start_dir, file, size, case_matters)
    except (OSError, ValueError, struct.error, zipfile.BadZipFile, NotImplementedError, EOFError) as damage:
        raise error(
            f"{escaped(path)}: a zip archive that is damaged: {escaped(damage, 200)}",
            "a whole archive",
            "copy or download it again, or save it anew",
        ) from damage
    if problem:
        raise error(
            f"{escaped(path)}: refused, because {problem}",
            "a zip archive as the program that saves such files writes it",
            "copy or download it again, or save it anew, without compression",
        )


def _first_problem(
    entries: list[zipfile.ZipInfo], start_dir: int, file: IO[bytes], size: int, case_matters: bool
) -> str:
    return (
        _problem_of_names(entries, case_matters)
        or _problem_of_sizes(entries, size)
        or _problem_of_directory(start_dir, file, size)
        or _problem_of_places(entries, start_dir, file)
    )


def _problem_of_names(entries: list[zipfile.ZipInfo], case_matters: bool) -> str:
    seen: set[str] = set()
    for entry in entries:
        name, shown = entry.filename, f"'{escaped(entry.orig_filename)}'"
        if plain(entry.orig_filename) != entry.orig_filename:
            return f"the name of its part {shown} holds characters that do not print"
        if _LEADS_OUT.match(name) or ".." in re.split(r"[/\\]", name):
            return f"the name of its part {shown} leads out of the archive"
        if stat.S_ISLNK(entry.external_attr >> 16):
            return f"its part {shown} is a link"
        found_by = name if case_matters else name.casefold()
        if found_by in seen:
            return f"it has two parts called {shown}"
        seen.add(found_by)
    return ""


def _problem_of_sizes(entries: list[zipfile.ZipInfo], size: int) -> str:
    for entry in entries:
        if entry.compress_type not in _USUAL_METHODS or entry.flag_bits & 0x1:
            return f"its part '{escaped(entry.filename)}' is packed in an unusual way"
        if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
            return f"its part '{escaped(entry.filename)}' says two sizes"
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _MOST_RATIO * size + _ALWAYS_FINE:
        return f"its {size} bytes would unpack to {unpacked}, out of proportion"
    return ""


def _problem_of_directory(start_dir: int, file: IO[bytes], size: int) -> str:
    """Where the directory lies must not be a matter of how one looks for it."""
    end = size - _END.size
    file.seek(end)
    signature, *_, offset, comment = _END.unpack(file.read(_END.size))
    if signature != b"PK\5\6" or comment:
        return "something stands behind its directory"
    file.seek(max(0, end - _END64_LOCATOR.size))
    locator = file.read(_END64_LOCATOR.size)
    if locator.startswith(b"PK\6\7"):
        place = end - _END64_LOCATOR.size - _END64.size
        if _END64_LOCATOR.unpack(locator)[2] != place or place < 0:
            return "its directory does not lie where it says"
        file.seek(place)
        signature, *_, offset = _END64.unpack(file.read(_END64.size))
        if signature != b"PK\6\6":
            return "its directory does not lie where it says"
    return "" if offset == start_dir else "its directory does not lie where it says"


def _problem_of_places(entries: list[zipfile.ZipInfo], start_dir: int, file: IO[bytes]) -> str:
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        shown = f"'{escaped(entry.filename)}'"
        if entry.header_offset < end:
            return f"its part {shown} overlaps another"
        if end == 0 and entry.header_offset:
            return "something stands before its first part"
        file.seek(entry.header_offset)
        signature, *_, name_length, extra_length = _LOCAL.unpack(file.read(_LOCAL.size))
        name = file.read(name_length).decode("utf-8" if entry.flag_bits & 0x800 else "cp437")
        if signature != b"PK\3\4" or name != entry.orig_filename:
            return f"its part {shown} has another name where it lies"
        end = entry.header_offset + _LOCAL.size + name_length + extra_length + entry.compress_size
        if end > start_dir:
            return f"its part {shown} is longer than the archive"
    return ""

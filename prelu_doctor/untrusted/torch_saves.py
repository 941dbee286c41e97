"""A torch.save file, surveyed first and then read by torch's weights-only reader."""

from __future__ import annotations

import mmap
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from prelu_doctor.errors import DoctorError
from prelu_doctor.escaping import escaped, listed, reason_of
from prelu_doctor.untrusted.pickle_names import Role, granted, may_be_class
from prelu_doctor.untrusted.pickle_survey import Stream, Survey, survey_pickle
from prelu_doctor.untrusted.pickle_values import Claims, Refused
from prelu_doctor.untrusted.zip_checks import check_open_zip

_PICKLE = "data.pkl"
_PROTOCOL = pickle.PROTO[0]
_TRUST = "pass --trust, if you made the file yourself"


@dataclass(frozen=True)
class Advice:
    """What to say of a file that is not read.

    Attributes:
        error: The leaf to raise.
        expected: What should be in the file.
        remedy: How to save that.
        may_trust: Whether there are options (`--allow-class`, `--trust`) by which it is read nevertheless.
    """

    error: type[DoctorError]
    expected: str
    remedy: str
    may_trust: bool = False


@dataclass(frozen=True)
class Saved:
    """What a torch.save file held.

    Attributes:
        content: The object, its tensors on the CPU.
        stand_ins: Names of harmless classes that were read as inert stand-ins.
        asked: Every name that the file asks for.
    """

    content: Any
    stand_ins: tuple[str, ...]
    asked: frozenset[str]


def read_torch_save(path: Path, *, zipped: bool, advice: Advice, allowed: Mapping[str, type] | None = None) -> Saved:
    """The object in a torch.save file, of which nothing runs.

    Args:
        path: The file.
        zipped: True for the zip format, False for the one before it (which holds weights only).
        advice: For messages.
        allowed: Classes of the user's, by the names that the file may call them.

    Raises:
        DoctorError: Of that leaf, where the file is damaged, asks for what is not granted, or claims more than it
            holds.
    """
    allowed = allowed or {}
    with path.open("rb") as file:
        survey = surveyed(file, path, zipped=zipped, advice=advice, allowed=allowed)
    grants = [(thing, name) for name, role in survey.asked.items() if (thing := granted(name, role, allowed))]
    try:
        content = _loaded(path, zipped, grants)
    except Exception as problem:
        raise damage(path, problem, advice.error) from problem
    stand_ins = tuple(name for name, role in survey.asked.items() if role is Role.INERT)
    return Saved(content, stand_ins, frozenset(survey.asked))


def surveyed(
    file: IO[bytes], path: Path, *, zipped: bool, advice: Advice, allowed: Mapping[str, type] | None = None
) -> Survey:
    """What a torch.save file asks for, all of which is granted: torch's weights-only reader may read it then.

    Args:
        file: Open for reading; in the zip format, it may be a part of a file.
        path: For messages.
        zipped: True for the zip format, False for the one before it.
        advice: For messages.
        allowed: Classes of the user's, by the names that the file may call them.

    Raises:
        DoctorError: Of the advice's leaf, as `read_torch_save`.
    """
    if zipped:
        check_open_zip(file, path, error=advice.error)
    survey = Survey(Claims(file.seek(0, 2)), allowed or {}, lambda _key: None)
    try:
        (_survey_zip if zipped else _survey_legacy)(file, survey)
    except Exception as problem:  # a hostile pickle raises whatever it likes
        raise _refusal_or_damage(path, survey, problem, advice) from problem
    if survey.foreign:
        raise _foreign(path, survey.foreign, advice)
    return survey


def damage(path: Path, problem: Exception, error: type[DoctorError], what: str = "") -> DoctorError:
    """The error for a file that cannot be read."""
    return error(
        f"{escaped(path)}: cannot be read: {what}{reason_of(problem)}",
        "a whole file as torch.save writes it (pickle protocol 2, which is its default)",
        "copy or download it again, or save it anew",
    )


def mappable(path: Path) -> bool:
    """Whether torch can map a zip file: by its name it does not take it for safetensors, and nothing is compressed.

    Mapping a compressed entry would show its packed bytes as weights.
    """
    with zipfile.ZipFile(path) as archive:
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    return stored and not path.name.endswith(".safetensors")


def _survey_zip(file: IO[bytes], survey: Survey) -> None:
    with zipfile.ZipFile(file) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        top = _top_folder(list(sizes))
        survey.held = lambda key: sizes.get(f"{top}/data/{key}")
        with archive.open(f"{top}/{_PICKLE}") as entry:
            data = entry.read(sizes[f"{top}/{_PICKLE}"])  # a size: an entry may unpack to more than it says
    survey_pickle(Stream(data), survey)
    _check_protocol(data)


def _top_folder(names: list[str]) -> str:
    """The only folder at the top: torch's reader takes the first name's, and everything must lie in it.

    Raises:
        Refused: Where there are several.
    """
    tops = {name.partition("/")[0] for name in names}
    if len(tops) > 1:
        raise Refused(f"it has several folders at the top: {listed(sorted(tops), 3)}")
    return tops.pop()


def _survey_legacy(file: IO[bytes], survey: Survey) -> None:
    """The old format: a magic number, a version, facts on the machine, the object, names of storages, the storages."""
    try:
        data: bytes | mmap.mmap = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:  # bytes in memory
        file.seek(0)
        data = file.read()
    size = len(data)
    survey.held = lambda _key: size
    stream = Stream(data)
    for _ in range(4):
        start = stream.position
        survey_pickle(stream, survey)
    keys = survey_pickle(stream, survey)
    if survey.holds_source:
        raise Refused("it holds a module in the old format of torch.save, together with its classes' source code")
    _check_storages(keys, survey, size - stream.position)
    _check_protocol(data[start : start + 2])


def _check_storages(keys: object, survey: Survey, held: int) -> None:
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("the names of its storages are none")
    claimed = sum(8 + survey.storages[key].size for key in keys if key in survey.storages)
    if len(set(keys)) < len(keys) or set(keys) != set(survey.storages) or claimed > held:
        raise Refused(f"its storages claim {claimed} bytes, and the file holds {held} of storages")


def _check_protocol(data: bytes) -> None:
    if data[0] != _PROTOCOL or data[1] != 2:
        number = data[1] if data[0] == _PROTOCOL else "0 or 1"
        raise Refused(
            f"it is written in pickle protocol {number}: torch's safe reader knows pickle protocol 2, which is the "
            "default of torch.save"
        )


def _loaded(path: Path, zipped: bool, grants: list[tuple[Any, str]]) -> Any:
    known = torch.serialization.get_safe_globals()  # those of the program that calls this one stay as they are
    with (
        warnings.catch_warnings(),
        torch.serialization.safe_globals([grant for grant in grants if grant not in known]),
        torch.sparse.check_sparse_tensor_invariants(),
    ):
        warnings.simplefilter("ignore")  # about old storages and protocols: what matters comes as an error
        if zipped and mappable(path):
            # Whatever the program that calls this one has chosen: nothing may write through to the file.
            with torch.serialization.set_default_mmap_options(mmap.MAP_PRIVATE):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # An open file, because torch takes a path that ends with .safetensors for one, whatever it holds.
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)


def _refusal_or_damage(path: Path, survey: Survey, problem: Exception, advice: Advice) -> DoctorError:
    if survey.foreign:
        return _foreign(path, survey.foreign, advice)
    if isinstance(problem, Refused):
        return _refusal(path, str(problem), advice, _TRUST)
    return damage(path, problem, advice.error, f"its pickle is damaged ({type(problem).__name__}): ")


def _foreign(path: Path, names: list[str], advice: Advice) -> DoctorError:
    classes = names if all(may_be_class(name) for name in names) else []
    options = " ".join(f"--allow-class {escaped(name)}{_where(name)}" for name in classes)
    imports = f"pass {options}, which imports {'it' if len(classes) == 1 else 'them'}"
    reason = f"reading it would run the code of {listed(names, 5)}"
    return _refusal(path, reason, advice, f"{imports}; or {_TRUST}" if options else _TRUST)


def _where(name: str) -> str:
    """A script's own classes are called `__main__`: the user must say which file that was."""
    return f"=path/to/file.py:{escaped(name.removeprefix('__main__.'))}" if name.startswith("__main__.") else ""


def _refusal(path: Path, reason: str, advice: Advice, options: str) -> DoctorError:
    remedy = f"{advice.remedy}; or {options}" if advice.may_trust else advice.remedy
    return advice.error(f"{escaped(path)}: refused, because {reason}", advice.expected, remedy)

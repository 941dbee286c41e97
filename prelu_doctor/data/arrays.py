"""Files of arrays, read without running code: safetensors, NumPy's .npz and .npy, and torch.save files."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped, listed, reason_of
from prelu_doctor.file_kinds import FileKind, recognised
from prelu_doctor.untrusted.opened_files import opened
from prelu_doctor.untrusted.torch_saves import Advice, read_torch_save
from prelu_doctor.untrusted.zip_checks import check_zip

_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_REMEDY = "save them with safetensors.torch.save_file({'x': inputs, 'y': labels}, 'data.safetensors')"
_ADVICE = Advice(DataError, "numeric tensors, which need no code", _REMEDY)


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays in a file by name, on the CPU; a lone array is called `x`, a pair `x` and `y`.

    Args:
        path: Recognised by its content.

    Raises:
        DataError: Where the file cannot be read or holds something other than numeric arrays.
    """
    _reader(path)  # before it is opened: a pipe cannot be, and should be called so
    with opened(path, error=DataError) as file:
        try:
            arrays = _reader(file.path)(file.path)
        except DataError:
            raise
        except Exception as error:  # a hostile file makes its reader raise whatever it likes
            raise DataError(
                f"{escaped(path)}: cannot be read: {_reason(error)}", "a whole file of numeric arrays", _REMEDY
            ) from error
    if not arrays:
        raise DataError(f"{escaped(path)}: holds no arrays", "an array of inputs, called x", _REMEDY)
    return arrays


def _reader(path: Path) -> Callable[[Path], dict[str, Tensor]]:
    kind = recognised(path, error=DataError)
    reader = _READERS.get(kind)
    if reader is None:
        remedy = f"--data {escaped(path)}:callable" if path.suffix == ".py" else _REMEDY
        raise DataError(f"{escaped(path)}: {kind}", "a .safetensors, .npz, .npy or .pt file of arrays", remedy)
    return reader


def _reason(error: Exception) -> str:
    text = str(error)
    if "allow_pickle" in text:  # NumPy's way to say that it asks for a class
        return "it holds Python objects, whose code would run"
    return reason_of(error)


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def _from_npz(path: Path) -> dict[str, Tensor]:
    check_zip(path, error=DataError, case_matters=True)
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as part:
                _check_claim(part, entry.file_size, path, entry.filename)
    with np.load(path, allow_pickle=False) as arrays:
        return {name: _tensor(arrays[name], name, path) for name in arrays.files}


def _from_npy(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        _check_claim(file, path.stat().st_size, path, "x")
    return {"x": _tensor(np.load(path, allow_pickle=False), "x", path)}


def _check_claim(file: IO[bytes], size: int, path: Path, name: str) -> None:
    """Check that an array's header claims no more bytes than there are: NumPy makes room for what it claims first."""
    read = _HEADER_READERS.get(np.lib.format.read_magic(file))
    if read is None:  # a version for names of columns alone
        raise DataError(f"{escaped(path)}: '{escaped(name)}' has columns of its own", "numbers", _REMEDY)
    shape, _, dtype = read(file)
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if not dtype.hasobject and (claimed > there or min(shape, default=0) < 0):
        raise DataError(
            f"{escaped(path)}: '{escaped(name)}' claims {claimed} bytes, and the file holds {there} of it",
            "a whole file of numeric arrays",
            _REMEDY,
        )


def _tensor(array: np.ndarray[Any, Any], name: str, path: Path) -> Tensor:
    if array.dtype.kind not in "biufc":
        raise DataError(f"{escaped(path)}: '{escaped(name)}' is of type {array.dtype}", "numbers", _REMEDY)
    # torch takes neither foreign byte orders nor negative strides.
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape))


def _from_torch(path: Path, *, zipped: bool) -> dict[str, Tensor]:
    content = read_torch_save(path, zipped=zipped, advice=_ADVICE).content
    named = _named(content)
    if named is None:
        held = f"a dictionary with the keys {listed(content)}" if isinstance(content, Mapping) else _name(content)
        raise DataError(f"{escaped(path)}: holds {held}", "a tensor, a pair (x, y), or tensors by name", _REMEDY)
    return {name: Tensor.detach(tensor) for name, tensor in named.items()}


def _named(content: Any) -> dict[str, Any] | None:
    if isinstance(content, Tensor):
        return {"x": content}
    if isinstance(content, tuple | list) and len(content) in (1, 2) and _all_tensors(content):
        return dict(zip("xy", content, strict=False))
    if isinstance(content, Mapping) and _all_tensors(content.values()) and all(isinstance(k, str) for k in content):
        return dict(content)
    return None


def _all_tensors(values: Any) -> bool:
    return all(isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta for value in values)


def _name(content: object) -> str:
    length = f" of {len(content)}" if isinstance(content, tuple | list) else ""
    return f"a {escaped(type(content).__name__)}{length}"


_READERS: dict[FileKind, Callable[[Path], dict[str, Tensor]]] = {
    FileKind.SAFETENSORS: _from_safetensors,
    FileKind.NPZ: _from_npz,
    FileKind.NPY: _from_npy,
    FileKind.TORCH_ZIP: partial(_from_torch, zipped=True),
    FileKind.TORCH_LEGACY: partial(_from_torch, zipped=False),
}

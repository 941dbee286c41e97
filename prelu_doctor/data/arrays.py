"""Files of arrays, read without running code: safetensors, NumPy's .npz and .npy, and torch.save files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped, listed, reason_of
from prelu_doctor.file_kinds import FileKind, recognised

_REMEDY = "save them with safetensors.torch.save_file({'x': inputs, 'y': labels}, 'data.safetensors')"


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays in a file by name, on the CPU; a lone array is called `x`, a pair `x` and `y`.

    Args:
        path: Recognised by its content.

    Raises:
        DataError: Where the file cannot be read or holds something other than numeric arrays.
    """
    kind = recognised(path, error=DataError)
    reader = _READERS.get(kind)
    if reader is None:
        remedy = f"--data {escaped(path)}:callable" if path.suffix == ".py" else _REMEDY
        raise DataError(f"{escaped(path)}: {kind}", "a .safetensors, .npz, .npy or .pt file of arrays", remedy)
    try:
        arrays = reader(path)
    except DataError:
        raise
    except Exception as error:  # a hostile file makes its reader raise whatever it likes
        raise DataError(
            f"{escaped(path)}: cannot be read: {_reason(error)}", "a whole file of numeric arrays", _REMEDY
        ) from error
    if not arrays:
        raise DataError(f"{escaped(path)}: holds no arrays", "an array of inputs, called x", _REMEDY)
    return arrays


def _reason(error: Exception) -> str:
    text = str(error)
    if "allow_pickle" in text or " GLOBAL " in text:  # NumPy's and torch's way to say that it asks for a class
        return "it holds Python objects, whose code would run"
    return reason_of(error)


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def _from_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: _tensor(archive[name], name, path) for name in archive.files}


def _from_npy(path: Path) -> dict[str, Tensor]:
    return {"x": _tensor(np.load(path, allow_pickle=False), "x", path)}


def _tensor(array: np.ndarray[Any, Any], name: str, path: Path) -> Tensor:
    if array.dtype.kind not in "biufc":
        raise DataError(f"{escaped(path)}: '{escaped(name)}' is of type {array.dtype}", "numbers", _REMEDY)
    # torch takes neither foreign byte orders nor negative strides.
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape))


def _from_torch(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old storages: what matters comes as an error
        # An open file, because torch takes a path that ends with .safetensors for one, whatever it holds.
        with path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    named = _named(content)
    if named is None:
        held = f"a dictionary with the keys {listed(content)}" if isinstance(content, Mapping) else _name(content)
        raise DataError(f"{escaped(path)}: holds {held}", "a tensor, a pair (x, y), or tensors by name", _REMEDY)
    return {name: tensor.detach() for name, tensor in named.items()}


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
    FileKind.TORCH_ZIP: _from_torch,
    FileKind.TORCH_LEGACY: _from_torch,
}

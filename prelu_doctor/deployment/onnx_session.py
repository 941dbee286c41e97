"""Opening an ONNX file that nobody vouches for: validated first, then run."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from prelu_doctor.deployment.onnx_graph import all_tensors, opset_of
from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped
from prelu_doctor.file_kinds import recognised


@dataclass(frozen=True)
class OnnxSession:
    """An ONNX file that was validated and can be run.

    Attributes:
        path: The file.
        sha256: Of the file's bytes.
        opset: Operator set version.
        model: The file's content; tensors in a second file are not loaded.
        inputs: Input names, in order.
        outputs: Output names, in order.
        fixed_batch: The number of samples that every input declares on axis 0; None where any leaves it open or
            where they do not agree.
        session: The onnxruntime session.
    """

    path: Path
    sha256: str
    opset: int
    model: onnx.ModelProto
    inputs: list[str]
    outputs: list[str]
    fixed_batch: int | None
    session: Any

    def run(self, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The outputs on these inputs; onnxruntime's own exceptions pass through."""
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        outputs: list[np.ndarray[Any, Any]] = self.session.run(None, feeds, options)
        return outputs


def open_onnx(path: Path) -> OnnxSession:
    """Validate an ONNX file, external data included, and open it on the CPU.

    Raises:
        CheckpointError: If the file is missing, not ONNX, invalid, reaches outside its folder, or cannot be run.
    """
    content = _content(path)
    model = _parsed(content, path)
    external = [tensor for tensor in all_tensors(model) if _is_external(tensor)]
    for tensor in external:
        _check_external(tensor, path)
    _check_valid(model, path, external=bool(external))
    session = _session(str(path) if external else content, path)
    return OnnxSession(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        opset=opset_of(model),
        model=model,
        inputs=[value.name for value in session.get_inputs()],
        outputs=[value.name for value in session.get_outputs()],
        fixed_batch=_fixed_batch(session),
        session=session,
    )


def _fixed_batch(session: Any) -> int | None:
    # An open axis is a name or None; an input without axes has no batch.
    declared = {value.shape[0] if value.shape else None for value in session.get_inputs()}
    size = declared.pop() if len(declared) == 1 else None
    return size if isinstance(size, int) and size > 0 else None


def _content(path: Path) -> bytes:
    kind = recognised(path, error=CheckpointError)
    if not path.is_file():
        raise _not_onnx(path, kind)
    return path.read_bytes()


def _parsed(content: bytes, path: Path) -> onnx.ModelProto:
    try:
        model: onnx.ModelProto = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own root of errors is no part of the onnx package
        raise _not_onnx(path, recognised(path, error=CheckpointError)) from error
    if not model.HasField("graph") or not opset_of(model):
        raise _not_onnx(path, "a file without a graph or without an operator set")
    return model


def _not_onnx(path: Path, kind: str) -> CheckpointError:
    return CheckpointError(f"{escaped(path)} is {kind}", "a model written by an ONNX exporter", "export it again")


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) > 0


def _check_external(tensor: onnx.TensorProto, path: Path) -> None:
    """A tensor's second file must lie beside the first, be a file of its own, and hold all the bytes claimed.

    Runtimes follow links and trust lengths, so a hostile file could pull any file of this machine into its weights.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    problem = _location_problem(entries.get("location", ""), path) or _extent_problem(entries, path)
    if problem:
        name, location = escaped(tensor.name), escaped(entries.get("location", "nothing"))
        raise CheckpointError(
            f"{escaped(path)}: tensor {name} keeps its data in {location}, which {problem}",
            "a regular file inside the model's folder, without links, long enough for the tensor",
            "get the model together with its data file from its source, or export it again",
        )


def _location_problem(location: str, path: Path) -> str:
    pure = PurePosixPath(location)
    windows = PureWindowsPath(location)
    if not location or "\0" in location:
        return "names no file"
    if pure.is_absolute() or windows.drive or windows.root or "\\" in location or ".." in pure.parts:
        return "is not a plain path inside the folder"
    steps = [path.parent.joinpath(*pure.parts[: depth + 1]) for depth in range(len(pure.parts))]
    if any(step.is_symlink() for step in steps):
        return "is or passes a symbolic link"
    target = path.parent / pure
    if not target.exists():
        return "does not exist"
    status = target.stat()
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    return "" if status.st_nlink == 1 else "has hard links elsewhere"


def _extent_problem(entries: dict[str, str], path: Path) -> str:
    size = (path.parent / entries["location"]).stat().st_size
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", "0"))
    except ValueError:
        return "is addressed by something that is not a number"
    if offset < 0 or length < 0 or offset + length > size:
        return f"has {size} bytes, too few for {length} bytes at {offset}"
    return ""


def _check_valid(model: onnx.ModelProto, path: Path, *, external: bool) -> None:
    try:
        onnx.checker.check_model(str(path) if external else model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{escaped(path)} is not valid ONNX: {escaped(reason)}", "a valid ONNX file", "export it again"
        ) from error


def _session(source: str | bytes, path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised anyway
    options.use_deterministic_compute = True
    options.intra_op_num_threads = (
        torch.get_num_threads()
    )  # its own choice pins threads, and complains where it may not
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no root but this
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{escaped(path)} cannot be run by onnxruntime on the CPU: {escaped(reason)}",
            "operators and number formats that onnxruntime has",
            "export a float32 model, with a lower opset if needed",
        ) from error

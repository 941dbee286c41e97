"""Which files can be read as a checkpoint, and what to say about those that cannot."""

from __future__ import annotations

from pathlib import Path

from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped
from prelu_doctor.file_kinds import FileKind, recognised

_READABLE = frozenset(
    {
        FileKind.TORCH_ZIP,
        FileKind.TORCH_LEGACY,
        FileKind.SAFETENSORS,
        FileKind.SHARDED,
        FileKind.TORCHSCRIPT,
        FileKind.PT2,
        FileKind.HUGGING_FACE_FOLDER,
        FileKind.DISTRIBUTED_FOLDER,
        FileKind.FOLDER,
    }
)
_SAVE_STATE = "torch.save(model.state_dict(), 'weights.pt')"
_FROM_ORIGINAL = f"in Python, take the original model and write {_SAVE_STATE}, then pass --arch module:callable"
_EXPECTED = "a torch.save, safetensors, TorchScript, torch.export or ONNX file, or a folder of weights"
_REMEDIES: dict[FileKind, str] = {
    FileKind.TORCH_PACKAGE: _FROM_ORIGINAL,
    FileKind.ONNX: "give the PyTorch checkpoint that the ONNX file was exported from",
    FileKind.BROKEN_ZIP: "copy or download it again, or save it anew",
    FileKind.EMPTY: "save or download it again",
    FileKind.HTML: "download it again, from the address of the raw file",
    FileKind.GIT_LFS_POINTER: "git lfs pull",
    FileKind.PICKLE: f"read it where it was made, and write {_SAVE_STATE}",
    FileKind.GZIP: "unpack it first",
    FileKind.TAR: "unpack it first; a tar file that an old torch.save wrote must be saved anew",
    FileKind.NPZ: "give it to --data, if it holds samples",
    FileKind.NPY: "give it to --data, if it holds samples",
}


def readable_kind(path: Path) -> FileKind:
    """The kind of a file that can be read as a checkpoint.

    Raises:
        CheckpointError: Where nothing readable stands there; it says what does, and what to do.
    """
    kind = recognised(path, error=CheckpointError)
    if kind in _READABLE:
        return kind
    name = escaped(path)
    raise CheckpointError(f"{name}: {kind}", _EXPECTED, _REMEDIES.get(kind, f"write {_SAVE_STATE}"))

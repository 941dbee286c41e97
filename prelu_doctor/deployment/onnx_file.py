"""Exporting an eager model to one ONNX file, its batch axis open wherever the exporter can leave it so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prelu_doctor.checkpoints.onnx_protobuf import opset_of
from prelu_doctor.data.batches import Batch
from prelu_doctor.deployment.eager import eager_outputs, named_inputs, named_tensors
from prelu_doctor.deployment.onnx_graph import tidy
from prelu_doctor.deployment.quiet import quiet
from prelu_doctor.errors import BrokenPromiseError, DoctorError, ForwardError
from prelu_doctor.undisturbed import undisturbed

BATCH_AXIS = "batch"
"""What the file calls the dynamic axis 0 of its inputs."""

ONE_FILE_LIMIT = 3 << 29
"""Bytes of weights (1.5 GiB) above which they go to a second file: a protocol buffer ends at 2 GiB."""


@dataclass(frozen=True)
class OnnxFile:
    """What an export wrote.

    Attributes:
        path: The ONNX file.
        data_path: The file beside it that holds the weights; None where everything fits into one file.
        opset: Operator set version, read back from the file.
        inputs: Input names, in order.
        outputs: Output names, in order.
        fixed_batch: The only batch size that the file takes; None where it takes any.
        fixed_because: Why the batch axis could not be left open; empty where it was, or where nobody asked for that.
    """

    path: Path
    data_path: Path | None
    opset: int
    inputs: list[str]
    outputs: list[str]
    fixed_batch: int | None = None
    fixed_because: str = ""


def export_onnx(
    model: nn.Module, batch: Batch, path: Path, *, opset: int | None = None, open_batch: bool = True
) -> OnnxFile:
    """Write the model in eval mode as ONNX, its inputs named after the forward's arguments.

    Axis 0 of every input becomes dynamic. Where the exporter refuses that (the forward needs a number to compute with),
    the file takes one sample at a time; where the model does not run on one, as many as the batch has.

    The model, its modes, the batch and the random states are as before afterwards. The same model gives the same
    bytes in the same environment, and the file names no path of this machine. An export is a claim and no proof: a
    forward that freezes the batch size exports without complaint, and only `check_parity` finds it.

    Args:
        model: The eager model.
        batch: Example inputs. A whole call, or a batch of the only size that the model takes, gives a file of its
            very shapes.
        path: The file to write. Weights above 1.5 GiB go to a second file, named like it with `.data` appended; that
            name stands inside the first, so `path` should carry its final name already (in a folder of its own).
        opset: ONNX operator set version; None for the exporter's default.
        open_batch: Whether to try a dynamic axis at all.

    Raises:
        ForwardError: If the model's forward raises on the batch.
        BrokenPromiseError: If the exporter refuses, whatever the shapes, or does not keep to the opset.
    """
    if open_batch and batch.resizable:
        exported, fixed_batch, fixed_because = _open_where_possible(model, batch, opset)
    else:
        (exported, fixed_batch), fixed_because = _fixed(model, batch, opset), ""
    if opset is not None and opset_of(exported) != opset:
        raise BrokenPromiseError(
            f"the exporter wrote operator set {opset_of(exported)}",
            f"operator set {opset}",
            f"leave the opset out, or ask for {opset_of(exported)}",
        )
    return OnnxFile(
        path=path,
        data_path=_save(exported, path),
        opset=opset_of(exported),
        inputs=[value.name for value in exported.graph.input],
        outputs=[value.name for value in exported.graph.output],
        fixed_batch=fixed_batch,
        fixed_because=fixed_because,
    )


def _open_where_possible(model: nn.Module, batch: Batch, opset: int | None) -> tuple[onnx.ModelProto, int | None, str]:
    """The file, the only batch size that it takes, and why: None and nothing where it takes any."""
    try:
        return _export(model, _at_least_two_samples(batch), opset, True), None, ""
    except (BrokenPromiseError, ForwardError) as refusal:
        try:
            exported, size = _fixed(model, batch, opset)
        except (BrokenPromiseError, ForwardError):
            raise refusal from refusal.__cause__  # the same again, or a worse one: a size was not what it lacked
        return exported, size, _first_line(refusal)


def _first_line(refusal: BrokenPromiseError | ForwardError) -> str:
    return refusal.found.splitlines()[0] if isinstance(refusal, ForwardError) else _root_reason(refusal)


def _fixed(model: nn.Module, batch: Batch, opset: int | None) -> tuple[onnx.ModelProto, int]:
    """The file for one size of batch, and that size."""
    if not batch.resizable:
        return _export(model, batch, opset, False), batch.size
    try:
        return _export(model, batch.take(slice(1)), opset, False), 1
    except ForwardError:
        return _export(model, batch, opset, False), batch.size


class _Flat(nn.Module):
    """The model from a flat tuple of tensors to a flat tuple of tensors, which is all that ONNX knows.

    Plain values among the batch's inputs become a part of it.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.model = model
        leaves, self.form = pytree.tree_flatten((tuple(batch.args), dict(batch.kwargs)))
        self.places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.settings = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        leaves: list[Any] = list(self.settings)
        for place, tensor in zip(self.places, flat, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.form)
        return tuple(named_tensors(self.model(*args, **kwargs)).values())


def _at_least_two_samples(batch: Batch) -> Batch:
    # Tracers are free to take an axis of length 1 for a constant.
    return batch if batch.size > 1 else batch.take(torch.zeros(2, dtype=torch.long))


def _export(model: nn.Module, batch: Batch, opset: int | None, open_batch: bool) -> onnx.ModelProto:
    with undisturbed(model), quiet():
        return _traced(model, batch, opset, open_batch=open_batch)


def _traced(model: nn.Module, batch: Batch, opset: int | None, *, open_batch: bool) -> onnx.ModelProto:
    inputs = named_inputs(model, batch)
    try:
        outputs = list(eager_outputs(model, batch))
        program: Any = torch.onnx.export(
            _Flat(model, batch).eval(),
            tuple(tensor.clone() for tensor in inputs.values()),  # a tensor given twice would become one input
            dynamic_shapes=(tuple({0: BATCH_AXIS} for _ in inputs),) if open_batch else None,
            input_names=[f"input_{index}" for index in range(len(inputs))],
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
        exported: onnx.ModelProto = program.model_proto
    except DoctorError:
        raise
    except Exception as error:  # the exporter wraps most of what goes wrong in it, but not all
        raise BrokenPromiseError(
            f"the model cannot be exported to ONNX: {_root_reason(error)}",
            "a forward made of tensor operations alone",
            "remove what depends on the values of the inputs, or leave the ONNX file out",
        ) from error
    tidy(exported, list(inputs), outputs)
    return exported


def _root_reason(error: BaseException) -> str:
    """The first line that says something of the error at the bottom of the exporter's chain.

    The rest is its advice to itself, and a first line that ends in a colon announces the second.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip("- ") for line in str(error).splitlines() if line.strip("- ")]
    says = lines[1:] if lines[1:] and lines[0].endswith(":") else lines
    return f"{type(error).__name__}: {says[0][:200] if says else 'no message'}"


def _save(exported: onnx.ModelProto, path: Path) -> Path | None:
    """Write the file, and return the second one where there is one."""
    weights = sum(len(tensor.raw_data) for tensor in exported.graph.initializer)
    if weights <= ONE_FILE_LIMIT:
        path.write_bytes(exported.SerializeToString(deterministic=True))
        return None
    data_path = path.with_name(f"{path.name}.data")
    data_path.unlink(missing_ok=True)  # the writer below appends
    onnx.save_model(exported, path, save_as_external_data=True, location=data_path.name, size_threshold=1024)
    return data_path

"""Programs that torch.export wrote (`.pt2`), opened as modules whose forward is their graph.

torch's own reader unpickles with `weights_only=False` (pickled weights, sample inputs) and runs text of the file as
code. What it gets to read here is an archive made anew from what was looked through: the graph and the weights.
"""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from prelu_doctor.checkpoints.contents import Contents
from prelu_doctor.checkpoints.exported_checks import checked_payload, without_code
from prelu_doctor.checkpoints.program_archives import ProgramArchive, UnsafeProgramError, damage
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.errors import CheckpointError, UsageError
from prelu_doctor.escaping import escaped, listed
from prelu_doctor.expected_inputs import ExpectedInput, ExpectedInputs
from prelu_doctor.untrusted.torch_saves import Advice, surveyed

_LEGACY = "serialized_exported_program.json"
_MODEL = re.compile(r"models/(.+)\.json")
_PAYLOADS = ("weights", "constants")
_ADVICE = Advice(CheckpointError, "tensors by name", "export the model again")


def read_exported_program(path: Path, reading: Reading) -> Contents:
    """The program in a `.pt2` file, on the CPU, and the inputs that it was exported for.

    Args:
        path: The file.
        reading: Its `method` picks one of several programs; with its `trust` the file is read as it is.

    Raises:
        CheckpointError: The file is damaged, holds no graph, or holds something that could run code.
        UsageError: It holds several programs, and none of them was asked for.
    """
    archive = ProgramArchive.of(path)
    try:
        packed = _legacy_packed(archive, reading) if _LEGACY in archive.names else _packed(archive, reading)
    except UnsafeProgramError as error:
        raise CheckpointError(
            f"{escaped(path)}: refused, because {escaped(error, 300)}",
            "a graph of torch's own operators, and weights as plain bytes",
            "--trust, if you made the file yourself; or export the model again here",
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise damage(path, error) from error
    program = _loaded(path, packed)
    module = _module_of(program)
    return Contents(module=module, expected=expected_inputs(program), note=_note(module))


def _packed(archive: ProgramArchive, reading: Reading) -> bytes:
    """An archive of the one program that was asked for, made of what was looked through."""
    name = _chosen(archive, reading.method)
    records = {
        "archive_format": b"pt2",
        "archive_version": archive.read("archive_version"),
        "models/model.json": _program_text(archive.read(f"models/{name}.json"), trust=reading.trust),
        "data/sample_inputs/model.pt": b"",  # a pickle, and not needed
    }
    for kind in _PAYLOADS:
        records |= _payload(archive, name, kind, trust=reading.trust)
    return _zipped(records)


def _chosen(archive: ProgramArchive, method: str | None) -> str:
    found = [match[1] for match in map(_MODEL.fullmatch, archive.names) if match]
    if not found:
        compiled = any(name.startswith("data/aotinductor/") for name in archive.names)
        raise CheckpointError(
            f"{escaped(archive.path)}: holds {'compiled code alone' if compiled else 'no program'}",
            "the graph of a torch.export program",
            "export the model with torch.export.save",
        )
    if method in found or (method is None and len(found) == 1):
        return method or found[0]
    if method is None and "model" in found:
        return "model"
    raise UsageError(
        f"{escaped(archive.path)} holds the programs {listed(found)}"
        + ("" if method is None else f", and no '{escaped(method)}'"),
        "the name of one of them",
        f"--method {escaped(found[0])}",
    )


def _program_text(text: bytes, *, trust: bool) -> bytes:
    program = _on_cpu(json.loads(text))
    return json.dumps({**program, "guards_code": []} if trust else without_code(program)).encode()


def _payload(archive: ProgramArchive, name: str, kind: str, *, trust: bool) -> dict[str, bytes]:
    """The records of a program's weights or constants."""
    folder = f"data/{kind}/"
    if f"{folder}{name}.pt" in archive.names:
        return {f"{folder}model.pt": _repickled(archive, f"{folder}{name}.pt", trust=trust)}
    config_name = f"{name}_{kind}_config.json"
    config = _on_cpu(json.loads(archive.read(folder + config_name)))
    files = {entry["path_name"] for entry in config["config"].values()}
    records = {file: archive.read(folder + file) for file in sorted(files) if folder + file in archive.names}
    if not trust:
        config = checked_payload(config, {file: len(data) for file, data in records.items()})
    return {
        f"{folder}model_{kind}_config.json": json.dumps(config).encode(),
        **{folder + file: data for file, data in records.items()},
    }


def _legacy_packed(archive: ProgramArchive, reading: Reading) -> bytes:
    """The same of a file from before torch 2.8, whose weights are pickles."""
    return _zipped(
        {
            "archive_format": b"pt2",
            "archive_version": b"0",
            "models/model.json": _program_text(archive.read(_LEGACY), trust=reading.trust),
            "data/sample_inputs/model.pt": b"",
            "data/weights/model.pt": _repickled(archive, "serialized_state_dict.pt", trust=reading.trust),
            "data/constants/model.pt": _repickled(archive, "serialized_constants.pt", trust=reading.trust),
        }
    )


def _repickled(archive: ProgramArchive, name: str, *, trust: bool) -> bytes:
    """A pickle of tensors, read by the weights-only reader and written anew."""
    data = archive.read(name)
    if trust or not data:
        return data
    try:
        surveyed(io.BytesIO(data), Path(name), zipped=data.startswith(b"PK"), advice=_ADVICE)
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnsafeProgramError(f"'{name}' is pickled, and reading a pickle may run any code") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UnsafeProgramError(f"'{name}' holds something else than tensors by name")
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def _on_cpu(value: Any) -> Any:
    """A program or its weights, told to lie on the CPU: the device that they were saved on may not be here."""
    if isinstance(value, dict):
        if value.keys() == {"type", "index"} and isinstance(value["type"], str):
            return {"type": "cpu", "index": None}
        return {key: _on_cpu(part) for key, part in value.items()}
    return [_on_cpu(part) for part in value] if isinstance(value, list) else value


def _zipped(records: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {**records, ".data/version": b"3\n"}.items():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def _loaded(path: Path, packed: bytes) -> torch.export.ExportedProgram:
    # What torch.export.load calls; that one hides what went wrong, and then tries an older format.
    from torch.export.pt2_archive._package import load_pt2

    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)  # a failure is logged with a traceback, and raised as another
        try:
            return load_pt2(io.BytesIO(packed)).exported_programs["model"]
        except Exception as error:
            raise damage(path, _root(error)) from error
        finally:
            logging.disable(disabled)


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _module_of(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program as a module that can be put into eval mode, copied and operated on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = program.module(check_guards=False)  # guards are text that would be run
    for name in ("train", "eval"):  # they raise
        vars(module).pop(name, None)
    _take_tensors(module)
    return module.eval()


def _take_tensors(module: fx.GraphModule) -> None:
    """Lets the module take its tensors one by one, in order or by name, in whatever structure the program took them.

    Numbers and flags were fixed when the program was exported, and are no longer asked for.
    """
    graph = module.graph
    for node in graph.find_nodes(op="placeholder"):
        if not isinstance(node.meta.get("val"), Tensor) and not node.users:
            graph.erase_node(node)
    names = [str(node.target) for node in graph.find_nodes(op="placeholder")]
    graph._codegen.pytree_info = graph._codegen.pytree_info._replace(  # type: ignore[attr-defined]
        orig_args=names, in_spec=pytree.tree_structure((tuple(names), {}))
    )
    module.recompile()
    # torch's own check goes by the structure that was; what the data are is checked against `ExpectedInputs`.
    module.validate_inputs = False  # type: ignore[assignment]


def _note(module: fx.GraphModule) -> str:
    return "exported in training mode: its dropout and batch statistics stay active" if _trains(module) else ""


def _trains(module: fx.GraphModule) -> bool:
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | node.kwargs
        if given.get("train") is True or given.get("training") is True:
            return True
    return False


def expected_inputs(program: torch.export.ExportedProgram) -> ExpectedInputs:
    """What the program was exported for: sizes that it left open are None."""
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    values = {
        name: placeholders[name].meta.get("val") for name in program.graph_signature.user_inputs if name in placeholders
    }
    return ExpectedInputs(
        tuple(
            ExpectedInput(name, tuple(size if isinstance(size, int) else None for size in value.shape), value.dtype)
            for name, value in values.items()
            if isinstance(value, Tensor)
        )
    )

"""A sound file of every kind, made by public means."""

from __future__ import annotations

import argparse
import json
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fuzz.architecture import SHAPE, planted

ARCH = "architecture.py:build"
DATA = "x.safetensors"
_ARCH_AND_DATA = ("--arch", ARCH, "--data", DATA)
_DATA = ("--data", DATA)

State = dict[str, Tensor]


@dataclass(frozen=True)
class Seed:
    """A file or folder that is sound, and the command that reads it.

    Attributes:
        kind: What it is.
        path: The file or folder, relative to the folder of all seeds.
        command: Arguments of `prelu-doctor`, run in the folder of all seeds.
        weights: How another reader gets the weights of `Net` out of it; None where the file holds another model, or a
            program that a mutation may change.
    """

    kind: str
    path: str
    command: tuple[str, ...]
    weights: Callable[[Path], State] | None = None


def _scan(kind: str, path: str, options: Sequence[str], weights: Callable[[Path], State] | None = None) -> Seed:
    return Seed(kind, path, ("scan", path, *options), weights)


def make_seeds(folder: Path) -> list[Seed]:
    """Writes the seeds, the architecture and the data into an empty folder."""
    shutil.copy(Path(__file__).with_name("architecture.py"), folder / "architecture.py")
    save_file({"x": samples()}, folder / DATA)
    net = planted()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [seed for make in MAKERS for seed in make(net, folder)]


def samples() -> Tensor:
    """The data: `[20, 3, 6, 6]`."""
    return torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(1))


def _pickled_weights(net: nn.Module, folder: Path) -> Iterator[Seed]:
    state = net.state_dict()
    options = argparse.Namespace(lr=0.1, layers=[64, 6])
    contents = {
        "state-dict": (state, {}, _bare),
        "legacy": (state, {"_use_new_zipfile_serialization": False}, _bare),
        "training": ({"epoch": 3, "model": state, "optimizer": {"state": {}, "lr": 0.1}}, {}, _under("model")),
        "lightning": (
            {"state_dict": {f"model.{k}": v for k, v in state.items()}, "hyper_parameters": {"args": options}},
            {},
            _lightning,
        ),
        "ema": ({"model": {k: v + 1 for k, v in state.items()}, "ema": state}, {}, _under("ema")),
    }
    for kind, (content, how, reader) in contents.items():
        torch.save(content, folder / f"{kind}.pt", **how)
        extra = ("--weights-key", "ema") if kind == "ema" else ()
        yield _scan(kind, f"{kind}.pt", (*_ARCH_AND_DATA, *extra), reader)
    yield _scan("weights-only", "state-dict.pt", ())


def _bare(path: Path) -> State:
    return _loaded(path)


def _loaded(path: Path) -> Any:
    # A zip archive mapped, as a large one would be: torch is less strict then about what lies behind a tensor.
    return torch.load(path, weights_only=True, mmap=zipfile.is_zipfile(path))


def _under(key: str) -> Callable[[Path], State]:
    return lambda path: _loaded(path)[key]


def _lightning(path: Path) -> State:
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = _loaded(path)["state_dict"]
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


def _module(net: nn.Module, folder: Path) -> Iterator[Seed]:
    torch.manual_seed(2)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2), nn.ReLU())
    torch.save(module, folder / "module.pt")
    yield _scan("module", "module.pt", _DATA)


def _safetensors(net: nn.Module, folder: Path) -> Iterator[Seed]:
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    yield _scan("safetensors", "weights.safetensors", _ARCH_AND_DATA, load_file)
    shards = folder / "shards"
    shards.mkdir()
    names = sorted(state)
    weight_map = {name: f"model-{1 + (index % 2)}.safetensors" for index, name in enumerate(names)}
    for shard in sorted(set(weight_map.values())):
        save_file({name: state[name] for name in names if weight_map[name] == shard}, shards / shard)
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    yield _scan("sharded", "shards/model.safetensors.index.json", _ARCH_AND_DATA, _shards)


def _shards(index: Path) -> State:
    weight_map = json.loads(index.read_text())["weight_map"]
    files = {shard: load_file(index.with_name(shard)) for shard in set(weight_map.values())}
    return {name: files[shard][name] for name, shard in weight_map.items()}


def _hugging_face(net: nn.Module, folder: Path) -> Iterator[Seed]:
    import transformers

    torch.manual_seed(3)
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_channels=3, layer_type="basic"
    )
    with torch.random.fork_rng():
        transformers.ResNetModel(config).save_pretrained(folder / "hf")
    yield _scan("hugging-face", "hf", ("--input-shape", "3,32,32", "--max-samples", "20"))


def _distributed(net: nn.Module, folder: Path) -> Iterator[Seed]:
    import torch.distributed.checkpoint as dcp

    dcp.save(dict(net.state_dict()), checkpoint_id=folder / "dcp", no_dist=True)
    yield _scan("distributed", "dcp", _ARCH_AND_DATA)


def _programs(net: nn.Module, folder: Path) -> Iterator[Seed]:
    x = samples()[:2]
    batch = torch.export.Dim("batch", min=2, max=64)
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: batch},)), folder / "net.pt2")
    yield _scan("pt2", "net.pt2", _DATA)
    torch.jit.script(net).save(folder / "scripted.pt")
    yield _scan("torchscript", "scripted.pt", _DATA)
    torch.onnx.export(
        net, (x,), folder / "net.onnx", dynamo=True, verbose=False, external_data=False, dynamic_shapes=({0: batch},)
    )
    yield _scan("onnx", "net.onnx", _DATA)
    outside = folder / "onnx-folder"
    outside.mkdir()
    torch.onnx.export(
        net, (x,), outside / "net.onnx", dynamo=True, verbose=False, external_data=True, dynamic_shapes=({0: batch},)
    )
    yield _scan("onnx-with-data", "onnx-folder/net.onnx", _DATA)


def _converted(net: nn.Module, folder: Path) -> Iterator[Seed]:
    from prelu_doctor import Treatment, convert

    torch.save(net.state_dict(), folder / "to-convert.pt")
    conversion = convert(net, samples(), Treatment(training=_no_training()))
    for name in ("healed.safetensors", "healed.pt"):
        conversion.save(folder / name)
        yield _scan(f"converted {name.rpartition('.')[2]}", name, _ARCH_AND_DATA)


def _no_training() -> object:
    from prelu_doctor import Training

    return Training(epochs=0)


def _data_files(net: nn.Module, folder: Path) -> Iterator[Seed]:
    x = samples()
    torch.save({"x": x}, folder / "data.pt")
    save_file({"x": x}, folder / "data.safetensors")
    np.savez(folder / "data.npz", x=x.numpy())
    np.save(folder / "data.npy", x.numpy())
    for ending in ("pt", "safetensors", "npz", "npy"):
        yield Seed(f"data {ending}", f"data.{ending}", ("scan", "module.pt", "--data", f"data.{ending}"))


MAKERS = (
    _pickled_weights,
    _module,
    _safetensors,
    _hugging_face,
    _distributed,
    _programs,
    _converted,
    _data_files,
)

"""Files that are mapped: no second copy in memory, no misaligned weights, and never a byte written to them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.checkpoints.finiteness import non_finite_names
from prelu_doctor.checkpoints.keys import load_weights
from prelu_doctor.checkpoints.mapped_memory import MappedFiles, aligned, copy_into
from prelu_doctor.doctor import convert
from prelu_doctor.patient import open_patient
from prelu_doctor.treatment.conversion import Treatment
from prelu_doctor.treatment.fine_tuning import Training

STATUS = Path("/proc/self/status")
on_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system tells no peaks")


class PeakGrowth:
    """How far the largest resident set within a block was above the one at its start, in bytes."""

    def __enter__(self) -> PeakGrowth:
        Path("/proc/self/clear_refs").write_text("5")
        self.start = self._field("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = self._field("VmHWM") - self.start

    def _field(self, name: str) -> int:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024


def wide(layers: int = 4) -> nn.Sequential:
    """64 MiB in one layer of 32 MiB, and small ones."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4096, 2048), *(nn.Linear(1448, 1448) for _ in range(layers)))


def saved(module: nn.Module, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(module.state_dict(), path)
    else:
        torch.save(module.state_dict(), path)
    return path


@on_linux
@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_loading_into_an_architecture_takes_no_memory_beside_it(tmp_path, name):
    path = saved(wide(), tmp_path / name)
    fresh = wide()
    size = sum(parameter.nbytes for parameter in fresh.parameters())
    for parameter in fresh.parameters():
        parameter.data.zero_()
    with PeakGrowth() as growth:
        stored = read_checkpoint(path)
        load_weights(fresh, stored.state)
        assert non_finite_names(fresh) == []
    assert growth.bytes < 0.2 * size  # a fifth: at this size constants count
    assert all(torch.equal(tensor, stored.state[key]) for key, tensor in fresh.state_dict().items())


@on_linux
def test_looking_for_values_that_are_not_finite_takes_no_memory(tmp_path):
    module = wide(0)
    with PeakGrowth() as growth:
        assert non_finite_names(module) == []
    assert growth.bytes < module[0].weight.nbytes / 4


@on_linux
def test_weights_that_are_moved_to_aligned_memory_are_there_once(tmp_path):
    path = misaligned_file(tmp_path, wide().state_dict())
    stored = read_checkpoint(path)
    size = sum(tensor.nbytes for tensor in stored.state.values())
    with PeakGrowth() as growth:
        own = aligned(stored.state)
    assert growth.bytes < 1.2 * size
    assert all(torch.equal(own[key], tensor) for key, tensor in stored.state.items())


def misaligned_file(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    """A safetensors file whose tensors begin 8 bytes behind a multiple of 64."""
    save_file(state, folder / "m.safetensors")
    content = (folder / "m.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.dumps(json.loads(content[8 : 8 + length])).encode()
    padded = header + b" " * ((-len(header)) % 64)
    (folder / "m.safetensors").write_bytes(struct.pack("<Q", len(padded)) + padded + content[8 + length :])
    return folder / "m.safetensors"


def test_misaligned_tensors_are_moved_and_others_stay(tmp_path):
    state = read_checkpoint(misaligned_file(tmp_path, {"a": torch.rand(64), "b": torch.rand(2, 5)})).state
    assert state["a"].data_ptr() % 64 == 8
    state |= {"again": state["a"], "fine": torch.rand(3), "turned": state["b"].t(), "none": torch.zeros(0)}
    own = aligned(state)
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())
    assert own["a"].data_ptr() % 64 == 0
    assert own["again"] is own["a"]  # tied weights stay tied
    assert own["fine"] is state["fine"]


def test_values_are_copied_whatever_the_types_and_the_layouts():
    source = torch.arange(12.0).reshape(3, 4)
    for target in (torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.float64), torch.zeros(4, 3).t()):
        for read in (source, source.clone().t().contiguous().t(), source.half()):
            target.zero_()
            copy_into(target, read, MappedFiles())
            assert torch.equal(target, source.to(target.dtype))
    copy_into(torch.zeros(0, 3), torch.zeros(0, 3), MappedFiles())


def test_pages_of_no_file_are_never_let_go():
    tensor = torch.arange(2.0**18)
    MappedFiles().let_go(tensor)
    assert torch.equal(tensor, torch.arange(2.0**18))


def test_pages_that_were_let_go_are_read_again(tmp_path):
    torch.save({"w": torch.arange(2.0**18)}, tmp_path / "m.pt")
    tensor = read_checkpoint(tmp_path / "m.pt").state["w"]
    MappedFiles().let_go(tensor)
    assert torch.equal(tensor, torch.arange(2.0**18))


@pytest.mark.parametrize("form", ["module", "pt", "safetensors"])
def test_no_byte_of_the_file_changes_by_a_conversion_with_training(tmp_path, form):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.ReLU(inplace=True), nn.Linear(64, 3))
    path = tmp_path / ("m.safetensors" if form == "safetensors" else "m.pt")
    torch.save(net, tmp_path / "arch.pt")
    if form == "module":
        torch.save(net, path)
    else:
        saved(net, path)
    before = path.read_bytes()
    patient = open_patient(path, arch=None if form == "module" else str(tmp_path / "arch.pt"))
    data = torch.utils.data.TensorDataset(torch.randn(400, 4), torch.randint(3, (400,)))
    converted = convert(patient, data, Treatment(training=Training(steps=5)))
    assert converted.report.fine_tune is not None
    with torch.no_grad():
        for parameter in patient.module.parameters():
            parameter.mul_(2)  # what an in-place forward would do to mapped weights
    assert path.read_bytes() == before

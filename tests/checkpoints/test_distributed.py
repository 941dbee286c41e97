"""Folders of torch.distributed.checkpoint: written by it, and read here without it."""

import io
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.errors import CheckpointError
from prelu_doctor.patient import open_patient

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def saved(state: dict, folder: Path) -> Path:
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def trained(net: nn.Module) -> dict:
    """A training state: weights, optimizer, and things that are no tensors."""
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(5, 4)).sum().backward()
    optimizer.step()
    return {"model": net.state_dict(), "optim": optimizer.state_dict(), "epoch": 3}


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder)
    return str(caught.value)


def edited(folder: Path, edit) -> Path:
    """The folder with its metadata changed by a function, written back by the same pickle as torch's."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 - written by this test
    edit(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def in_two_blocks(folder: Path, name: str) -> Path:
    """The folder as two processes would have written it: rows 0 and 1 of a tensor by one, the rest by the other."""

    def split(metadata) -> None:
        whole = metadata.storage_data.pop(MetadataIndex(name, torch.Size([0, 0])))
        written = (folder / whole.relative_path).read_bytes()[whole.offset :][: whole.length]
        tensor = torch.load(io.BytesIO(written), weights_only=True)
        chunks = []
        for rank, (start, rows) in enumerate([(0, 2), (2, len(tensor) - 2)]):
            path = folder / f"__{rank + 5}_0.distcp"
            with path.open("wb") as file:
                file.write(b"something before it")
                torch.save(tensor[start : start + rows].clone(), file)
            chunk = ChunkStorageMetadata(torch.Size([start, 0]), torch.Size([rows, tensor.shape[1]]))
            chunks.append(chunk)
            place = type(whole)(path.name, 19, path.stat().st_size - 19)
            metadata.storage_data[MetadataIndex(name, chunk.offsets)] = place
        metadata.state_dict_metadata[name].chunks = chunks

    return edited(folder, split)


def assert_same(read: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> None:
    assert list(read) == list(state)
    assert all(torch.equal(read[name], state[name]) and read[name].dtype == state[name].dtype for name in state)


def test_a_state_dict_is_read(tmp_path, net):
    net.append(nn.BatchNorm1d(2))  # with a scalar
    stored = read_checkpoint(saved(net.state_dict(), tmp_path / "dcp"))
    assert stored.kind == "distributed"
    assert_same(stored.state, net.state_dict())


def test_the_weights_of_a_training_state_are_taken_as_from_a_training_dictionary(tmp_path, net):
    stored = read_checkpoint(saved(trained(net), tmp_path / "dcp"))
    assert_same(stored.state, net.state_dict())
    assert "taken from key 'model'" in stored.note
    assert "entries that are no tensors left out" in stored.note


def test_only_the_weights_are_read(tmp_path, net, monkeypatch):
    folder = saved(trained(net), tmp_path / "dcp")
    loads = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: loads.append(k["weights_only"]) or load(*a, **k))
    read_checkpoint(folder)
    assert loads == [True] * len(net.state_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_tensors_of_all_types_are_read(tmp_path, dtype):
    state = {"a": torch.arange(6).reshape(2, 3).to(dtype), "empty": torch.zeros(0, 3, dtype=dtype)}
    assert_same(read_checkpoint(saved(state, tmp_path / "dcp")).state, state)


def test_blocks_of_several_processes_are_put_together(tmp_path):
    state = {"w": torch.arange(20.0).reshape(5, 4), "b": torch.ones(3)}
    folder = in_two_blocks(saved(state, tmp_path / "dcp"), "w")
    restored = {"w": torch.zeros(5, 4), "b": torch.zeros(3)}
    dcp.load(restored, checkpoint_id=folder, no_dist=True)  # torch's own reader takes it so
    assert_same(restored, state)
    assert_same(read_checkpoint(folder).state, state)


def test_the_architecture_gets_the_weights(tmp_path, net, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "arch.pt")
    patient = open_patient(saved({"model": net.state_dict()}, tmp_path / "dcp"), arch="arch.pt")
    assert_same(patient.module.state_dict(), net.state_dict())
    assert patient.record.kind == "distributed"


def test_a_missing_file_is_told(tmp_path, net):
    folder = saved(net.state_dict(), tmp_path / "dcp")
    (folder / "__0_0.distcp").unlink()
    assert "names the file '__0_0.distcp', which is not there" in refusal(folder)


def test_a_file_that_was_cut_is_told(tmp_path, net):
    folder = saved(net.state_dict(), tmp_path / "dcp")
    content = (folder / "__0_0.distcp").read_bytes()
    (folder / "__0_0.distcp").write_bytes(content[:-10])
    assert "claims more than '__0_0.distcp' holds" in refusal(folder)
    (folder / "__0_0.distcp").write_bytes(bytes(len(content)))
    assert "in '__0_0.distcp': File is not a zip file" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"\x80\x04N.", b"hello", b"\x80\x04]\x94.", b"("])
def test_metadata_that_is_none_is_told(tmp_path, content):
    (tmp_path / ".metadata").write_bytes(content)
    assert "not a sound distributed checkpoint: its .metadata" in refusal(tmp_path)


def test_blocks_that_are_not_the_whole_tensor_are_told(tmp_path):
    def shifted(metadata):
        index = next(iter(metadata.storage_data))
        metadata.storage_data[MetadataIndex("w", torch.Size([1, 0]))] = metadata.storage_data.pop(index)
        metadata.state_dict_metadata["w"].chunks[0].offsets = torch.Size([1, 0])

    def larger(metadata):
        metadata.state_dict_metadata["w"].size = torch.Size([6, 4])

    def nowhere(metadata):
        metadata.storage_data.clear()

    for edit, problem in (
        (shifted, "lies outside of the tensor"),
        (larger, "are not the whole tensor"),
        (nowhere, "is in no file"),
    ):
        folder = saved({"w": torch.zeros(5, 4)}, tmp_path / edit.__name__)
        assert problem in refusal(edited(folder, edit))


def test_blocks_that_lie_on_each_other_are_told(tmp_path):
    folder = in_two_blocks(saved({"w": torch.ones(4, 4)}, tmp_path / "dcp"), "w")

    def same(metadata):
        first, second = metadata.state_dict_metadata["w"].chunks
        second.offsets = first.offsets

    assert "lie on each other" in refusal(edited(folder, same))


def test_a_block_that_is_another_is_told(tmp_path):
    def as_integers(metadata):
        metadata.state_dict_metadata["w"].properties.dtype = torch.int32

    folder = saved({"w": torch.ones(4, 4)}, tmp_path / "dcp")
    assert "does not hold the block of 'w'" in refusal(edited(folder, as_integers))


def test_transformed_tensors_are_told(tmp_path):
    def packed(metadata):
        next(iter(metadata.storage_data.values())).transform_descriptors = ["stream.zstd"]

    assert "compressed or otherwise transformed" in refusal(
        edited(saved({"w": torch.ones(2, 2)}, tmp_path / "d"), packed)
    )

"""Somebody exchanges the file between check and use: what was checked and hashed is what is read."""

import hashlib
import json
import os

import numpy as np
import pytest
import torch
from crafted_pickles import call, dict_of, pickle_of, saved_zip, tensor, text
from safetensors.torch import save_file
from torch.distributed import checkpoint as distributed

from prelu_doctor.checkpoints import checkpoint
from prelu_doctor.checkpoints import distributed as distributed_folders
from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.data import arrays
from prelu_doctor.data.arrays import read_arrays
from prelu_doctor.errors import CheckpointError, DataError
from prelu_doctor.file_kinds import FileKind
from prelu_doctor.untrusted import opened_files, torch_saves
from prelu_doctor.untrusted.opened_files import opened

GOOD, BAD = {"x": torch.ones(4)}, {"x": torch.zeros(4)}


def write_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def before(monkeypatch, module, name, event):
    """Let something happen just before a function of a module is called for the first time."""
    real, done = getattr(module, name), []

    def called(*arguments, **options):
        if not done:
            done.append(event())
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, called)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "model.pt"


@pytest.fixture
def swapping(tmp_path, monkeypatch):
    """Put `other` in the place of a file once its kind is known, before it is read."""

    def swap(module, path):
        def swapped(reader):
            def read(*arguments):
                (tmp_path / "other").replace(path)
                return reader(*arguments)

            return read

        for kind, reader in list(module._READERS.items()):
            monkeypatch.setitem(module._READERS, kind, swapped(reader))

    return swap


@pytest.mark.parametrize("write", [torch.save, write_legacy, save_file])
def test_a_file_that_takes_the_others_place_is_not_read(tmp_path, swapping, place, write):
    write(GOOD, place)
    sha256 = hashlib.sha256(place.read_bytes()).hexdigest()
    write(BAD, tmp_path / "other")
    swapping(checkpoint, place)
    stored = read_checkpoint(place)
    assert stored.state["x"].tolist() == [1] * 4
    assert stored.sha256 == sha256


def test_a_hostile_pickle_that_comes_after_the_survey_is_not_read(tmp_path, monkeypatch, place):
    torch.save(GOOD, place)
    saved_zip(tmp_path / "evil", pickle_of(dict_of(x=tensor(), y=call("posix.mkdir", text(str(tmp_path / "ran"))))))
    before(monkeypatch, torch_saves, "_loaded", lambda: (tmp_path / "evil").replace(place))
    assert read_checkpoint(place).state["x"].tolist() == [1] * 4
    assert not (tmp_path / "ran").exists()
    with pytest.raises(CheckpointError, match="mkdir"):
        read_checkpoint(place)


def write_npz(content, path):
    np.savez(path, x=content["x"].numpy())


@pytest.mark.parametrize("write", [torch.save, write_legacy, save_file, write_npz])
def test_a_data_file_that_takes_the_others_place_is_not_read(tmp_path, swapping, write):
    write(GOOD, tmp_path / "data.npz")
    save_file(BAD, tmp_path / "other")
    swapping(arrays, tmp_path / "data.npz")
    assert read_arrays(tmp_path / "data.npz")["x"].tolist() == [1] * 4


@pytest.mark.parametrize("through", ["/proc/self/fd", "/nowhere"])
def test_a_file_that_is_written_to_meanwhile_is_told(tmp_path, monkeypatch, place, through):
    monkeypatch.setattr(opened_files, "_DESCRIPTORS", type(tmp_path)(through))
    torch.save(GOOD, place)
    other = tmp_path / "other"
    torch.save(BAD, other)
    os.utime(place, ns=(0, 0))
    before(monkeypatch, checkpoint, "weights_or_module", lambda: place.write_bytes(other.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model\.pt: changed while it was read"):
        read_checkpoint(place)


def test_without_descriptors_a_file_that_took_the_others_place_is_told(tmp_path, monkeypatch, place):
    monkeypatch.setattr(opened_files, "_DESCRIPTORS", tmp_path / "nowhere")
    torch.save(GOOD, place)
    torch.save(BAD, tmp_path / "other")
    before(monkeypatch, checkpoint, "weights_or_module", lambda: (tmp_path / "other").replace(place))
    with pytest.raises(CheckpointError, match="changed while it was read"):
        read_checkpoint(place)


def test_a_change_is_told_also_where_it_makes_reading_fail(tmp_path, monkeypatch, place):
    torch.save(GOOD, place)
    os.utime(place, ns=(0, 0))
    before(monkeypatch, torch_saves, "survey_pickle", lambda: place.write_bytes(b"PK"))
    with pytest.raises(CheckpointError, match="changed while it was read"):
        read_checkpoint(place)


def test_a_pipe_that_takes_the_files_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"), opened(tmp_path / "pipe", error=DataError):
        pass


@pytest.mark.parametrize("read", [read_checkpoint, read_arrays])
def test_messages_name_the_file_as_the_user_did(tmp_path, read):
    saved_zip(tmp_path / "m.pt", b"\x80\x02(((.")
    with pytest.raises((CheckpointError, DataError)) as caught:
        read(tmp_path / "m.pt")
    assert f"{tmp_path}/m.pt: cannot be read" in str(caught.value)
    assert "/proc/" not in str(caught.value)


def test_a_shard_that_is_exchanged_after_it_was_opened_is_not_read(tmp_path, monkeypatch):
    """Its digest is that of the bytes that were read, also where another file stands at its path by then."""
    save_file(GOOD, tmp_path / "part.safetensors")
    digest = hashlib.sha256((tmp_path / "part.safetensors").read_bytes()).hexdigest()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "part.safetensors"}}))
    save_file(BAD, tmp_path / "other")
    reader = checkpoint._READERS[FileKind.SAFETENSORS]

    def exchanged(*arguments):
        (tmp_path / "other").replace(tmp_path / "part.safetensors")
        return reader(*arguments)

    monkeypatch.setitem(checkpoint._READERS, FileKind.SAFETENSORS, exchanged)
    stored = read_checkpoint(index)
    assert torch.equal(stored.state["x"], GOOD["x"])
    lines = f"{hashlib.sha256(index.read_bytes()).hexdigest()}  {index.name}\n{digest}  part.safetensors\n"
    assert stored.sha256 == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_file_of_a_distributed_checkpoint_that_is_exchanged_is_not_read(tmp_path, monkeypatch):
    for name, state in {"good": GOOD, "bad": BAD}.items():
        distributed.save(dict(state), checkpoint_id=tmp_path / name, no_dist=True)

    def exchange():
        for file in (tmp_path / "bad").glob("*.distcp"):
            file.replace(tmp_path / "good" / file.name)

    before(monkeypatch, distributed_folders, "_weights", exchange)
    assert torch.equal(read_checkpoint(tmp_path / "good").state["x"], GOOD["x"])

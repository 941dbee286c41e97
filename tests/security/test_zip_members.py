"""Zip archives that say one thing to one reader and another thing to the next, or lead out of their folder."""

import io
import stat
import struct
import zipfile

import numpy as np
import pytest
import torch
from crafted_pickles import call, dict_of, pickle_of, saved_zip, tensor, text
from torch import nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.data.arrays import read_arrays
from prelu_doctor.errors import CheckpointError, DataError

BODY = pickle_of(dict_of(w=tensor()))


def refusal(path, read=read_checkpoint, error=CheckpointError):
    before = sorted(path.parent.iterdir())
    with pytest.raises(error) as caught:
        read(path)
    assert caught.value.expected
    assert caught.value.remedy
    assert sorted(path.parent.iterdir()) == before
    return caught.value.found


def with_part(path, name, content=b"x", **attributes):
    """A sound file and one part more."""
    saved_zip(path, BODY)
    entry = zipfile.ZipInfo(name)
    for attribute, value in attributes.items():
        setattr(entry, attribute, value)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, content)
    return path


def test_the_file_that_these_are_made_of_is_sound(tmp_path):
    assert read_checkpoint(with_part(tmp_path / "m.pt", "m/extra/x")).state["w"].tolist() == [0] * 4


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "m/../../x", "m\\..\\..\\x", "C:/x", "C:\\x", "\\x", "m/.."])
def test_a_part_whose_name_leads_out_is_refused(tmp_path, name):
    assert "leads out of the archive" in refusal(with_part(tmp_path / "m.pt", name))


def test_a_part_that_is_a_link_is_refused(tmp_path):
    link = with_part(tmp_path / "m.pt", "m/data/1", b"/etc/passwd", external_attr=(stat.S_IFLNK | 0o777) << 16)
    assert "its part 'm/data/1' is a link" in refusal(link)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["m/data.pkl", "m/data/0", "m/DATA.pkl", "M/data.pkl"])
def test_two_parts_of_one_name_are_refused(tmp_path, name):
    attack = pickle_of(call("posix.mkdir", text(str(tmp_path / "ran"))))
    assert f"two parts called '{name}'" in refusal(with_part(tmp_path / "m.pt", name, attack))
    assert not (tmp_path / "ran").exists()


def test_two_folders_at_the_top_are_refused(tmp_path):
    attack = pickle_of(call("posix.mkdir", text(str(tmp_path / "ran"))))
    assert "several folders at the top" in refusal(with_part(tmp_path / "m.pt", "a/data.pkl", attack))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["m/\x1b[2J", "m/a\u202eb", "m/a\nb"])
def test_a_part_whose_name_does_not_print_is_refused(tmp_path, name):
    found = refusal(with_part(tmp_path / "m.pt", name))
    assert "characters that do not print" in found
    assert found.isprintable()


def test_a_part_that_unpacks_out_of_proportion_is_refused(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", BODY)
        archive.writestr("m/data/0", bytes(2**24))
    assert "would unpack to 16777" in refusal(path)


def test_a_pickle_that_unpacks_to_more_than_it_says_is_told(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", BODY + bytes(2**20))
        archive.writestr("m/data/0", bytes(16))
    raw = path.read_bytes()
    whole, part = struct.pack("<L", len(BODY) + 2**20), struct.pack("<L", len(BODY))
    assert raw.count(whole) == 2
    path.write_bytes(raw.replace(whole, part))
    assert "Bad CRC-32" in refusal(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["../x", "/x"])
@pytest.mark.parametrize("program", ["torchscript", "pt2"])
def test_a_program_whose_names_lead_out_is_refused(tmp_path, program, name):
    path = tmp_path / "m.pt2"
    if program == "torchscript":
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(path)
    else:
        torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)
    assert read_checkpoint(path).kind == program
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    assert "leads out of the archive" in refusal(path)


def test_an_array_archive_that_unpacks_out_of_proportion_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", x=np.zeros(2**22, np.float32))
    assert "would unpack to 16777" in refusal(tmp_path / "data.npz", read_arrays, DataError)


@pytest.mark.parametrize("name", ["../x.npy", "/x.npy"])
def test_an_array_archive_whose_names_lead_out_is_refused(tmp_path, name):
    np.savez(tmp_path / "data.npz", x=np.zeros(3))
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as archive:
        archive.writestr(name, content.getvalue())
    assert "leads out of the archive" in refusal(tmp_path / "data.npz", read_arrays, DataError)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_part_that_is_packed_in_an_unusual_way_is_refused(tmp_path, method):
    assert "packed in an unusual way" in refusal(with_part(tmp_path / "m.pt", "m/x", compress_type=method))


END = 22


def edited(path, **fields):
    """A sound file with other numbers in the end of its directory: entries, size, offset."""
    raw = bytearray(saved_zip(path, BODY).read_bytes())
    start = len(raw) - END
    values = list(struct.unpack("<4s4H2LH", raw[start:]))
    for name, change in fields.items():
        values[{"size": 5, "offset": 6}[name]] += change
    raw[start:] = struct.pack("<4s4H2LH", *values)
    path.write_bytes(raw)
    return path


def test_something_before_the_archive_is_refused(tmp_path):
    path = saved_zip(tmp_path / "m.pt", BODY)
    path.write_bytes(b"PK\x03\x04" + bytes(60) + path.read_bytes())
    assert "does not lie where it says" in refusal(path)


@pytest.mark.parametrize(
    ("comment", "told"),
    [(b"hello", "behind its directory"), (b"PK\x05\x06" + bytes(18), "a zip archive that torch.save did not write")],
    ids=["a comment", "a second, empty directory"],
)
def test_something_behind_the_directory_is_refused(tmp_path, comment, told):
    path = saved_zip(tmp_path / "m.pt", BODY)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment
    assert told in refusal(path)


@pytest.mark.parametrize("fields", [{"offset": -10}, {"size": 10, "offset": -10}, {"size": -10}])
def test_a_directory_that_is_told_elsewhere_is_refused(tmp_path, fields):
    found = refusal(edited(tmp_path / "m.pt", **fields))
    assert "does not lie where it says" in found or "truncated or damaged" in found


def test_a_second_directory_for_large_archives_is_refused(tmp_path):
    """One reader takes the place that the locator names, another the bytes that stand before it."""
    torch.save({"w": torch.zeros(4)}, tmp_path / "m.pt")
    raw = bytearray((tmp_path / "m.pt").read_bytes())
    locator = raw.rindex(b"PK\x06\x07")
    assert read_checkpoint(tmp_path / "m.pt").state["w"].tolist() == [0] * 4
    raw[locator + 8 : locator + 16] = struct.pack("<Q", 0)
    (tmp_path / "m.pt").write_bytes(raw)
    assert "does not lie where it says" in refusal(tmp_path / "m.pt")


def test_overlapping_parts_are_refused(tmp_path):
    """Two entries of the directory that lie on the same bytes: an archive in which everything unpacks many times."""
    path = saved_zip(tmp_path / "m.pt", BODY)
    with zipfile.ZipFile(path) as archive:
        last = archive.infolist()[-1]
    raw = path.read_bytes()
    at = raw.rindex(b"PK\x01\x02")
    path.write_bytes(raw[: at + 42] + struct.pack("<L", last.header_offset - 1) + raw[at + 46 :])
    found = refusal(path)
    assert "overlaps another" in found


def test_a_part_with_another_name_where_it_lies_is_refused(tmp_path):
    path = saved_zip(tmp_path / "m.pt", BODY)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"m/data/0", b"m/data/9", 1))
    assert "its part 'm/data/0' has another name where it lies" in refusal(path)


def test_a_part_that_says_two_sizes_is_refused(tmp_path):
    path = saved_zip(tmp_path / "m.pt", BODY)
    raw = path.read_bytes()
    at = raw.rindex(b"PK\x01\x02", 0, raw.rindex(b"PK\x01\x02"))  # the entry of m/data/0
    path.write_bytes(raw[: at + 24] + struct.pack("<L", 10**6) + raw[at + 28 :])
    found = refusal(path)
    assert "says two sizes" in found

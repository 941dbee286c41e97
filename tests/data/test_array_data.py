import os
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prelu_doctor.data.sources import open_dataset
from prelu_doctor.errors import DataError, UsageError


class TwoInputs(nn.Module):
    def forward(self, ids, mask=None):
        return ids


class NeedsTwo(nn.Module):
    def forward(self, ids, mask):
        return ids + mask


class TakesY(nn.Module):
    def forward(self, x, y):
        return x + y


X = np.arange(20, dtype=np.float32).reshape(10, 2)
Y = np.arange(10)


def write_safetensors(path, arrays):
    save_file({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, path)


def write_npz(path, arrays):
    with path.open("wb") as file:
        np.savez(file, **arrays)


def write_torch(path, arrays):
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def write_old_torch(path, arrays):
    torch.save(
        {name: torch.from_numpy(array) for name, array in arrays.items()}, path, _use_new_zipfile_serialization=False
    )


WRITERS = [write_safetensors, write_npz, write_torch, write_old_torch]


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return str(tmp_path / "data.npz")

    return write


def failure(spec, model=None, **options):
    with pytest.raises(DataError) as caught:
        open_dataset(spec, model=model, **options)
    assert caught.value.expected
    return str(caught.value)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["data.npz", "data.bin", "data.safetensors", "data.pt"])
def test_every_kind_of_file_is_read_by_its_content(tmp_path, batches_of, write, name):
    write(tmp_path / name, {"x": X, "y": Y})
    data = open_dataset(str(tmp_path / name), model=None, batch_size=4, seed=7)
    x, y = batches_of(data.scanned)
    assert torch.equal(x, torch.from_numpy(X))
    assert torch.equal(y, torch.from_numpy(Y))
    assert [batch.size for batch in data.scanned()] == [4, 4, 2]
    assert (data.contents, data.synthetic, data.seed) == ("x: 10 x 2", False, 7)
    assert data.held_out is None


def test_an_npy_file_is_the_input(tmp_path, batches_of):
    np.save(tmp_path / "inputs.npy", X)
    x, y = batches_of(open_dataset(str(tmp_path / "inputs.npy"), model=None).scanned)
    assert torch.equal(x, torch.from_numpy(X))
    assert y is None


@pytest.mark.parametrize("pack", [lambda x, y: x, lambda x, y: (x, y), lambda x, y: [x, y], lambda x, y: (x,)])
def test_a_torch_file_may_hold_a_tensor_or_a_pair(tmp_path, batches_of, pack):
    content = pack(torch.from_numpy(X), torch.from_numpy(Y))
    torch.save(content, tmp_path / "data.pt")
    x, y = batches_of(open_dataset(str(tmp_path / "data.pt"), model=None).scanned)
    assert torch.equal(x, torch.from_numpy(X))
    assert (y is not None) == (len(content) == 2)


def test_every_pass_starts_anew(npz):
    data = open_dataset(npz(x=X), model=None, batch_size=3)
    assert torch.equal(data.first().args[0], data.first().args[0])
    assert len(list(data.scanned())) == len(list(data.scanned())) == 4


def test_the_held_out_part_is_kept_apart(npz, batches_of):
    data = open_dataset(npz(x=X, y=Y, x_val=X[:3] + 1, y_val=Y[:3]), model=None, max_samples=5)
    assert batches_of(data.scanned)[0].shape == (5, 2)
    x, y = batches_of(data.held_out)
    assert torch.equal(x, torch.from_numpy(X[:3] + 1))
    assert torch.equal(y, torch.from_numpy(Y[:3]))


def test_max_samples_keeps_the_first(npz, batches_of):
    data = open_dataset(npz(x=X, y=Y), model=None, batch_size=4, max_samples=6)
    x, y = batches_of(data.scanned)
    assert torch.equal(x, torch.from_numpy(X[:6]))
    assert torch.equal(y, torch.from_numpy(Y[:6]))
    assert data.contents == "x: 6 of 10 x 2"


def test_the_only_array_is_the_input_whatever_its_name(npz, batches_of):
    data = open_dataset(npz(images=X, y=Y, images_val=X, y_val=Y), model=nn.Linear(2, 2))
    assert batches_of(data.scanned)[0].shape == (10, 2)
    assert data.held_out is not None


def test_arrays_named_like_the_forwards_arguments_go_there_by_name(npz):
    data = open_dataset(npz(mask=X, ids=Y, y=Y, ids_val=Y, mask_val=X, y_val=Y), model=TwoInputs())
    batch = data.first()
    assert batch.args == ()
    assert list(batch.kwargs) == ["ids", "mask"]
    assert batch.target is not None
    assert list(next(data.held_out()).kwargs) == ["ids", "mask"]
    assert data.contents == "ids: 10, mask: 10 x 2"


def test_y_is_an_input_where_the_forward_requires_it(npz):
    batch = open_dataset(npz(x=X, y=X), model=TakesY()).first()
    assert (list(batch.kwargs), batch.target) == (["x", "y"], None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_floats_take_the_models_type(npz, dtype):
    data = open_dataset(npz(x=X.astype(np.float64), y=X.astype(np.float64)), model=nn.Linear(2, 2).to(dtype))
    assert data.first().args[0].dtype == data.first().target.dtype == dtype


def test_integers_are_neither_cast_nor_scaled(npz):
    batch = open_dataset(npz(x=np.full((3, 1, 2, 2), 255, np.uint8)), model=nn.Conv2d(1, 1, 1)).first()
    assert batch.args[0].dtype == torch.uint8
    assert (batch.args[0] == 255).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, ">i4"])
def test_integer_labels_become_what_the_losses_want(npz, dtype):
    target = open_dataset(npz(x=X, y=Y.astype(dtype)), model=None).first().target
    assert target.dtype == torch.int64
    assert torch.equal(target, torch.arange(10))


def test_foreign_byte_orders_and_reversed_arrays_are_read(npz):
    batch = open_dataset(npz(x=X.astype(">f8")[::-1]), model=None).first()
    assert torch.equal(batch.args[0], torch.from_numpy(X[::-1].copy()))


def test_the_input_shape_must_fit_where_it_is_given(npz):
    path = npz(x=X)
    assert open_dataset(path, model=None, input_shapes=[(2,)]).first().size == 10
    assert "samples of shape 2" in failure(path, input_shapes=[(3,)])


# Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": X, "y": Y[:5]}, "different numbers of samples (x: 10, y: 5)"),
        ({"x": X[:0]}, "no samples"),
        ({"x": np.zeros((3, 0))}, "'x' has shape (3, 0)"),
        ({"x": np.float32(3)}, "'x' is a single number"),
        ({"y": Y}, "no array of inputs"),
        ({"x": X, "idx": Y}, "has the arrays 'x', 'idx'"),
        ({"a": X, "b": Y}, "has the arrays 'a', 'b'"),
        ({"x": X, "y": Y, "x_val": X}, "'x_val', 'y_val', one for each array"),
        ({"x": X, "y_val": Y}, "held-out arrays 'y_val'"),
        ({"x": X, "x_vall": X}, "has the arrays"),
        ({"x": X, "x_val": X[:0]}, "(held-out part): no samples"),
        ({"x": np.array(["a", "b"])}, "is of type <U1"),
        ({"x": np.array([1, None], dtype=object)}, "Python objects, whose code would run"),
        ({"x": np.array(["2020-01-01"], dtype="datetime64[D]")}, "datetime64"),
        ({"x": np.zeros(2, dtype=[("a", "f4")])}, "is of type"),
    ],
)
def test_arrays_that_do_not_fit_are_told(npz, arrays, told):
    assert told in failure(npz(**arrays), nn.Linear(2, 2))


def test_names_that_differ_in_case_alone_are_two_arrays(npz):
    assert "has the arrays 'a', 'A'" in failure(npz(a=X, A=X), nn.Linear(2, 2))


def test_an_argument_that_the_file_lacks_is_told(npz):
    assert "no array 'mask'" in failure(npz(ids=Y), NeedsTwo())
    assert "no array 'mask'" in failure(npz(x=Y), NeedsTwo())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (3, "holds a int"),
        ((torch.zeros(2),) * 3, "holds a tuple of 3"),
        ({"x": 3}, "a dictionary with the keys 'x'"),
        ({0: torch.zeros(2)}, "a dictionary with the keys '0'"),
        ({"x": torch.zeros(2, 2).to_sparse()}, "a dictionary with the keys 'x'"),
        ({}, "holds no arrays"),
    ],
)
def test_torch_files_of_other_contents_are_told(tmp_path, content, told):
    torch.save(content, tmp_path / "data.pt")
    assert told in failure(str(tmp_path / "data.pt"))


class Attack:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"x": torch.zeros(2), "y": bad}])
def test_code_in_a_torch_file_does_not_run(tmp_path, wrap):
    torch.save(wrap(Attack(tmp_path / "ran")), tmp_path / "data.pt")
    message = failure(str(tmp_path / "data.pt"))
    assert "refused, because reading it would run the code of 'posix.mkdir'" in message
    assert "--trust" not in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("save", [np.save, np.savez])
def test_code_in_a_numpy_file_does_not_run(tmp_path, save):
    with (tmp_path / "data").open("wb") as file:
        save(file, np.array([Attack(tmp_path / "ran")], dtype=object))
    assert "Python objects, whose code would run" in failure(str(tmp_path / "data"))
    assert not (tmp_path / "ran").exists()


def test_code_in_a_plain_pickle_does_not_run(tmp_path):
    (tmp_path / "data.npz").write_bytes(pickle.dumps(Attack(tmp_path / "ran")))
    assert "a plain pickle" in failure(str(tmp_path / "data.npz"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file"),
        (b"a,b\n1,2\n", "a text file"),
        (b"PK\x03\x04", "truncated"),
        (b"\x93NUMPY\x01\x00", "cannot be read"),
        (struct.pack("<Q", 99) + b"{", "cannot be read"),
    ],
)
def test_other_and_damaged_files_are_told(tmp_path, content, told):
    (tmp_path / "data.npz").write_bytes(content)
    assert told in failure(str(tmp_path / "data.npz"))


def test_an_npy_header_that_lies_about_its_shape_is_told(tmp_path):
    np.save(tmp_path / "data.npy", np.zeros(4))
    whole = (tmp_path / "data.npy").read_bytes()
    (tmp_path / "data.npy").write_bytes(whole.replace(b"(4,), }      ", b"(9999999,), }"))
    assert "'x' claims 79999992 bytes, and the file holds 32 of it" in failure(str(tmp_path / "data.npy"))


@pytest.mark.parametrize("write", WRITERS)
def test_truncated_files_are_told(tmp_path, write):
    write(tmp_path / "data", {"x": X, "y": Y})
    whole = (tmp_path / "data").read_bytes()
    (tmp_path / "data").write_bytes(whole[: len(whole) * 2 // 3])
    failure(str(tmp_path / "data"))


def test_a_missing_file_is_told(tmp_path):
    assert "no such file" in failure(str(tmp_path / "nowhere.npz"))


def test_a_python_file_needs_a_callable(tmp_path):
    (tmp_path / "loader.py").write_text("x = 1\n")
    assert "loader.py:callable" in failure(str(tmp_path / "loader.py"))


def test_names_of_arrays_are_escaped(tmp_path):
    save_file({"a\x1b[2J": torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "data")
    message = failure(str(tmp_path / "data"), nn.Linear(2, 2))
    assert "\x1b" not in message
    assert "a\\x1b[2J" in message


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_samples": 0}, {"default_samples": -1}])
def test_numbers_must_be_positive(npz, options):
    with pytest.raises(UsageError, match="1 or more"):
        open_dataset(npz(x=X), model=None, **options)

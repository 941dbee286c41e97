"""A small file claims large things. What it claims is counted before room is made for it."""

import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import torch
from crafted_pickles import (
    FALSE,
    NONE,
    call,
    dict_of,
    made,
    named,
    number,
    pickle_of,
    saved_legacy,
    saved_zip,
    storage,
    tensor,
    text,
    tuple_of,
)
from torch.distributed import checkpoint as distributed

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.data.arrays import read_arrays
from prelu_doctor.errors import CheckpointError, DataError


@pytest.fixture
def refused(monkeypatch):
    """The reason for which a file is refused, before torch reads it; takes at most a few mebibytes to tell."""
    monkeypatch.setattr(torch, "load", lambda *_a, **_k: pytest.fail("the survey let it through"))

    def reason(path, read=read_checkpoint, error=CheckpointError):
        tracemalloc.start()
        try:
            with pytest.raises(error) as caught:
                read(path)
            assert tracemalloc.get_traced_memory()[1] < 2**23
        finally:
            tracemalloc.stop()
        assert caught.value.expected
        assert caught.value.remedy
        return caught.value.found

    return reason


QUANTIZER = tuple_of(named("torch.per_tensor_affine"), b"G" + struct.pack(">d", 0.1), number(0))
INDICES = tensor((2, 1), (1, 1), of=storage("1", 2, "torch.LongStorage"))
LAYOUT = call("torch.serialization._get_layout", text("torch.sparse_coo"))
HUGE = 10**9

CLAIMS = {
    "a storage longer than its part": (tensor(of=storage(count=HUGE)), "claims 4000000000 bytes, and the file"),
    "a storage that is not there": (tensor(of=storage("7")), "its storage '7' claims 16 bytes, and the file holds 0"),
    "a storage of another folder": (tensor(of=storage("../byteorder", 1)), "its storage '../byteorder' claims 4 bytes"),
    "a storage of negative size": (tensor(of=storage(count=-1)), "a storage in it has a type, a name or a size that"),
    "a storage of two sizes": (tuple_of(storage(), storage(count=2)), "its storage '0' has two sizes"),
    "a storage of no type": (storage(cls="torch.Tensor"), "a storage in it has a type, a name or a size that"),
    "a tensor beyond its storage": (tensor((5,)), "a tensor of shape 5 in it reaches to byte 20 of a storage of 16"),
    "a tensor that begins beyond it": (tensor((1,), offset=4), "reaches to byte 20 of a storage of 16"),
    "a stride that leads beyond it": (tensor((2, 2), (3, 1)), "reaches to byte 20 of a storage of 16"),
    "a negative stride": (tensor((2,), (-1,)), "a shape, stride or offset that is no whole number"),
    "a negative size": (tensor((-2,)), "a shape, stride or offset that is no whole number"),
    "more strides than axes": (tensor((2,), (1, 1)), "1 axes and 2 strides"),
    "a hundred axes": (tensor((1,) * 100, (1,) * 100), "has a shape that is none"),
    "one number, expanded": (tensor((HUGE, HUGE), (0, 0)), "tensors claim more than its"),
    "many views of one storage": (
        b"](" + b"".join(tensor((400_000,), (0,), offset) for offset in range(4)) + b"e",
        "tensors claim more than its",
    ),
    "wider elements than the storage has": (
        call(
            "torch._utils._rebuild_tensor_v3", storage(), number(0), tuple_of(number(4)), tuple_of(number(1)), FALSE,
            NONE, named("torch.complex128"),
        ),
        "reaches to byte 64 of a storage of 16",
    ),
    "a sparse tensor": (
        call("torch._utils._rebuild_sparse_tensor", LAYOUT,
            tuple_of(INDICES, tensor((1,)), tuple_of(number(HUGE), number(HUGE))),
        ),
        "tensors claim more than its",
    ),
    "a meta tensor": (
        call(
            "torch._utils._rebuild_meta_tensor_no_storage", named("torch.float32"), tuple_of(number(HUGE)),
            tuple_of(number(1)), FALSE,
        ),
        "tensors claim more than its",
    ),
    "a quantized tensor": (
        call(
            "torch._utils._rebuild_qtensor", storage(cls="torch.QInt8Storage"), number(0), tuple_of(number(HUGE)),
            tuple_of(number(0)), QUANTIZER, FALSE, NONE,
        ),
        "tensors claim more than its",
    ),
    "a tensor of another device": (
        call(
            "torch._utils._rebuild_device_tensor_from_cpu_tensor", tensor((90_000,), (0,)), named("torch.complex128"),
            text("xla:0"), FALSE,
        ),
        "tensors claim more than its",
    ),
    "a parameter by its state": (
        made("torch.nn.parameter.Parameter", tensor())
        + tuple_of(storage(), number(0), tuple_of(number(HUGE)), tuple_of(number(0)))
        + b"b",
        "tensors claim more than its",
    ),
    "a wrapper without data": (
        call("torch._utils._rebuild_wrapper_subclass", named("torch.Tensor"), named("torch.float32")),
        "would run the code of 'torch._utils._rebuild_wrapper_subclass'",
    ),
    "a nested tensor": (
        call("torch._utils._rebuild_nested_tensor", tensor()),
        "would run the code of 'torch._utils._rebuild_nested_tensor'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path, refused, name):
    body, told = CLAIMS[name]
    path = saved_zip(tmp_path / "m.pt", pickle_of(dict_of(w=body)), {"0": bytes(16), "1": bytes(16)})
    assert told in refused(path)


@pytest.mark.parametrize("view", [tensor((4,)), tensor((4, 2), (1, 0)), tensor((0, 10**9), (1, 1)), tensor((), ())])
def test_a_tensor_that_lies_in_its_storage_is_read(tmp_path, view):
    stored = read_checkpoint(saved_zip(tmp_path / "m.pt", pickle_of(dict_of(w=view))))
    assert (stored.state["w"] == 0).all()


def legacy_storage(count, view=NONE):
    return tuple_of(text("storage"), named("torch.FloatStorage"), text("0"), text("cpu"), number(count), view) + b"Q"


KEYS = b"](" + text("0") + b"e"
SECTION = struct.pack("<q", 4) + bytes(16)


@pytest.mark.parametrize(
    ("body", "keys", "told"),
    [
        (tensor(of=legacy_storage(HUGE)), KEYS, "its storage '0' claims 4000000000 bytes"),
        (tensor(of=legacy_storage(8)), KEYS, "its storages claim 40 bytes, and the file holds 24 of storages"),
        (tensor(of=legacy_storage(4)), b"]", "its storages claim 0 bytes"),
        (tensor(of=legacy_storage(4)), b"](" + text("0") + text("1") + b"e", "its storages claim"),
        (tensor(of=legacy_storage(4)), b"](" + text("0") * 2 + b"e", "its storages claim"),
        (tensor(of=legacy_storage(4)), number(3), "the names of its storages are none"),
        (tensor(of=legacy_storage(4, tuple_of(text("v"), number(2), number(4)))), KEYS, "lies beyond its end"),
        (tensor(of=legacy_storage(4, tuple_of(text("v"), number(-1), number(1)))), KEYS, "has a place that is none"),
        (tensor((3,), of=legacy_storage(4, tuple_of(text("v"), number(2), number(2)))), KEYS, "a storage of 8 bytes"),
    ],
)  # fmt: skip
def test_a_file_of_the_old_format_that_claims_more_than_it_holds_is_refused(tmp_path, refused, body, keys, told):
    assert told in refused(saved_legacy(tmp_path / "m.pt", pickle_of(dict_of(w=body)), keys, SECTION))


def test_a_file_of_the_old_format_that_holds_what_it_claims_is_read(tmp_path):
    view = legacy_storage(4, tuple_of(text("v"), number(1), number(3)))
    path = saved_legacy(tmp_path / "m.pt", pickle_of(dict_of(w=tensor((2,), offset=1, of=view))), KEYS,
                        struct.pack("<q4f", 4, 1, 2, 3, 4))  # fmt: skip
    assert read_checkpoint(path).state["w"].tolist() == [3, 4]


@pytest.mark.parametrize("name", ["one number, expanded", "a storage longer than its part", "a sparse tensor"])
def test_a_torch_file_of_data_that_claims_more_than_it_holds_is_refused(tmp_path, refused, name):
    body, told = CLAIMS[name]
    path = saved_zip(tmp_path / "data.pt", pickle_of(dict_of(x=body)), {"0": bytes(16), "1": bytes(16)})
    assert told in refused(path, read_arrays, DataError)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (call("builtins.bytearray", number(10**10)), "it asks for a bytearray of any size"),
        (tensor((1, 4), (4, 1), of=storage(count=HUGE)), "claims 4000000000 bytes"),
    ],
)
def test_a_block_of_a_distributed_checkpoint_is_surveyed_too(tmp_path, body, told):
    """The block is exchanged for a hostile one of the same length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distributed.save({"w": torch.ones(1, 400)}, checkpoint_id=tmp_path / "saved", no_dist=True)
    (block,) = (tmp_path / "saved").glob("*.distcp")
    evil = saved_zip(tmp_path / "evil", pickle_of(body)).read_bytes()
    missing = block.stat().st_size - len(evil)
    with zipfile.ZipFile(tmp_path / "evil", "a") as archive:
        archive.writestr("m/p", bytes(missing - 30 - 3 - 46 - 3))
    assert (tmp_path / "evil").stat().st_size == block.stat().st_size
    block.write_bytes((tmp_path / "evil").read_bytes())
    with pytest.raises(CheckpointError, match=told):
        read_checkpoint(tmp_path / "saved")


def array_file(shape, content=b"", dtype="<f4", version=(1, 0)):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117).encode() + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + content


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("shape", [(10**9,), (10**6, 10**6), (2**62, 2**62), (5,)])
@pytest.mark.parametrize("archived", [False, True])
def test_a_numpy_array_that_claims_more_than_the_file_holds_is_refused(tmp_path, refused, shape, version, archived):
    content = array_file(shape, bytes(16), version=version)
    if archived:
        with zipfile.ZipFile(tmp_path / "data", "w") as archive:
            archive.writestr("x.npy", content)
    else:
        (tmp_path / "data").write_bytes(content)
    assert "bytes, and the file holds 16 of it" in refused(tmp_path / "data", read_arrays, DataError)


def test_a_numpy_array_of_objects_is_refused(tmp_path, refused):
    (tmp_path / "data.npy").write_bytes(array_file((1,), dtype="|O"))
    assert "Python objects, whose code would run" in refused(tmp_path / "data.npy", read_arrays, DataError)
    np.savez(tmp_path / "data.npz", x=np.array([{}], dtype=object))
    assert "Python objects, whose code would run" in refused(tmp_path / "data.npz", read_arrays, DataError)


def test_a_numpy_array_of_negative_size_is_refused(tmp_path, refused):
    (tmp_path / "data.npy").write_bytes(array_file((-4,), bytes(16)))
    assert "claims -16 bytes" in refused(tmp_path / "data.npy", read_arrays, DataError)


@pytest.mark.parametrize("opcodes", [b"]", b"}", b"\x8f", b"("])
def test_what_a_survey_takes_in_memory_is_bounded(tmp_path, monkeypatch, opcodes):
    monkeypatch.setattr("prelu_doctor.untrusted.pickle_survey._MOST_STEPS", 10_000)
    path = saved_zip(tmp_path / "m.pt", pickle_of(opcodes * 2**20))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="more than 10000 steps"):
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_text_that_claims_more_than_the_pickle_holds_is_damage(tmp_path, refused):
    long = b"\xff" * 7
    for opcode in (b"X" + long[:4], b"\x8e" + long + b"\x00", b"\x8b" + long[:3] + b"\x7f", b"\x95" + long, b"cos"):
        assert "its pickle is damaged" in refused(saved_zip(tmp_path / "m.pt", pickle_of(opcode)))


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        ("_codecs.encode", text("a" * 2000)),
        ("builtins.bytearray", text("a" * 2000)),
        ("builtins.set", b"](" + b"".join(number(n) for n in range(200)) + b"e"),
        ("collections.OrderedDict", b"}(" + b"".join(number(n) + NONE for n in range(200)) + b"u"),
        ("collections.Counter", b"}(" + b"".join(number(n) + NONE for n in range(200)) + b"u"),
    ],
)
def test_calls_that_copy_one_argument_again_and_again_are_refused(tmp_path, function, argument):
    """A call of a thing that was made before takes a few bytes of the file, and a copy of the thing in memory."""
    last = text("latin1") if function in ("_codecs.encode", "builtins.bytearray") else b""
    again = named(function) + b"(h\x01" + last + b"tR0"
    body = argument + b"q\x010" + 4000 * again + dict_of(w=tensor())
    with pytest.raises(CheckpointError, match="its calls copy more than its"):
        read_checkpoint(saved_zip(tmp_path / "m.pt", pickle_of(body)))


def test_tuples_as_keys_are_few(tmp_path):
    def keys(count):
        return b"}(" + b"".join(tuple_of(number(n), number(1)) + NONE for n in range(count)) + b"u"

    few = dict_of(state_dict=dict_of(w=tensor()), sizes=keys(900))
    assert list(read_checkpoint(saved_zip(tmp_path / "few.pt", pickle_of(few))).state) == ["w"]
    many = dict_of(state_dict=dict_of(w=tensor()), sizes=keys(1100))
    with pytest.raises(CheckpointError, match="keys of dictionaries in it are tuples"):
        read_checkpoint(saved_zip(tmp_path / "many.pt", pickle_of(many)))

"""What a file says that its model takes goes before everything else: names, order, types, shapes, the batch size."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from prelu_doctor.data.sources import open_dataset
from prelu_doctor.errors import DataError
from prelu_doctor.expected_inputs import ExpectedInput, ExpectedInputs
from prelu_doctor.samples import samples_for

FLOAT, LONG = torch.float32, torch.int64


def takes(*inputs):
    return ExpectedInputs(tuple(ExpectedInput(*each) for each in inputs))


IMAGE = takes(("image", (None, 3, 8, 8), FLOAT))
FOUR = takes(("x", (4, 2), FLOAT))
TOKENS = takes(("input_ids", (None, 5), LONG), ("scale", (None, 1), torch.float64))
STREAM = takes(("frame", (1, 16), FLOAT), ("state", (2, 1, 8), FLOAT))


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return str(tmp_path / "data.npz")

    return write


@pytest.fixture
def feed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(body):
        name = f"feed{len(list(tmp_path.glob('*.py')))}.py"
        code = f"import torch\nfrom prelu_doctor import Call\ndef batches():\n{textwrap.indent(body, '    ')}\n"
        (tmp_path / name).write_text(code)
        return f"{name}:batches"

    return write


def opened(expected, spec=None, model=None, **options):
    return open_dataset(spec, model=model, expected=expected, **options)


def failure(*arguments, **options):
    with pytest.raises(DataError) as caught:
        opened(*arguments, **options)
    return str(caught.value)


# Noise ----------------------------------------------------------------------------------------------------------


def test_noise_has_the_files_shapes_and_types_and_no_model_is_needed():
    data = opened(takes(("a", (None, 3, 8), torch.float64), ("b", (None,), torch.float16)), batch_size=7)
    batch = data.first()
    assert [(tuple(t.shape), t.dtype) for t in batch.args] == [((7, 3, 8), torch.float64), ((7,), torch.float16)]
    assert (batch.kwargs, data.synthetic) == ({}, True)
    assert "told by the model's file" in data.contents


def test_the_file_goes_before_what_the_first_layer_suggests():
    model = nn.Sequential(nn.Linear(4, 2))
    assert opened(takes(("x", (None, 9, 4), FLOAT)), model=model).first().args[0].shape[1:] == (9, 4)


def test_open_sizes_are_asked_for_with_the_option():
    expected = takes(("image", (None, 3, None, None), FLOAT), ("mask", (None, 7), FLOAT))
    assert "--input-shape 3,B,C --input-shape 7" in failure(expected)
    batch = opened(expected, input_shapes=[(3, 4, 5), (7,)]).first()
    assert [tuple(tensor.shape[1:]) for tensor in batch.args] == [(3, 4, 5), (7,)]


def test_whole_numbers_are_asked_for_by_name_and_type():
    message = failure(TOKENS)
    assert "--data data.npz with an int64 array 'input_ids' beside 'scale'" in message
    assert "--input-shape" not in message


@pytest.mark.parametrize("shapes", [[(3, 4, 4)], [(3, 8)], [(3, 8, 8), (1,)]])
def test_an_input_shape_that_contradicts_the_file_is_an_error(shapes):
    assert "the model's file takes image: float32 ?x3x8x8" in failure(IMAGE, input_shapes=shapes)
    assert opened(IMAGE, input_shapes=[(3, 8, 8)]).first().args[0].shape[1:] == (3, 8, 8)


# Data -----------------------------------------------------------------------------------------------------------


def test_arrays_named_like_the_inputs_come_in_the_files_order_and_types(npz):
    data = opened(TOKENS, npz(scale=np.ones((6, 1), np.float32), input_ids=np.arange(30, dtype=np.int32).reshape(6, 5)))
    batch = data.first()
    assert ([tensor.dtype for tensor in batch.args], batch.kwargs) == ([LONG, torch.float64], {})
    assert torch.equal(batch.args[0], torch.arange(30).reshape(6, 5))


@pytest.mark.parametrize(
    ("expected", "arrays", "told"),
    [
        (IMAGE, {"x": np.zeros((2, 3, 4, 4))}, "'image' holds samples of shape 3x4x4"),
        (IMAGE, {"x": np.zeros((2, 3, 8, 8), np.uint8)}, "'image' holds uint8"),
        (IMAGE, {"x": np.zeros((2, 3, 8, 8)), "x_val": np.zeros((2, 3, 4, 4))}, "shape 3x4x4"),
        (TOKENS, {"x": np.zeros((2, 5), np.int64)}, "no array 'scale'"),
        (takes(("x", (None, 2), torch.uint8)), {"x": np.full((2, 2), 300)}, "'x' holds int64"),
        (takes(("x", (None, 2), torch.bool)), {"x": np.ones((2, 2))}, "'x' holds float64"),
        (STREAM, {"frame": np.zeros((1, 16)), "state": np.zeros((1, 1, 8))}, "prelu_doctor.Call(...)"),
    ],
)
def test_data_that_does_not_fit_the_file_is_told_before_anything_runs(npz, expected, arrays, told):
    assert told in failure(expected, npz(**arrays))


def test_images_follow_the_size_that_the_file_tells(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.new("RGB", (5, 6)).save(tmp_path / "images" / "a.png")
    assert opened(IMAGE, str(tmp_path / "images")).first().args[0].shape == (1, 3, 8, 8)
    gray = takes(("image", (None, 1, 4, 4), FLOAT))
    assert opened(gray, str(tmp_path / "images")).first().args[0].shape == (1, 1, 4, 4)


def test_a_number_of_inputs_that_differs_is_told(feed):
    assert "2 tensors" in failure(IMAGE, feed("yield (torch.zeros(2, 3, 8, 8), torch.zeros(2)), torch.zeros(2)"))


# Batches of one size --------------------------------------------------------------------------------------------


def test_batches_have_the_one_size_that_the_file_takes_and_what_fills_them_up_is_not_counted(npz):
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    data = opened(FOUR, npz(x=x, y=np.arange(10)))
    batches = list(data.scanned())
    assert [(batch.size, batch.counted, batch.resizable) for batch in batches] == [
        (4, 4, False), (4, 4, False), (4, 2, False),
    ]  # fmt: skip
    assert torch.equal(batches[2].args[0], torch.from_numpy(x[[8, 9, 9, 9]]))
    assert torch.equal(batches[2].target, torch.tensor([8, 9, 9, 9]))
    assert data.contents == "x: 10 x 2, in batches of 4, which the model's file asks for"


def test_the_held_out_part_is_cut_likewise(npz):
    data = opened(FOUR, npz(x=np.zeros((3, 2)), x_val=np.zeros((5, 2))))
    assert [(batch.size, batch.counted) for batch in data.held_out()] == [(4, 4), (4, 1)]


def test_batches_of_the_users_own_are_cut_and_filled_one_by_one(feed):
    data = opened(FOUR, feed("yield torch.zeros(6, 2)\nyield torch.zeros(1, 2)"))
    assert [(batch.size, batch.counted) for batch in data.scanned()] == [(4, 4), (4, 2), (4, 1)]
    assert sum(batch.counted for batch in opened(FOUR, max_samples=6).scanned()) == 6
    library = samples_for(None, torch.zeros(7, 2), expected=FOUR)
    assert [(batch.size, batch.counted) for batch in library.scanned()] == [(4, 4), (4, 3)]


def test_noise_for_inputs_that_have_no_common_batch_axis_is_whole_calls_of_the_files_shapes():
    calls = list(opened(STREAM, max_samples=3).scanned())
    assert [(call.whole, call.size, [tuple(t.shape) for t in call.args]) for call in calls] == [
        (True, 1, [(1, 16), (2, 1, 8)])
    ] * 3
    assert not torch.equal(calls[0].args[0], calls[1].args[0])


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([("x", (1, 4), FLOAT), ("sr", (), LONG)], "'sr' holds int64"),
        ([("x", (1, None), FLOAT), ("state", (2, 1, 8), FLOAT)], "leaves sizes open"),
    ],
)
def test_calls_that_noise_cannot_stand_for_are_asked_for(inputs, told):
    message = failure(takes(*inputs))
    assert told in message
    assert "--data module:callable that yields whole calls, prelu_doctor.Call(...)" in message


def test_whole_calls_are_cast_to_the_files_types_and_keep_their_shapes(feed):
    call = opened(STREAM, feed("yield Call(torch.zeros(1, 16).double(), torch.zeros(2, 1, 8))")).first()
    assert [(tuple(tensor.shape), tensor.dtype) for tensor in call.args] == [((1, 16), FLOAT), ((2, 1, 8), FLOAT)]

import sys

import numpy as np
import pytest
import torch
from torch import nn

from prelu_doctor.data.sources import open_dataset
from prelu_doctor.errors import DataError

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def draw(tmp_path):
    """Save an image of one colour below the folder."""

    def save(name, colour=(255, 0, 0), size=(6, 4), mode="RGB"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, colour).save(path)
        return path

    return save


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "images")


def failure(folder, **options):
    with pytest.raises(DataError) as caught:
        open_dataset(folder, model=None, **options)
    return str(caught.value)


def test_images_are_channels_first_in_0_to_1_and_in_the_order_of_their_names(draw, folder):
    draw("b.png", (0, 255, 51))
    draw("a.png", (255, 0, 0))
    batch = open_dataset(folder, model=None).first()
    assert batch.args[0].shape == (2, 3, 4, 6)
    assert torch.allclose(batch.args[0][:, :, 0, 0], torch.tensor([[1.0, 0, 0], [0, 1.0, 0.2]]))
    assert batch.target is None


def test_subfolders_are_labels_in_the_order_of_their_names(draw, folder, batches_of):
    for name in ("dog/1.png", "cat/2.png", "cat/deeper/1.png", "emu/1.png"):
        draw(name)
    _, y = batches_of(open_dataset(folder, model=None, batch_size=3).scanned)
    assert y.tolist() == [0, 0, 1, 2]


def test_an_image_outside_of_the_subfolders_means_no_labels(draw, folder):
    draw("dog/1.png")
    draw("1.png")
    assert open_dataset(folder, model=None).first().target is None


@pytest.mark.parametrize(
    ("model", "shapes", "expected"),
    [
        (None, [(3, 5, 7)], (3, 5, 7)),
        (None, [(1, 5, 7)], (1, 5, 7)),
        (nn.Sequential(nn.Conv2d(1, 2, 3)), [], (1, 4, 6)),
        (nn.Sequential(nn.Conv2d(3, 2, 3)), [], (3, 4, 6)),
        (nn.Linear(3, 2), [], (3, 4, 6)),
    ],
)
def test_channels_and_size_follow_the_input_shape_or_the_first_convolution(draw, folder, model, shapes, expected):
    draw("a.png")
    draw("gray.png", 128, mode="L")
    data = open_dataset(folder, model=model, input_shapes=shapes)
    assert data.first().args[0].shape == (2, *expected)


def test_images_take_the_models_type(draw, folder):
    draw("a.png")
    assert open_dataset(folder, model=nn.Conv2d(3, 1, 1).double()).first().args[0].dtype == torch.float64


def test_images_are_read_a_batch_at_a_time(draw, folder):
    for k in range(3):
        draw(f"{k}.png")
    data = open_dataset(folder, model=None, batch_size=2)
    passing = data.scanned()
    next(passing)
    draw("2.png").write_bytes(b"damaged")  # not read yet
    with pytest.raises(DataError, match=r"2\.png: not a readable image"):
        next(passing)


def test_max_samples_keeps_the_first_and_other_files_are_counted(draw, folder, tmp_path):
    for k in range(3):
        draw(f"{k}.png")
    (tmp_path / "images" / "readme.txt").write_text("x")
    (tmp_path / "images" / ".hidden.png").write_text("x")
    (tmp_path / "images" / ".cache").mkdir()
    (tmp_path / "images" / ".cache" / "a.png").write_text("x")
    data = open_dataset(folder, model=None, max_samples=2)
    assert sum(batch.size for batch in data.scanned()) == 2
    assert data.contents == "x: 2 of 3 x 3x4x6, 1 other files left out"


def test_different_sizes_ask_for_an_input_shape(draw, folder):
    draw("a.png")
    draw("b.png", size=(9, 9))
    message = failure(folder)
    assert "b.png: 9x9" in message
    assert "--input-shape 3,H,W" in message
    assert open_dataset(folder, model=None, input_shapes=[(3, 4, 4)]).first().size == 2


def test_deep_images_are_not_clipped_silently(folder, tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "images" / "a.png")
    assert "more than 8 bits" in failure(folder)


def test_a_folder_without_images_is_told(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"")
    assert "a folder with 1 files and no images" in failure(str(tmp_path))


@pytest.mark.parametrize("shapes", [[(8, 8)], [(3, 8, 8), (2,)], [(4, 8, 8)]])
def test_shapes_that_are_no_image_are_told(draw, folder, shapes):
    draw("a.png")
    assert "images" in failure(folder, input_shapes=shapes)


def test_a_missing_pillow_is_told(draw, folder, monkeypatch):
    draw("a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "prelu-doctor[vision]" in failure(folder)

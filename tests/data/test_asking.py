"""A model that does not reveal its input is answered with the option to add, and that option then works."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prelu_doctor.data.sources import open_dataset
from prelu_doctor.errors import DataError


class Words(nn.Module):
    """As Hugging Face writes it: every argument by keyword, none required."""

    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(100, 4), nn.Linear(4, 5)

    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None):
        return F.relu(self.fc(self.embed(input_ids)))


class TwoTexts(Words):
    def forward(self, question, answer):
        return F.relu(self.fc(self.embed(question) + self.embed(answer)))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(2, 8)

    def forward(self, left, right, scale: float = 1.0):
        return F.relu(self.left(left) + self.right(right)) * scale


class TimeFirst(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, frames):
        return self.layer(frames)[0]


class Patches(nn.Module):
    """A class token of its own stands before the layer that tells the shape."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.cut = nn.Conv2d(3, 6, 8, stride=8)

    def forward(self, image):
        assert image.shape[2:] == (32, 32)
        return torch.cat([self.token.expand(len(image), 1, 6), self.cut(image).flatten(2).transpose(1, 2)], dim=1)


def scripted(model):
    return stored(torch.jit.script(model.eval()))


def traced(model, *inputs):
    return stored(torch.jit.trace(model.eval(), inputs))


def stored(module):
    content = io.BytesIO()
    torch.jit.save(module, content)
    content.seek(0)
    return torch.jit.load(content)


@pytest.fixture(autouse=True)
def _no_word_of_torchscripts_age():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def asked(model):
    with pytest.raises(DataError) as caught:
        open_dataset(None, model=model)
    return caught.value


@pytest.mark.parametrize(
    ("model", "argument", "words"),
    [
        (lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), "input", 9),
        (Words, "input_ids", 100),
        (lambda: nn.EmbeddingBag(7, 4), "input", 7),
        (lambda: scripted(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))), "input", 9),
    ],
)
def test_a_net_that_looks_up_words_asks_for_them_by_name_and_type(tmp_path, model, argument, words):
    error = asked(model())
    wanted = f"an int64 array '{argument}' [N, length], whole numbers below {words}"
    assert error.remedy == f"--data tokens.npz with {wanted}"
    np.savez(tmp_path / "tokens.npz", **{argument: np.full((3, 5), words - 1)})
    open_dataset(str(tmp_path / "tokens.npz"), model=model()).first().run(model())


def test_several_texts_are_asked_for_together(tmp_path):
    error = asked(TwoTexts())
    assert "--data tokens.npz with the arrays 'question', 'answer', the tokens among them as int64" in error.remedy
    assert "--input-shape" not in error.remedy
    np.savez(tmp_path / "tokens.npz", question=np.zeros((3, 5), np.int64), answer=np.ones((3, 5), np.int64))
    open_dataset(str(tmp_path / "tokens.npz"), model=TwoTexts()).first().run(TwoTexts())


@pytest.mark.parametrize("model", [TwoInputs, lambda: scripted(TwoInputs())], ids=["eager", "TorchScript"])
def test_several_inputs_are_asked_for_by_name_in_their_order(tmp_path, model):
    error = asked(model())
    assert error.found == "the model's forward takes 'left', 'right', and nothing tells their shapes"
    assert "--data data.npz with the arrays 'left', 'right'" in error.remedy
    assert "--input-shape <left> --input-shape <right>" in error.remedy
    open_dataset(None, model=model(), input_shapes=[(4,), (2,)]).first().run(model())
    np.savez(tmp_path / "data.npz", right=np.zeros((3, 2)), left=np.zeros((3, 4)))
    open_dataset(str(tmp_path / "data.npz"), model=model()).first().run(model())


@pytest.mark.parametrize(
    ("layer", "features"),
    [(nn.LSTM(5, 3), 5), (nn.GRU(6, 3), 6), (nn.RNN(7, 3, nonlinearity="relu"), 7)],
)
def test_a_recurrent_net_asks_which_axis_is_time(layer, features):
    error = asked(TimeFirst(layer))
    assert "samples of 'frames'" in error.expected
    assert f"--input-shape T,{features} with a number of steps" in error.remedy
    assert f"prelu_doctor.Call(x) with x [T, N, {features}]" in error.remedy


def test_so_does_attention_that_takes_time_first_and_what_is_batch_first_is_guessed():
    assert "--input-shape T,8" in asked(nn.TransformerEncoderLayer(8, 2, 16)).remedy
    guessed = open_dataset(None, model=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    assert guessed.first().args[0].shape[1:] == (16, 8)


def test_a_traced_recurrent_net_tells_its_features_by_its_weights():
    model = traced(TimeFirst(nn.LSTM(5, 3)), torch.zeros(2, 3, 5))
    assert "--input-shape T,5" in asked(model).remedy


@pytest.mark.parametrize("model", [nn.ReLU(), nn.PReLU(), nn.Sequential()])
def test_a_net_that_tells_nothing_is_asked_for_one_shape(model):
    error = asked(model)
    assert "samples of 'input'" in error.expected
    assert error.remedy.startswith("--data SPEC, or --input-shape with the shape of one sample")


def test_sizes_that_a_convolution_leaves_open_are_letters():
    def remedy(first, spatial):
        return asked(nn.Sequential(first, nn.Flatten(), nn.Linear(spatial, 2))).remedy

    assert "--input-shape 3,H,W," in remedy(nn.Conv2d(3, 2, 3), 7)
    assert "--input-shape 2,W," in remedy(nn.Conv1d(2, 2, 3), 7)
    assert "--input-shape 1,D,H,W," in remedy(nn.Conv3d(1, 2, 3), 7)
    assert "--input-shape 4," in asked(nn.Sequential(nn.Linear(4, 3), nn.Linear(7, 2))).remedy


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: scripted(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 2))), (3, 28, 28)),
        (lambda: traced(nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU()), torch.zeros(2, 2, 9)), (2, 64)),
        (lambda: traced(nn.Linear(4, 3), torch.zeros(2, 4)), (4,)),
        (lambda: traced(nn.BatchNorm2d(3), torch.zeros(2, 3, 4, 4)), (3, 64, 64)),
        (lambda: traced(nn.LayerNorm((3, 4)), torch.zeros(2, 3, 4)), (3, 4)),
        (lambda: scripted(TimeFirst(nn.GRU(5, 3, batch_first=True))), (16, 5)),
        (Patches, (3, 32, 32)),
    ],
)
def test_torchscript_and_nets_with_parameters_of_their_own_are_guessed_by_their_first_layer(model, shape):
    assert open_dataset(None, model=model()).first().args[0].shape[1:] == shape


def test_frozen_torchscript_has_no_layers_and_is_asked_for_a_shape():
    model = stored(torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(4, 3)).eval())))
    assert "--input-shape" in asked(model).remedy
    open_dataset(None, model=model, input_shapes=[(4,)]).first().run(model)

import pytest
import torch
from torch import nn

from prelu_doctor.data.sources import open_dataset
from prelu_doctor.errors import DataError


def shape_of(model, **options):
    return tuple(open_dataset(None, model=model, **options).first().args[0].shape[1:])


def pinned_at(size, channels=3):
    return nn.Sequential(nn.Conv2d(channels, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * size * size, 4))


def test_noise_is_seeded_and_says_that_it_is_synthetic(linear, batches_of):
    data = open_dataset(None, model=linear, seed=3)
    x, y = batches_of(data.scanned)
    assert (x.shape, y, data.synthetic, data.seed, data.held_out) == ((512, 4), None, True, 3, None)
    assert (data.source, data.contents) == ("synthetic Gaussian", "512 x 4, guessed from '0'")
    assert torch.equal(batches_of(data.scanned)[0], x)
    assert not torch.equal(batches_of(open_dataset(None, model=linear, seed=4).scanned)[0], x)
    assert abs(x.mean()) < 0.1
    assert abs(x.std() - 1) < 0.1


def test_max_samples_and_the_default_bound_the_samples(linear):
    sizes = [b.size for b in open_dataset(None, model=linear, batch_size=4, max_samples=10).scanned()]
    assert sizes == [4, 4, 2]
    assert sum(b.size for b in open_dataset(None, model=linear, max_samples=1000, default_samples=70).scanned()) == 70


def test_given_shapes_are_taken_for_all_inputs():
    data = open_dataset(None, model=None, input_shapes=[(3, 8, 8), (5,)], batch_size=2)
    assert [tuple(t.shape) for t in data.first().args] == [(2, 3, 8, 8), (2, 5)]
    assert data.contents == "512 x 3x8x8, 5"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_noise_takes_the_models_type(linear, dtype):
    assert open_dataset(None, model=linear.to(dtype)).first().args[0].dtype == dtype


@pytest.mark.parametrize("size", [8, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_linear_layer_behind_a_flatten_pins_the_size(size, channels):
    assert shape_of(pinned_at(size, channels)) == (channels, size, size)


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 64)])
def test_a_net_that_takes_any_size_gets_the_preferred_one(channels, size):
    net = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    assert shape_of(net) == (channels, size, size)


class Sequence(nn.Module):
    """Takes sequences alone."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 4)

    def forward(self, x):
        _batch, _time, _features = x.shape
        return self.embed(x)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 2)), (784,)),
        (Sequence(), (16, 6)),
        (nn.LSTM(5, 3, batch_first=True), (16, 5)),
        (nn.LayerNorm((3, 4)), (3, 4)),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3)), (3, 64, 64)),
        (nn.Sequential(nn.Conv1d(2, 3, 5), nn.Flatten(), nn.Linear(3 * 96, 2)), (2, 100)),
        (nn.Conv3d(1, 2, 3), (1, 16, 16, 16)),
        (nn.Sequential(nn.BatchNorm1d(7), nn.Linear(7, 2)), (7,)),
    ],
)
def test_first_layers_of_many_kinds_tell_the_shape(model, shape):
    assert shape_of(model) == shape


@pytest.mark.parametrize("model", [nn.ReLU(), nn.PReLU()])
def test_a_first_layer_that_does_not_tell_asks_for_the_shape(model):
    with pytest.raises(DataError, match=r"(?s)does not tell.*--data.*--input-shape"):
        open_dataset(None, model=model)


def test_a_model_that_runs_on_nothing_tried_asks_for_the_shape():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(7, 2))
    with pytest.raises(DataError, match=r"--input-shape 3,H,W"):
        open_dataset(None, model=net)


def test_no_model_and_no_shape_is_told():
    with pytest.raises(DataError, match="--data or --input-shape"):
        open_dataset(None, model=None)


class ModeRecorder(nn.Module):
    """Raises after having seen in which mode it runs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        torch.rand(1)
        raise RuntimeError("on purpose")


def test_modes_and_random_state_are_put_back_also_when_the_forward_raises():
    model = ModeRecorder()
    model.train()
    model.layer.eval()
    state = torch.get_rng_state()
    with pytest.raises(DataError):
        open_dataset(None, model=model)
    assert set(model.seen) == {(False, True, False)}
    assert (model.training, model.layer.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), state)


def test_running_statistics_are_not_touched():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    open_dataset(None, model=model)
    assert model[1].num_batches_tracked == 0
    assert (model[1].running_mean == 0).all()

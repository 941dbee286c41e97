"""What weights alone tell, against the model that they belong to."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prelu_doctor.weights.examination import MOST_INDICES, examine

LARGE = 1e4
"""Scale of inputs that would wake up whatever can be woken up."""


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def found(state, **known):
    return examine(state, **known).found


def fired_units(model: nn.Module, shape: tuple[int, ...], axis: int = 1) -> set[int]:
    """Units of the last module that are positive on any of many large inputs."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        outputs = model(LARGE * torch.randn(256, *shape, generator=generator))
    return set((outputs.movedim(axis, 0).flatten(1) > 0).any(1).nonzero().flatten().tolist())


NORMS = {
    "batch norm": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), (3, 5, 5), 1),
    "group norm": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU()), (3, 5, 5), 1),
    "layer norm": (nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.ReLU()), (3,), 1),
}


@pytest.mark.parametrize("name", NORMS)
def test_norm_channels_called_proved_are_dead_on_any_input_and_no_healthy_one_is_called_so(name):
    model, shape, axis = NORMS[name]
    seeded(model)
    norm = model[1]
    with torch.no_grad():
        norm.weight[[1, 4, 6]] = 0.0
        norm.bias[[1, 4]] = torch.tensor([-0.5, 0.0])
        norm.bias[6] = 0.5  # a constant above 0 is not dead
    (closed,) = found(model.state_dict()).closed_channels
    assert (closed.tensor, closed.shift, closed.of) == ("1.weight", "1.bias", 8)
    assert closed.proved_indices == [1, 4]
    assert closed.running_statistics is (name == "batch norm")
    assert fired_units(model, shape, axis).isdisjoint(closed.proved_indices)
    assert 6 in fired_units(model, shape, axis)


def test_channels_called_probable_are_silent_on_what_the_statistics_stand_for_and_may_wake_beyond():
    model, shape, _ = NORMS["batch norm"]
    seeded(model)
    norm = model[1]
    with torch.no_grad():
        norm.weight[:], norm.bias[:] = 1.0, 0.0
        norm.bias[2], norm.bias[3] = -3.0, -2.99
    (closed,) = found(model.state_dict()).closed_channels
    assert (closed.proved, closed.probable_indices) == (0, [2])
    assert 2 in fired_units(model, shape)  # inputs of scale 10,000 are not what the running statistics say


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (nn.Linear(3, 8), (3,), 0),
        (nn.Conv2d(3, 8, 3), (3, 5, 5), 0),
        (nn.Conv2d(8, 8, 3, groups=8), (8, 5, 5), 0),
        (nn.ConvTranspose2d(3, 8, 3), (3, 5, 5), 1),
    ],
)
def test_zero_outputs_called_dead_are_dead_on_any_input_and_the_others_are_constant(layer, shape, axis):
    model = seeded(nn.Sequential(layer, nn.ReLU()))
    with torch.no_grad():
        model[0].weight.select(axis, 2).zero_()
        model[0].weight.select(axis, 5).zero_()
        model[0].bias[[2, 5]] = torch.tensor([-0.1, 0.1])
    (zero,) = found(model.state_dict()).zero_slices
    assert (zero.tensor, zero.slices, zero.axis, zero.of) == ("0.weight", "outputs", axis, 8)
    assert (zero.zero, zero.indices, zero.dead, zero.doubt) == (2, [2, 5], 1, "")
    fired = fired_units(model, shape)
    assert (2 in fired, 5 in fired) == (False, True)


@pytest.mark.parametrize("bias", [True, False])
def test_zero_inputs_change_nothing_in_the_output(bias):
    model = seeded(nn.Sequential(nn.Conv2d(4, 8, 3, bias=bias)))
    with torch.no_grad():
        model[0].weight[:, 3] = 0
    (zero,) = found(model.state_dict()).zero_slices
    assert (zero.slices, zero.axis, zero.of, zero.indices, zero.dead) == ("inputs", 1, 4, [3], 0)
    assert bool(zero.doubt) is not bias
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    moved = x.clone()
    moved[:, 3] += 100
    with torch.no_grad():
        assert torch.equal(model(x), model(moved))


def test_rows_of_a_recurrent_layer_are_not_called_dead():
    state = nn.RNN(3, 4, nonlinearity="relu").state_dict()
    state["weight_ih_l0"][1] = 0
    (zero,) = found(state).zero_slices
    assert (zero.tensor, zero.indices, zero.dead) == ("weight_ih_l0", [1], 0)
    assert "recurrent" in zero.doubt


def test_a_layer_that_is_zero_as_a_whole_is_told_once():
    (zero,) = found({"fc.weight": torch.zeros(4, 3), "fc.bias": torch.tensor([0.0, 1.0, -1.0, math.nan])}).zero_slices
    assert (zero.slices, zero.zero, zero.of, zero.indices, zero.dead) == ("outputs", 4, 4, [], 2)


class Healthy(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 4, 2)
        self.lstm = nn.LSTM(4, 5)
        self.attention = nn.MultiheadAttention(6, 2)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)
        self.register_buffer("position", torch.arange(5.0))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_healthy_net_as_torch_initialises_it_has_nothing_to_tell(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        examined = examine(Healthy().state_dict())
    told = examined.found
    assert (told.non_finite, told.zero_slices, told.closed_channels, told.slopes) == ([], [], [], [])
    assert examined.left_out == []
    assert (told.layers, told.norms) == (8, 2)


def test_parameters_are_counted_as_the_module_counts_them():
    model = Healthy()
    del model.position
    assert examine(model.state_dict()).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_an_embedding_s_row_of_zeros_may_be_its_padding():
    for padding in (0, 1):
        (zero,) = found(nn.Embedding(7, 3, padding_idx=padding).state_dict()).zero_slices
        assert (zero.indices, zero.may_be_padding) == ([padding], True)
    rows = torch.ones(7, 3)
    rows[[1, 2]] = 0
    (zero,) = found({"fc.weight": rows}).zero_slices
    assert zero.may_be_padding is False
    (zero,) = found({"token_embedding.weight": rows}).zero_slices
    assert zero.may_be_padding is True
    (zero,) = found({"fc.weight": rows, "fc.bias": torch.zeros(7)}).zero_slices
    assert zero.may_be_padding is False


def test_non_finite_values_are_counted_and_masks_are_told_apart():
    state = {
        "fc.weight": torch.tensor([[math.nan, math.inf], [-math.inf, 1.0]]),
        "attn.mask": torch.full((3, 3), -math.inf).triu(1),
        "attn.bias": torch.full((3,), -math.inf),  # by its name it is added to something: a fault
        "both.mask": torch.tensor([math.inf, -math.inf, 0.0]),
        "half.mask": torch.tensor([-math.inf, 0.0], dtype=torch.float16),
        "touched.mask": torch.tensor([-math.inf, 0.0, 1.0]),
        "fine": torch.ones(3),
    }
    told = {held.tensor: (held.nan, held.infinite, held.elements, held.mask) for held in found(state).non_finite}
    assert told == {
        "fc.weight": (1, 2, 4, False),
        "attn.mask": (0, 3, 9, True),
        "attn.bias": (0, 3, 3, False),
        "both.mask": (0, 2, 3, False),
        "half.mask": (0, 1, 2, True),
        "touched.mask": (0, 1, 3, False),
    }


def test_slopes_are_told_with_what_says_that_they_are_slopes():
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 4), nn.PReLU())
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.0, -0.5, 0.25, 9e-4]))
    channel, single = found(model.state_dict()).slopes
    assert (channel.tensor, channel.surety, channel.of) == ("1.weight", "undetermined", 4)
    assert (channel.min, channel.max, channel.flat) == (-0.5, 0.25, 2)
    assert channel.mean == pytest.approx(-0.0622750)
    assert channel.values == pytest.approx([0.0, -0.5, 0.25, 9e-4])
    assert (single.tensor, single.surety, single.values) == ("3.weight", "one element", [0.25])
    assert found(model.state_dict(), known_slopes={"1"}).slopes[0].surety == "recipe"


def test_slopes_that_are_not_finite_have_no_figures():
    (slopes,) = found({"prelu.weight": torch.tensor([math.nan, 0.5])}).slopes
    assert (slopes.min, slopes.max, slopes.values) == (0.5, 0.5, [None, 0.5])
    (slopes,) = found({"prelu.weight": torch.tensor([math.nan])}).slopes
    assert (slopes.min, slopes.mean, slopes.max) == (None, None, None)


def test_tied_weights_are_looked_at_under_their_first_name():
    shared = torch.zeros(4, 3)
    told = found({"shared.weight": shared, "head.weight": shared, "other.weight": torch.zeros(4, 3)})
    assert [zero.tensor for zero in told.zero_slices] == ["shared.weight", "other.weight"]
    assert told.tensors == 2


def test_what_cannot_be_looked_at_is_told_with_the_reason():
    with warnings.catch_warnings():  # torch is about to leave quantised tensors behind, and nested ones are new
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
        quantised = torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8)
    examined = examine(
        {
            "meta.weight": torch.empty(2, 2, device="meta"),
            "sparse.weight": torch.eye(3).to_sparse(),
            "quantised.weight": quantised,
            "vast.weight": torch.zeros(1).expand(10**6, 10**6),
            "lazy.weight": nn.LazyLinear(3).weight,
            "nested.weight": nested,
            "packed.weight": torch.zeros(2, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
            "steps": torch.tensor(3),
            "fine.weight": torch.ones(2, 3),
        }
    )
    reasons = {item.id: item.reason for item in examined.left_out}
    words = {"meta": "no data", "sparse": "sparse", "quantised": "quantised", "vast": "fewer", "lazy": "lazy"}
    words |= {"nested": "nested", "packed": "float4"}
    assert list(reasons) == [f"{name}.weight" for name in words]
    assert all(word in reasons[f"{name}.weight"] for name, word in words.items())
    assert (examined.found.tensors, examined.found.floating) == (9, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_types_other_than_float32_are_looked_at_too(dtype):
    weight = torch.ones(4, 3)
    weight[1] = 0
    state = {"fc.weight": weight.to(dtype), "fc.bias": torch.zeros(4).to(dtype)}
    state |= {"bn.weight": torch.tensor([0.0, 1.0]).to(dtype), "bn.bias": torch.tensor([-1.0, -4.0]).to(dtype)}
    told = found(state)
    assert [(zero.indices, zero.dead) for zero in told.zero_slices] == [([1], 1)]
    assert [(closed.proved_indices, closed.probable_indices) for closed in told.closed_channels] == [([0], [1])]


def test_a_shift_or_bias_that_cannot_be_read_gives_no_claim():
    meta = torch.empty(4, device="meta")
    told = found({"bn.weight": torch.zeros(4), "bn.bias": meta, "fc.weight": torch.zeros(4, 3), "fc.bias": meta})
    assert told.closed_channels == []
    assert [zero.dead for zero in told.zero_slices] == [0]


def test_empty_tensors_and_an_empty_file_have_nothing_to_tell():
    for state in ({}, {"fc.weight": torch.zeros(0, 3), "fc.bias": torch.zeros(0), "prelu.weight": torch.zeros(0)}):
        told = found(state)
        assert (told.zero_slices, told.closed_channels, told.slopes, told.non_finite) == ([], [], [], [])


def test_a_long_list_of_indices_is_cut_and_its_length_told():
    rows = torch.ones(MOST_INDICES + 50, 1)
    rows[1:] = 0
    (zero,) = found({"fc.weight": rows, "fc.bias": torch.zeros(len(rows))}).zero_slices
    assert (zero.zero, len(zero.indices), zero.indices[0]) == (MOST_INDICES + 49, MOST_INDICES, 1)

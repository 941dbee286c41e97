"""What a tensor is for, told by name and shape: against what PyTorch's own layers store."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from prelu_doctor.weights import roles
from prelu_doctor.weights.roles import Layer, Norm, Slope, layer_of, norm_of, slope_of


def stored(**modules: nn.Module) -> dict[str, torch.Tensor]:
    return nn.ModuleDict(modules).state_dict()


def layers(state):
    return [layer for name in state if (layer := layer_of(name, state))]


def norms(state):
    return [norm for name in state if (norm := norm_of(name, state))]


def slopes(state, known=()):
    return [slope for name in state if (slope := slope_of(name, state, known))]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(3, 5), Layer("m.weight", "m.bias")),
        (nn.Linear(5, 5), Layer("m.weight", "m.bias", doubt=roles.SQUARE)),
        (nn.Linear(3, 5, bias=False), Layer("m.weight", "", doubt=roles.EMBEDDING)),
        (nn.Embedding(7, 3), Layer("m.weight", "", doubt=roles.EMBEDDING)),
        (nn.Conv2d(3, 5, 3), Layer("m.weight", "m.bias")),
        (nn.Conv1d(4, 4, 3), Layer("m.weight", "m.bias", doubt=roles.SQUARE)),
        (nn.Conv2d(4, 4, 3, groups=4), Layer("m.weight", "m.bias")),
        (nn.Conv2d(3, 5, 3, bias=False), Layer("m.weight", "", doubt=roles.TRANSPOSED)),
        (nn.ConvTranspose2d(3, 5, 3), Layer("m.weight", "m.bias", axis=1)),
        (nn.ConvTranspose1d(4, 6, 3, groups=2), Layer("m.weight", "", doubt=roles.GROUPED, alone=False)),
        (nn.Bilinear(3, 4, 5), Layer("m.weight", "m.bias")),
    ],
)
def test_layers_of_torch_are_told_as_far_as_their_shapes_tell(module, expected):
    assert layers(stored(m=module)) == [expected]


def test_a_linear_layer_that_stores_its_weight_transposed_is_told_by_its_bias():
    state = {"c_fc.weight": torch.randn(3, 12), "c_fc.bias": torch.randn(12)}
    assert layers(state) == [Layer("c_fc.weight", "c_fc.bias", axis=1)]


def test_the_projections_of_an_attention_have_biases_named_after_them():
    found = layers(stored(m=nn.MultiheadAttention(4, 2)))
    assert found[0] == Layer("m.in_proj_weight", "m.in_proj_bias")


@pytest.mark.parametrize("module", [nn.LSTM(3, 4), nn.GRUCell(3, 4), nn.RNN(3, 4, nonlinearity="relu")])
def test_the_matrices_of_a_recurrent_layer_do_not_write_alone(module):
    found = layers(stored(m=module))
    assert [(layer.doubt, layer.alone) for layer in found] == [(roles.GATES, False)] * 2


def test_spectral_norm_keeps_a_zero_row_zero():
    state = stored(m=parametrizations.spectral_norm(nn.Linear(3, 5)))
    assert layers(state) == [Layer("m.parametrizations.weight.original", "m.bias")]


def test_of_a_weight_norm_the_gain_tells_and_the_direction_has_a_doubt():
    state = stored(m=parametrizations.weight_norm(nn.Conv2d(3, 5, 3)))
    assert layers(state) == [
        Layer("m.parametrizations.weight.original0", "m.bias"),
        Layer("m.parametrizations.weight.original1", "", doubt=roles.DIRECTION, alone=False),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = stored(m=nn.utils.weight_norm(nn.Linear(3, 5)), t=nn.utils.weight_norm(nn.ConvTranspose1d(3, 5, 2)))
    assert layers(old) == [
        Layer("m.weight_g", "m.bias"),
        Layer("m.weight_v", "", doubt=roles.DIRECTION, alone=False),
        Layer("t.weight_g", "", doubt=roles.GROUPED, alone=False),
        Layer("t.weight_v", "", doubt=roles.DIRECTION, alone=False),
    ]


def test_another_parametrisation_may_turn_zero_into_anything():
    class Plus(nn.Module):
        def forward(self, weight):
            return weight + 1

    linear = nn.Linear(3, 5)
    parametrize.register_parametrization(linear, "weight", Plus())
    assert layers(stored(m=linear)) == [
        Layer("m.parametrizations.weight.original", "", doubt=roles.PARAMETRISED, alone=False)
    ]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.BatchNorm2d(3), Norm("m.weight", "m.bias", running=True)),
        (nn.LayerNorm(3), Norm("m.weight", "m.bias", running=False)),
        (nn.GroupNorm(1, 3), Norm("m.weight", "m.bias", running=False)),
        (nn.InstanceNorm1d(3, affine=True), Norm("m.weight", "m.bias", running=False)),
    ],
)
def test_norms_are_a_scale_and_a_shift_of_one_length(module, expected):
    state = stored(m=module)
    assert norms(state) == [expected]
    assert slopes(state) == []
    assert layers(state) == []


def test_norms_may_name_their_scale_gamma():
    state = {"LayerNorm.gamma": torch.ones(3), "LayerNorm.beta": torch.zeros(3)}
    assert norms(state) == [Norm("LayerNorm.gamma", "LayerNorm.beta", running=False)]


@pytest.mark.parametrize("path", ["input_layernorm", "blocks.0.rms", "h.0.ln_1", "ln", "norm2", "bn1"])
def test_a_lone_scale_is_a_norm_where_its_module_is_named_so(path):
    state = {f"{path}.weight": torch.ones(4)}
    assert norms(state) == [Norm(f"{path}.weight", "", running=False)]
    assert slopes(state) == []


@pytest.mark.parametrize("path", ["", "act", "1", "features.2", "violin"])
def test_a_lone_vector_may_be_slopes_or_scales(path):
    name = f"{path}.weight" if path else "weight"
    assert slopes({name: torch.ones(4)}) == [Slope(name, "undetermined")]
    assert slopes({name: torch.ones(1)}) == [Slope(name, "one element")]
    assert norms({name: torch.ones(4)}) == []


def test_slopes_are_told_by_their_module_s_name_and_for_sure_by_the_recipe():
    state = {"prelu1.weight": torch.ones(4), "layer.act.weight": torch.ones(4)}
    assert slopes(state, known={"layer.act"}) == [
        Slope("prelu1.weight", "name"),
        Slope("layer.act.weight", "recipe"),
    ]


@pytest.mark.parametrize(
    "name", ["pos_embed", "cls_token", "running_mean", "fc.bias", "layer_scale.gamma", "logit_scale"]
)
def test_other_tensors_are_nothing_in_particular(name):
    for tensor in (torch.zeros(3), torch.zeros(())):
        state = {name: tensor}
        assert (layers(state), norms(state), slopes(state)) == ([], [], [])
    assert layers({"pos_embed": torch.zeros(1, 4, 3)}) == []

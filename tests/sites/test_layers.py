"""What a call that uses parameters is: its kind, its tensors, and where its channels lie."""

from __future__ import annotations

import pytest
import torch
from sites.made import Made, found_in, noise
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from prelu_doctor.sites.layers import layer_of

IMAGE, ROWS = (2, 4, 6, 6), (2, 5, 4)


def layers_in(model, shape):
    graph, _ = found_in(model, noise(*shape))
    return [layer for call in graph.calls if (layer := layer_of(graph, call))]


@pytest.mark.parametrize(
    ("module", "shape", "kind", "axis", "groups"),
    [
        (nn.Conv2d(4, 6, 3), IMAGE, "conv", 1, 1),
        (nn.Conv2d(4, 6, 3, groups=2), IMAGE, "conv", 1, 2),
        (nn.Conv1d(5, 6, 3), ROWS, "conv", 1, 1),
        (nn.ConvTranspose2d(4, 6, 3), IMAGE, "conv_transpose", 1, 1),
        (nn.Linear(4, 6), ROWS, "linear", 2, 1),
        (nn.BatchNorm2d(4), IMAGE, "channel_norm", 1, 1),
        (nn.InstanceNorm2d(4, affine=True), IMAGE, "channel_norm", 1, 1),
        (nn.GroupNorm(2, 4), IMAGE, "cross_norm", 1, 1),
        (nn.LayerNorm(4), ROWS, "cross_norm", 2, 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_module_of_torch_is_one_layer(module, shape, kind, axis, groups):
    (layer,) = layers_in(nn.Sequential(module), shape)
    assert (layer.kind, layer.name, layer.axis, layer.groups) == (kind, "0", axis, groups)
    assert (layer.weight, layer.bias, layer.computed) == ("0.weight", "0.bias", False)
    assert layer.is_norm == kind.endswith("norm")


def test_a_batch_norm_names_its_running_statistics():
    (layer,) = layers_in(nn.Sequential(nn.BatchNorm2d(4, affine=False)), IMAGE)
    assert layer.statistics == ("0.running_mean", "0.running_var")
    assert (layer.name, layer.weight, layer.bias) == ("0", None, None)


@pytest.mark.parametrize("weighed", ["norm", "transposed"])
def test_a_weight_that_is_computed_has_no_name(weighed):
    models = {
        "norm": weight_norm(nn.Linear(4, 6)),
        "transposed": Made(lambda m, x: x @ m.weight.t(), weight=nn.Parameter(noise(6, 4))),
    }
    layer = layers_in(models[weighed], ROWS)[-1]
    assert (layer.weight, layer.computed) == (None, True)


def test_a_product_with_a_parameter_is_a_layer_and_one_of_two_signals_is_none():
    (layer,) = layers_in(Made(lambda m, x: x @ m.weight, weight=nn.Parameter(noise(4, 6))), ROWS)
    assert (layer.kind, layer.name, layer.weight, layer.axis) == ("matmul", "weight", "weight", 2)
    assert not layers_in(Made(lambda m, x: x @ x.transpose(1, 2)), ROWS)


@pytest.mark.parametrize(
    ("run", "shape", "kind", "axis", "input_axis"),
    [
        (lambda m, x: torch.einsum("bti,io->bto", x, m.weight), (4, 6), "matmul", 2, -1),
        (lambda m, x: torch.einsum("oi,...i->...o", m.weight, x), (6, 4), "linear", 2, -1),
        (lambda m, x: torch.einsum("bti,io->obt", x, m.weight), (4, 6), "matmul", 0, -1),
        (lambda m, x: torch.einsum("...i,io", x, m.weight), (4, 6), "matmul", 2, -1),
        (lambda m, x: torch.tensordot(x, m.weight, dims=([2], [0])), (4, 6), "matmul", 2, -1),
        (lambda m, x: torch.tensordot(x, m.weight, dims=([-1], [1])), (6, 4), "linear", 2, -1),
    ],
    ids=["einsum", "transposed", "channels written first", "no arrow", "tensordot", "tensordot of a transposed weight"],
)
def test_einsum_and_tensordot_with_one_matrix_are_layers(run, shape, kind, axis, input_axis):
    (layer,) = layers_in(Made(run, weight=nn.Parameter(noise(*shape))), ROWS)
    assert (layer.kind, layer.weight, layer.axis, layer.input_axis) == (kind, "weight", axis, input_axis)


@pytest.mark.parametrize(
    ("equation", "shape"),
    [("bti,tio->bto", (5, 4, 3)), ("bti,ti->b", (5, 4)), ("bti,ts->bsi", (5, 5)), ("bti,bi->bt", (2, 4))],
    ids=["a matrix a row", "two axes summed", "another axis than the last", "a vector a sample"],
)
def test_what_einsum_does_with_anything_but_one_matrix_on_the_last_axis_is_not_known(equation, shape):
    model = Made(lambda m, x: torch.einsum(equation, x, m.weight), weight=nn.Parameter(noise(*shape)))
    (layer,) = layers_in(model, ROWS)
    assert (layer.kind, layer.data, layer.weight) == ("other", None, None)


def test_einsum_that_sums_over_nothing_of_a_parameter_scales_and_is_no_layer():
    assert not layers_in(Made(lambda m, x: torch.einsum("bti,i->bti", x, m.w), w=nn.Parameter(noise(4))), ROWS)


def test_a_bilinear_form_is_a_linear_layer_of_its_first_input():
    (layer,) = layers_in(Made(lambda m, x: m.form(x, x.flip(1)), form=nn.Bilinear(4, 4, 6)), ROWS)
    assert (layer.kind, layer.name, layer.weight, layer.bias, layer.axis) == (
        "linear",
        "form",
        "form.weight",
        "form.bias",
        2,
    )


def test_a_buffer_that_is_an_index_or_a_mask_makes_no_layer():
    model = Made(lambda m, x: x[..., m.order].masked_fill(m.mask, 0), order=torch.arange(4).flip(0), mask=noise(4) > 0)
    assert not layers_in(model, ROWS)


def test_a_bias_added_or_a_scale_multiplied_writes_no_units_of_its_own():
    model = Made(lambda m, x: (x + m.bias) * m.bias, bias=nn.Parameter(noise(4)))
    assert not layers_in(model, ROWS)


def test_any_other_use_of_a_parameter_is_a_layer_whose_data_is_not_known():
    (layer,) = layers_in(Made(lambda m, x: torch.maximum(x, m.low), low=nn.Parameter(noise(4))), ROWS)
    assert (layer.kind, layer.data, layer.weight) == ("other", None, None)


def test_two_uses_of_one_weight_have_one_identity():
    one, other = layers_in(Made(lambda m, x: m.fc(m.fc(x)), fc=nn.Linear(4, 4)), ROWS)
    assert one.identity == other.identity == "fc.weight"

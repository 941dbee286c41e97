import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prelu_doctor.treatment.prelu import AxisPReLU

SHAPES = [(4,), (5, 4), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 3)]
EVERY_AXIS = [(shape, axis) for shape in SHAPES for axis in range(-len(shape), len(shape))]
SPECIAL = torch.tensor([float("nan"), float("inf"), 0.0, -0.0, 6.0, 7.5, -3.0, 1e-40, -1e-40, 65504.0, -65504.0])


def slow_prelu(x, slopes, axis, ceiling=None):
    """Element by element, in Python."""
    result = torch.empty_like(x)
    for index in torch.cartesian_prod(*map(torch.arange, x.shape)).reshape(-1, x.dim()).tolist():
        value = x[tuple(index)]
        slope = slopes[index[axis]] if len(slopes) > 1 else slopes[0]
        value = value if value > 0 else slope * value
        result[tuple(index)] = ceiling if ceiling is not None and value > ceiling else value
    return result


def with_random_slopes(channels, axis=-1, ceiling=None):
    module = AxisPReLU(channels, axis, ceiling)
    with torch.no_grad():
        module.weight.copy_(torch.randn(channels, generator=torch.Generator().manual_seed(1)))
    return module


def gaussian(shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize(("shape", "axis"), EVERY_AXIS)
@pytest.mark.parametrize("ceiling", [None, 0.5])
def test_equals_the_slow_oracle_along_every_axis(shape, axis, ceiling):
    module = with_random_slopes(shape[axis], axis, ceiling)
    x = gaussian(shape)
    assert torch.equal(module(x), slow_prelu(x, module.weight.detach(), axis, ceiling))


@pytest.mark.parametrize("shape", [(), *SHAPES])
def test_one_slope_serves_any_rank(shape):
    module = with_random_slopes(1, axis=3)
    x = gaussian(shape)
    assert torch.equal(module(x), torch.where(x > 0, x, module.weight * x).reshape(shape))


def test_agrees_with_nn_prelu_on_axis_1():
    ours, theirs = with_random_slopes(3, axis=1), nn.PReLU(3)
    theirs.load_state_dict(ours.state_dict())
    x = gaussian((2, 3, 4, 4))
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("ceiling", "rectifier"), [(None, F.relu), (6.0, F.relu6)])
def test_a_slope_of_0_equals_relu_and_relu6_on_everything_but_negative_infinity(dtype, ceiling, rectifier):
    module = AxisPReLU(len(SPECIAL), ceiling=ceiling, init=0.0).to(dtype)
    x = torch.stack([SPECIAL, gaussian(SPECIAL.shape)]).to(dtype)
    got, expected = module(x), rectifier(x)
    assert got.dtype == dtype
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    assert got[0, 0].isnan()


def test_a_slope_of_0_turns_negative_infinity_into_nan():
    assert AxisPReLU(1, init=0.0)(torch.tensor([float("-inf")])).isnan()


def test_slopes_are_read_in_the_dtype_of_the_input():
    module = with_random_slopes(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = F.linear(gaussian((3, 4)), gaussian((4, 4)))
        assert hidden.dtype == torch.bfloat16
        assert torch.equal(module(hidden), slow_prelu(hidden, module.weight.detach().bfloat16(), -1))
    assert module(gaussian((3, 4), dtype=torch.float16)).dtype == torch.float16


def test_the_gradient_of_a_slope_sums_upstream_times_input_over_negatives():
    module = with_random_slopes(4, axis=1)
    x, upstream = gaussian((3, 4, 5)), gaussian((3, 4, 5), seed=2)
    module(x).backward(upstream)
    torch.testing.assert_close(module.weight.grad, (upstream * x.clamp(max=0)).sum((0, 2)))


def test_gradients_agree_with_finite_differences_also_under_a_ceiling():
    module = with_random_slopes(3, axis=2, ceiling=0.5).double()
    x = gaussian((2, 2, 3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(module, {"weight": w}, (x,)), (x, module.weight)
    )


def test_gradients_stay_finite_at_infinity_and_at_the_ceiling():
    module = AxisPReLU(3, ceiling=6.0, init=0.0)
    x = torch.tensor([[6.0, float("inf"), 100.0], [-6.0, -1.0, 0.0]], requires_grad=True)
    module(x).sum().backward()
    assert module.weight.grad.isfinite().all()
    assert x.grad.isfinite().all()


def test_deepcopy_and_state_dict_round_trip():
    module = with_random_slopes(4, axis=1, ceiling=6.0)
    twin = copy.deepcopy(module)
    fresh = AxisPReLU(4, axis=1, ceiling=6.0)
    fresh.load_state_dict(module.state_dict())
    x = gaussian((2, 4, 3)) * 10
    assert list(module.state_dict()) == ["weight"]
    assert torch.equal(twin(x), module(x))
    assert torch.equal(fresh(x), module(x))
    assert twin.weight is not module.weight


def test_wrong_channel_count_is_refused_and_never_broadcast():
    with pytest.raises(RuntimeError, match=r"[Mm]ismatch"):
        AxisPReLU(4)(torch.zeros(3, 1))


def test_an_axis_the_input_does_not_have_is_refused():
    with pytest.raises(IndexError):
        AxisPReLU(4, axis=3)(torch.zeros(4, 4))


@pytest.mark.parametrize("axis", [1, -1])
def test_fx_traces_through_it_and_keeps_the_function(axis):
    model = nn.Sequential(nn.Linear(4, 4), with_random_slopes(4, axis, ceiling=6.0))
    traced = torch.fx.symbolic_trace(model)
    x = gaussian((3, 4))
    assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize("axis", [1, -1])
def test_torch_export_keeps_the_function_at_other_batch_sizes(axis):
    model = nn.Sequential(nn.Linear(4, 4), with_random_slopes(4, axis, ceiling=6.0)).eval()
    program = torch.export.export(
        model, (gaussian((3, 4, 4)),), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
    )
    x = gaussian((7, 4, 4), seed=3)
    assert torch.equal(program.module()(x), model(x))


def test_repr_shows_its_arguments():
    assert repr(AxisPReLU(4, axis=2, ceiling=6.0)) == "AxisPReLU(num_parameters=4, axis=2, ceiling=6.0)"
    assert repr(AxisPReLU(4)) == "AxisPReLU(num_parameters=4, axis=-1)"

"""Tracing records a forward and leaves everything as it was, also when the forward raises half way."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sites.made import Made, found_in, ids_in, noise
from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import _get_current_dispatch_mode
from zoo import InplaceReluOnInput

from prelu_doctor.data.batches import Batch
from prelu_doctor.errors import ForwardError
from prelu_doctor.sites.trace import none_arguments, trace


class Unruly(nn.Module):
    """Draws random numbers, changes its buffers in place and by name, and raises when it is told to."""

    def __init__(self, *, raises: bool) -> None:
        super().__init__()
        self.raises = raises
        self.fc = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.act = nn.ReLU()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().mean(1)
        torch.rand(1)
        np.random.rand()
        random.shuffle([1, 2, 3])
        torch.backends.mha.set_fastpath_enabled(True)
        x = self.act(self.norm(self.fc(x)))
        if self.raises:
            raise ValueError("half way")
        return x


def state_of_the_world(model):
    hooks = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    return (
        torch.random.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        torch.backends.mha.get_fastpath_enabled(),
        [len(hook) for hook in hooks],
        _get_current_dispatch_mode(),
        torch.is_inference_mode_enabled(),
        [module.training for module in model.modules()],
        {name: (id(tensor), tensor.tolist()) for name, tensor in model.named_buffers()},
        {name: tensor.tolist() for name, tensor in model.named_parameters()},
    )


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("fast_path", [False, True])
def test_everything_is_restored(raises, fast_path):
    model = Unruly(raises=raises).train()
    model.norm.eval()
    torch.backends.mha.set_fastpath_enabled(fast_path)
    try:
        before = state_of_the_world(model)
        try:
            trace(model, Batch(args=(noise(2, 3),)))
        except ForwardError:
            assert raises
        assert state_of_the_world(model) == before
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_a_forward_that_raises_is_reported_with_its_error_and_its_input():
    with pytest.raises(ForwardError) as caught:
        trace(Unruly(raises=True), Batch(args=(noise(2, 3),)))
    assert "ValueError: half way" in caught.value.found
    assert "float32 [2, 3]" in caught.value.expected
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_model_can_still_be_trained_after_tracing():
    model = Unruly(raises=False)
    trace(model, Batch(args=(noise(2, 3),)))
    model(noise(2, 3)).sum().backward()
    assert model.fc.weight.grad is not None


def test_the_forward_runs_in_eval_mode():
    seen = []
    model = Made(lambda m, x: seen.append((m.training, m.drop.training)) or m.drop(x), drop=nn.Dropout()).train()
    trace(model, Batch(args=(noise(2, 3),)))
    assert seen == [(False, False)]


def test_an_in_place_relu_does_not_reach_the_callers_input():
    (given,) = InplaceReluOnInput.inputs()
    kept = given.clone()
    trace(InplaceReluOnInput(), Batch(args=(given,)))
    assert torch.equal(given, kept)


def test_keyword_inputs_are_cloned_and_traced_as_inputs():
    model = Made(lambda m, x, y: F.relu(m.fc(x)) + y.relu_(), fc=nn.Linear(3, 3))
    model.forward = lambda x, y: model.run(model, x, y)
    batch = Batch(args=(noise(2, 3),), kwargs={"y": noise(2, 3, seed=1)})
    graph = trace(model, batch)
    assert (batch.kwargs["y"] < 0).any()
    assert all(call.reads[0] in graph.from_input for call in graph.activations())


@pytest.mark.parametrize("activation", ["relu", F.relu, nn.ReLU()], ids=["name", "function", "module"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_the_relu_of_a_transformer_layer_is_seen_in_eval_mode(activation, batch_first):
    layer = nn.TransformerEncoderLayer(8, 2, 12, activation=activation, batch_first=batch_first).eval()
    (site,) = found_in(layer, noise(2, 5, 8))[1].found
    assert (site.units, site.unit_axis, site.producers) == (12, 2, ["linear1"])


def test_the_relus_of_a_transformer_encoder_are_sites_of_their_own():
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    assert ids_in(encoder, noise(2, 5, 8)) == ["layers.0:relu#1", "layers.1:relu#1"]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_relus_inside_a_scripted_part_are_seen():
    part = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU()).eval())
    model = Made(lambda m, x: F.relu(m.last(m.part(x))), part=part, last=nn.Linear(5, 6))
    assert [site.units for site in found_in(model, noise(2, 3))[1].found] == [4, 5, 6]


def test_relus_inside_data_parallel_are_seen():
    model = nn.DataParallel(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    assert ids_in(model, noise(2, 3)) == ["module.1"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_traced(dtype):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).to(dtype)
    assert ids_in(model, noise(2, 3).to(dtype)) == ["1"]


def test_source_is_the_line_of_the_call():
    def run(model, x):
        x = model.fc(x)
        return F.relu(x)

    (site,) = found_in(Made(run, fc=nn.Linear(3, 4)), noise(2, 3))[1].found
    assert site.position.source == f"test_trace.py:{run.__code__.co_firstlineno + 2}"


def test_a_value_overwritten_through_a_view_is_read_as_overwritten():
    """The flat view is rectified in place; what the head then reads under the old name is the rectified value."""

    def run(model, x):
        x = model.conv(x)
        x.view(-1).relu_()
        return model.head(x.mean((2, 3)))

    model = Made(run, conv=nn.Conv2d(3, 4, 3), head=nn.Linear(4, 2))
    graph, sites = found_in(model, noise(2, 3, 5, 5))
    activation = next(graph.activations())
    behind = [call for call in graph.calls[activation.index + 1 :] if activation.writes[0] in call.reads]
    assert [call.op for call in behind] == ["overwritten"]
    assert sites.found[0].producers == ["conv"]


def test_none_arguments_are_those_that_were_none_in_every_call():
    class Part(nn.Module):
        def forward(self, x, mask=None, scale=None):
            return x if scale is None else x * scale

    model = Made(lambda m, x: m.part(m.part(x, None, 2.0)), part=Part())
    assert none_arguments(model, Batch(args=(noise(2, 3),)), ["part"]) == {"part": ["mask"]}


def test_none_arguments_leave_no_hook_behind():
    model = Unruly(raises=True)
    with pytest.raises(ForwardError):
        none_arguments(model, Batch(args=(noise(2, 3),)), ["act"])
    assert not model.act._forward_pre_hooks

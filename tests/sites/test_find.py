"""What is a site, what it is called, which axis holds its units, and what is merged."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sites.made import Made, found_in, ids_in, noise
from torch import nn
from zoo import PlantedModel, every

from prelu_doctor.sites.consumers import consuming_layers


@every()
def test_sites_of_the_zoo_are_the_expected_ones(kind):
    sites = found_in(kind(), *kind.inputs(), **kind.keywords())[1].found
    assert [(site.id, site.units) for site in sites] == kind.expected_sites
    assert {site.id: site.unit_axis for site in sites} == {
        name: kind.unit_axes.get(name, 1) for name, _ in kind.expected_sites
    }
    assert {site.id: site.activation.function for site in sites} == {
        name: kind.functions.get(name, "relu") for name, _ in kind.expected_sites
    }
    assert {site.id: len(site.calls) for site in sites} == {
        name: kind.merged_calls.get(name, 1) for name, _ in kind.expected_sites
    }
    assert [site.id for site in sites if site.axis_assumed] == kind.axis_assumed
    assert [site.id for site in sites if site.input_independent] == kind.input_independent


@every()
def test_what_is_unresolved_in_the_zoo_is_what_holds_no_units_and_what_nobody_calls(kind):
    reasons = {entry.id: entry.reason for entry in found_in(kind(), *kind.inputs(), **kind.keywords())[1].unresolved}
    assert list(reasons) == [*kind.unresolved, *kind.uncalled]
    assert all(word in reasons[site] for site, word in kind.unresolved.items()), reasons


def test_producers_and_consumers_of_the_planted_model():
    graph, sites = found_in(PlantedModel(), *PlantedModel.inputs())
    assert [site.producers for site in sites.found] == [["conv1", "bn1"], ["conv2"], ["fc1"]]
    assert [consuming_layers(graph, site.calls) for site in sites.found] == [["conv2"], ["fc1"], ["fc2"]]


def test_a_model_that_is_nothing_but_a_relu_has_a_site_with_a_name():
    assert ids_in(nn.ReLU(), noise(2, 3, 4, 4)) == [":relu#1"]


def test_relu_of_x_and_of_minus_x_are_two_sites():
    def run(model, x):
        x = model.fc(x)
        return F.relu(x) - F.relu(-x)

    assert ids_in(Made(run, fc=nn.Linear(3, 4)), noise(2, 3)) == [":relu#1", ":relu#2"]


@pytest.mark.parametrize(
    "two",
    [
        lambda m, x: (x - 1, x - 2),
        lambda m, x: (x - 1, x + 1),
        lambda m, x: (x * 2, x * 3),
        lambda m, x: (torch.sub(x, 1, alpha=2), torch.sub(x, 1, alpha=3)),
        lambda m, x: (x.clone().add_(1), x.clone().add_(2)),
        lambda m, x: (x + m.first, x + m.second),
        lambda m, x: (x * m.first.abs(), x * m.second.abs()),
        lambda m, x: x.chunk(2, 1),
        lambda m, x: (x[:, :2], x[:, 2:]),
        lambda m, x: (x[:, ::2], x[:, 1::2]),
        lambda m, x: x.view(-1, 2, 2).unbind(1),
        lambda m, x: (x[:, [0, 3]], x[:, [1, 2]]),
    ],
    ids="minus signs times alpha in-place bias computed-bias halves slices strides unbound indexed".split(),
)
def test_different_functions_of_the_same_layer_are_different_sites(two):
    """One of them may be dead where the other fires: counted together, the death would be hidden."""

    def run(model, x):
        left, right = two(model, model.fc(x))
        return F.relu(left) + F.relu(right)

    model = Made(run, fc=nn.Linear(3, 4), first=nn.Parameter(noise(4)), second=nn.Parameter(noise(4, seed=1)))
    assert ids_in(model, noise(2, 3)) == [":relu#1", ":relu#2"]


@pytest.mark.parametrize(
    "steps",
    [
        lambda x: [x[:, step] for step in range(3)],
        lambda x: x.unbind(1),
        lambda x: x.split(1, 1),
        lambda x: [x.transpose(0, 1)[step] for step in range(3)],
    ],
    ids=["indexed", "unbound", "split", "transposed"],
)
def test_time_steps_of_one_layer_are_one_site(steps):
    model = Made(lambda m, x: sum(F.relu(step) for step in steps(m.fc(x))), fc=nn.Linear(4, 5))
    (site,) = found_in(model, noise(2, 3, 4))[1].found
    assert (site.id, site.units, len(site.calls)) == (":relu#1", 5, 3)


def test_calls_with_the_same_producers_but_other_widths_are_not_merged():
    def run(model, x):
        x = model.fc(x)
        return F.relu(x[:, :4]).sum(1) + F.relu(x[:, 4:]).sum(1)

    sites = found_in(Made(run, fc=nn.Linear(3, 6)), noise(2, 3))[1].found
    assert [(site.id, site.units) for site in sites] == [(":relu#1", 4), (":relu#2", 2)]


def test_relu_after_relu_is_a_site_with_the_axis_and_producers_of_the_first():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU())
    first, second = found_in(model, noise(2, 3, 8, 8))[1].found
    assert (second.id, second.unit_axis, second.axis_assumed) == ("3", 1, False)
    assert second.producers == first.producers == ["0"]


def test_an_input_read_again_after_an_in_place_relu_is_the_rectified_one():
    def run(model, x):
        y = model.fc1(x)
        F.relu_(y)
        return F.relu(model.fc2(y)) + y

    graph, sites = found_in(Made(run, fc1=nn.Linear(3, 4), fc2=nn.Linear(4, 4)), noise(2, 3))
    assert [site.producers for site in sites.found] == [["fc1"], ["fc2"]]
    assert consuming_layers(graph, sites.found[0].calls) == ["fc2"]


def test_a_module_that_is_not_registered_is_named_as_such():
    assert ids_in(Made(lambda m, x: nn.ReLU()(m.fc(x)), fc=nn.Linear(3, 4)), noise(2, 3)) == ["<unregistered ReLU>"]


@pytest.mark.parametrize(
    ("producer", "shape", "axis"),
    [
        (nn.Conv1d(3, 4, 3), (3, 9), 1),
        (nn.Conv3d(3, 4, 1), (3, 5, 6, 7), 1),
        (nn.ConvTranspose2d(3, 4, 3), (3, 5, 6), 1),
        (nn.Linear(9, 4), (3, 5, 9), 3),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)), (3, 5, 6), 1),
        (nn.Sequential(nn.Linear(9, 4), nn.LayerNorm(4)), (5, 9), 2),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(2)), (3, 5, 6), 1),
        (nn.BatchNorm2d(3), (3, 5, 6), 1),
        (nn.Conv2d(3, 1, 1), (3, 5, 6), 1),
    ],
    ids="conv1d conv3d transposed linear-on-4-D group-norm layer-norm flattened norm-alone one-channel".split(),
)
def test_the_axis_of_the_units_is_that_of_the_producer(producer, shape, axis):
    (site,) = found_in(nn.Sequential(producer, nn.ReLU()), noise(2, *shape))[1].found
    assert (site.unit_axis, site.axis_assumed) == (axis, False)


def test_behind_no_producer_the_axis_is_assumed():
    image, tokens = (found_in(nn.ReLU(), noise(*shape))[1].found[0] for shape in ((2, 3, 4, 5), (2, 5, 7)))
    assert (image.unit_axis, image.axis_assumed) == (1, True)
    assert (tokens.unit_axis, tokens.axis_assumed) == (2, True)


@pytest.mark.parametrize("name", ["googlenet", "shufflenet_v2_x0_5", "mobilenet_v2"])
def test_no_call_of_a_known_net_is_missed(name):
    """As counted by hand: ShuffleNet has 3 blocks with 3 calls and 13 with 2; MobileNet 16 with 2 and 1 with 1."""
    models = pytest.importorskip("torchvision.models")
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    sites = found_in(getattr(models, name)(weights=None, **options), noise(2, 3, 64, 64))[1]
    expected = {
        "resnet18": 17,
        "googlenet": 57,
        "shufflenet_v2_x0_5": 3 * 3 + 13 * 2 + 2,
        "mobilenet_v2": 16 * 2 + 1 + 2,
    }
    assert len(sites.found) == expected[name]
    assert all(site.unit_axis == 1 and not site.axis_assumed and len(site.calls) == 1 for site in sites.found)
    assert not sites.unresolved


def test_a_call_after_a_part_has_failed_belongs_to_the_caller():
    """The forward catches the error of one of its parts and goes on."""

    def run(model, x):
        try:
            model.part(x)
        except RuntimeError:
            x = F.relu(model.fc(x))
        return x

    model = Made(run, part=nn.Linear(9, 9), fc=nn.Linear(3, 4))
    assert ids_in(model, noise(2, 3)) == [":relu#1"]


def test_halves_of_a_norm_behind_an_activation_are_two_sites():
    def run(model, x):
        one, other = model.norm(F.relu(model.first(x))).chunk(2, 1)
        return F.relu(one) + F.relu(other)

    made = Made(run, first=nn.Linear(3, 8), norm=nn.BatchNorm1d(8))
    assert len(found_in(made, noise(2, 3))[1].found) == 3


def test_other_orders_of_the_same_channels_are_other_sites():
    def run(model, x):
        hidden = model.fc(x)
        return F.relu(hidden.roll(1, 1)) + F.relu(hidden.roll(2, 1)) + F.relu(hidden.flip(1))

    assert len(found_in(Made(run, fc=nn.Linear(3, 8)), noise(2, 3))[1].found) == 3


def test_a_call_of_another_rank_is_a_site_of_its_own():
    def run(model, x):
        return F.relu(model.fc(x)).sum() + F.relu(model.fc(x[:, None].expand(-1, 8, -1))).sum()

    sites = found_in(Made(run, fc=nn.Linear(3, 8)), noise(2, 3))[1].found
    assert [(site.unit_axis, site.units) for site in sites] == [(1, 8), (2, 8)]

"""Revival: dead units fire again, cut off from their readers, and the output does not move."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from treated import UNTRAINED, dataset_of, equal, gaussian, output_of, same_state, untrained
from zoo import (
    DictOutput,
    InputIndependentBias,
    NormBehindRelu,
    PlantedModel,
    ReluOnOutput,
    ResidualBlock,
    RnnCellRelu,
    RnnReluBothWays,
    RnnReluOfTwoLayers,
    TiedLinear,
    TimeLoop,
    TimeLoopOfTwoLayers,
)
from zoo.odd import Odd

from prelu_doctor.scanning.scan import scan_model
from prelu_doctor.treatment.conversion import Treated, Treatment, treat

SAMPLES = 320


def fill(model: nn.Module, **values: tuple[object, float]) -> nn.Module:
    """Sets slices of tensors: `fc__bias=(2, -100.0)`."""
    with torch.no_grad():
        for name, (index, value) in values.items():
            model.state_dict()[name.replace("__", ".")][index] = value
    return model


def chain(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def conv_norm() -> nn.Module:
    model = chain(conv=nn.Conv2d(3, 8, 3, bias=False), norm=nn.BatchNorm2d(8), act=nn.ReLU(), next=nn.Conv2d(8, 4, 3))
    return fill(model, norm__bias=([1, 5], -50.0))


def linear() -> nn.Module:
    return fill(chain(fc=nn.Linear(6, 9), act=nn.ReLU(), next=nn.Linear(9, 3)), fc__bias=([0, 4], -100.0))


def linear_norm() -> nn.Module:
    model = chain(fc=nn.Linear(6, 9), norm=nn.BatchNorm1d(9), act=nn.ReLU(), next=nn.Linear(9, 3))
    return fill(model, norm__bias=(3, -50.0))


def grouped() -> nn.Module:
    model = chain(conv=nn.Conv2d(4, 8, 3, groups=2), act=nn.ReLU(), next=nn.Conv2d(8, 6, 3, groups=2))
    return fill(model, conv__bias=(5, -100.0))


def depthwise_producer() -> nn.Module:
    model = chain(conv=nn.Conv2d(5, 5, 3, groups=5), act=nn.ReLU(), next=nn.Conv2d(5, 2, 1))
    return fill(model, conv__bias=(3, -100.0))


def depthwise_consumer() -> nn.Module:
    model = chain(conv=nn.Conv2d(3, 5, 1), act=nn.ReLU(), next=nn.Conv2d(5, 5, 3, groups=5))
    return fill(model, conv__bias=(3, -100.0))


def transposed() -> nn.Module:
    model = chain(conv=nn.ConvTranspose2d(4, 6, 3, groups=2), act=nn.ReLU(), next=nn.ConvTranspose2d(6, 2, 2))
    return fill(model, conv__bias=(4, -100.0))


def layer_norm() -> nn.Module:
    model = chain(fc=nn.Linear(6, 9), norm=nn.LayerNorm(9), act=nn.ReLU(), next=nn.Linear(9, 3))
    return fill(model, norm__bias=(2, -50.0))


def flattened() -> nn.Module:
    model = chain(conv=nn.Conv2d(2, 4, 3), act=nn.ReLU(), flat=nn.Flatten(), next=nn.Linear(4 * 9, 3))
    return fill(model, conv__bias=(2, -100.0))


def pooled_and_flattened() -> nn.Module:
    model = chain(
        conv=nn.Conv2d(2, 4, 3), act=nn.ReLU(), pool=nn.MaxPool2d(2), flat=nn.Flatten(), next=nn.Linear(4 * 4, 3)
    )
    return fill(model, conv__bias=(2, -100.0))


def one_unit() -> nn.Module:
    return fill(chain(fc=nn.Linear(6, 1), act=nn.ReLU(), next=nn.Linear(1, 3)), fc__bias=(0, -100.0))


def relu6() -> nn.Module:
    return fill(chain(fc=nn.Linear(6, 9), act=nn.ReLU6(), next=nn.Linear(9, 3)), fc__bias=([0, 4], -100.0))


class Dense(nn.Module):
    """What the units are concatenated with comes first, so that the columns of unit u are u + 3."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.next = nn.Conv2d(7, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.next(torch.cat([x, self.act(self.conv(x))], dim=1))


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv2d(3, 6, 1)
        self.act = nn.ReLU()
        self.next = nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.next(self.act(torch.cat([self.other(x), self.conv(x)], dim=1)))


class MatMul(nn.Module):
    """Weights as plain matrices; unit 2 reads negatively from inputs that are positive."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Parameter(gaussian(6, 5))
        self.outer = nn.Parameter(gaussian(5, 3, seed=1))
        with torch.no_grad():
            self.inner[:, 2] = -1

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x.abs() @ self.inner) @ self.outer


@dataclass(frozen=True)
class Case:
    """A model, one sample's shape, its dead units, and the weights that read them."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    dead: list[int]
    columns: Callable[[nn.Module], Tensor]
    site: str = "act"


CASES = [
    Case(conv_norm, (3, 6, 6), [1, 5], lambda model: model.next.weight[:, [1, 5]]),
    Case(linear, (6,), [0, 4], lambda model: model.next.weight[:, [0, 4]]),
    Case(linear_norm, (6,), [3], lambda model: model.next.weight[:, 3]),
    Case(grouped, (4, 6, 6), [5], lambda model: model.next.weight[3:, 1]),
    Case(depthwise_producer, (5, 6, 6), [3], lambda model: model.next.weight[:, 3]),
    Case(depthwise_consumer, (3, 6, 6), [3], lambda model: model.next.weight[3]),
    Case(transposed, (4, 3, 3), [4], lambda model: model.next.weight[4]),
    Case(layer_norm, (6,), [2], lambda model: model.next.weight[:, 2]),
    Case(flattened, (2, 5, 5), [2], lambda model: model.next.weight[:, 18:27]),
    Case(pooled_and_flattened, (2, 6, 6), [2], lambda model: model.next.weight[:, 8:12]),
    Case(one_unit, (6,), [0], lambda model: model.next.weight),
    Case(relu6, (6,), [0, 4], lambda model: model.next.weight[:, [0, 4]]),
    Case(lambda: fill(Dense(), conv__bias=(1, -100.0)), (3, 5, 5), [1], lambda model: model.next.weight[:, 4]),
    Case(lambda: fill(Concatenated(), conv__bias=(1, -100.0)), (3, 5, 5), [5], lambda model: model.next.weight[:, 5]),
    Case(MatMul, (6,), [2], lambda model: model.outer[2], site=":relu#1"),
]
NAMES = "conv_norm linear linear_norm grouped depthwise_producer depthwise_consumer transposed layer_norm flattened pooled one_unit relu6 dense concatenated matmul".split()  # noqa: E501
EVERY = pytest.mark.parametrize("case", CASES, ids=NAMES)


def revived_by(treated: Treated) -> dict[str, list[int]]:
    return {change.site: change.revived for change in treated.changes if change.revived}


def reasons_of(treated: Treated, site: str) -> dict[int, str]:
    change = next(change for change in treated.changes if change.site == site)
    return {unit: declined.reason for declined in change.declined_units for unit in declined.units}


def firing(model: nn.Module, *inputs: Tensor) -> dict[str, set[int]]:
    scan = scan_model(model, dataset_of(*inputs).scanned())
    return {site.id: {unit for unit, rate in enumerate(site.firing_rate) if rate} for site in scan.sites}


@EVERY
def test_dead_units_fire_again_cut_off_and_the_output_stays(case: Case) -> None:
    model, x = case.build().eval(), gaussian(SAMPLES, *case.shape)
    assert set(case.dead).isdisjoint(firing(model, x)[case.site])
    treated = untrained(model, x)
    assert revived_by(treated) == {case.site: case.dead}
    assert next(site for site in treated.after.sites).dead == 0
    module = next(change.module for change in treated.changes)
    assert set(case.dead) <= firing(treated.model, x)[module]
    assert (case.columns(treated.model) == 0).all()
    assert (case.columns(model) != 0).any()
    for inputs in (x, gaussian(SAMPLES, *case.shape, seed=1)):
        assert torch.allclose(treated.model(inputs), model(inputs), rtol=1e-6, atol=1e-6)


@EVERY
def test_only_the_dead_units_weights_and_the_columns_that_read_them_change(case: Case) -> None:
    model, x = case.build().eval(), gaussian(SAMPLES, *case.shape)
    treated = untrained(model, x)
    slopes = treated.model.get_submodule(treated.changes[0].module).weight
    expected = torch.zeros(len(slopes))
    expected[case.dead] = 0.25
    assert torch.equal(slopes, expected)
    before, after = model.state_dict(), treated.model.state_dict()
    for name in before.keys() & {"next.bias", "other.weight", "other.bias"}:
        assert torch.equal(after[name], before[name]), name
    live = [unit for unit in range(len(slopes)) if unit not in case.dead]
    names = {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"} & before.keys()
    if "conv.weight" in before and case.build is not transposed and len(before["conv.weight"]) == len(slopes):
        names |= {"conv.weight"}
    for name in names:
        assert torch.equal(after[name][live], before[name][live]), name


LOOPS = {
    TimeLoop: ("cell.bias", ["cell.weight", "head.weight"], 3),
    TimeLoopOfTwoLayers: ("upper.bias", ["upper.weight", "head.weight"], 6),
    RnnReluOfTwoLayers: ("rnn.bias_hh_l0", ["rnn.weight_hh_l0", "rnn.weight_ih_l1"], 0),
    RnnReluBothWays: ("rnn.bias_ih_l0", ["rnn.weight_hh_l0", "head.weight"], 0),
    RnnCellRelu: ("cell.bias_hh", ["cell.weight_hh", "head.weight"], 0),
}
"""By model: the bias that kills a unit, the weights that read it, and how far its column stands back in the first."""


@pytest.mark.parametrize("kind", LOOPS, ids=lambda kind: kind.__name__)
def test_a_unit_of_a_state_is_cut_off_from_the_next_step_too(kind: type[Odd]) -> None:
    """Else what the revived unit says at one step would be heard at the next."""
    bias, (again, behind), shift = LOOPS[kind]
    torch.manual_seed(0)
    model = fill(kind().eval(), **{bias.replace(".", "__"): (2, -1000.0)})
    treated = untrained(model, *kind.inputs(SAMPLES))
    assert any(2 in units for units in revived_by(treated).values())
    assert all(site.dead == 0 for site in treated.after.sites)
    assert (treated.model.get_parameter(again)[:, shift + 2] == 0).all()
    assert (treated.model.get_parameter(behind)[:, 2] == 0).all()
    for seed in (0, 1):
        x = kind.inputs(SAMPLES, seed=seed)
        assert torch.allclose(treated.model(*x), model(*x), rtol=1e-6, atol=1e-6)


def test_a_transposed_convolution_keeps_the_filters_of_its_other_groups_and_units() -> None:
    model = transposed().eval()
    before, after = model.conv.weight, untrained(model, gaussian(SAMPLES, 4, 3, 3)).model.conv.weight
    changed = (before != after).flatten(2).any(2)
    assert changed.tolist() == [[False] * 3, [False] * 3, [False, True, False], [False, True, False]]


@EVERY
def test_the_fine_tune_can_reach_the_columns_that_were_cut(case: Case) -> None:
    model, x = case.build().eval(), gaussian(SAMPLES, *case.shape)
    treated = untrained(model, x)
    treated.model(x).square().sum().backward()
    weights = dict(treated.model.named_parameters())
    name = "outer" if "outer" in weights else "next.weight"
    columns = case.columns(_Gradients(name, weights[name].grad))
    assert (columns != 0).any()


class _Gradients:
    """Lets a case pick its columns out of a gradient."""

    def __init__(self, name: str, grad: Tensor) -> None:
        self.outer = grad
        self.next = nn.Module()
        self.next.weight = grad


def test_channels_behind_a_revived_batch_norm_run_at_mean_0_and_std_1() -> None:
    model, x = conv_norm().eval(), gaussian(SAMPLES, 3, 6, 6)
    treated = untrained(model, 3 * x + 1)
    seen: list[Tensor] = []
    treated.model.norm.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    treated.model(3 * x + 1)
    for channel in (1, 5):
        values = seen[0][:, channel]
        assert float(values.std()) == pytest.approx(1, abs=1e-3)
        assert float(values.mean()) == pytest.approx(0, abs=1e-3)


def test_new_rows_are_he_normal_for_the_slope_they_get_and_their_bias_is_0() -> None:
    model = fill(chain(fc=nn.Linear(3000, 4), act=nn.ReLU(), next=nn.Linear(4, 2)), fc__bias=(1, -1e4))
    treated = untrained(model, gaussian(SAMPLES, 3000))
    row = treated.model.fc.weight[1].detach()
    assert float(row.std()) == pytest.approx((2 / (1.0625 * 3000)) ** 0.5, rel=0.05)
    assert treated.model.fc.bias[1] == 0


class TwoLayersSummed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.head = nn.Linear(3000, 4), nn.Linear(1000, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.wide(x) + self.narrow(x[:, :1000])))


def test_layers_that_are_summed_before_a_unit_share_its_variance() -> None:
    model = fill(TwoLayersSummed().eval(), wide__bias=(1, -1e4))
    treated = untrained(model, gaussian(SAMPLES, 3000))
    rows = torch.cat([treated.model.wide.weight[1], treated.model.narrow.weight[1]]).detach()
    assert revived_by(treated) == {":relu#1": [1]}
    assert float(rows.std()) == pytest.approx((2 / (1.0625 * 4000)) ** 0.5, rel=0.05)


class TestEvidence:
    @pytest.mark.parametrize(("samples", "revived"), [(298, False), (299, True)])
    def test_a_firing_rate_bound_of_1_percent_takes_299_samples(self, samples: int, revived: bool) -> None:
        treated = untrained(linear(), gaussian(samples, 6))
        assert bool(revived_by(treated)) is revived
        if not revived:
            assert "298 samples" in reasons_of(treated, "act")[0]
            assert set(reasons_of(treated, "act")) == {0, 4}

    def test_a_wider_bound_is_taken_where_it_is_asked_for(self) -> None:
        assert revived_by(untrained(linear(), gaussian(59, 6), revive_bound=0.05)) == {"act": [0, 4]}
        assert revived_by(untrained(linear(), gaussian(58, 6), revive_bound=0.05)) == {}

    def test_a_unit_that_fires_on_the_held_out_part_alone_is_left_alone(self) -> None:
        model = linear()
        with torch.no_grad():
            model.fc.weight[4], model.fc.bias[4] = -1.0, 0.0
        x = gaussian(SAMPLES, 6).abs()
        dataset = dataset_of(x, held_out=(-x,))
        treated = treat(model.eval(), dataset, Treatment(training=UNTRAINED))
        assert revived_by(treated) == {"act": [0]}
        assert "held-out" in reasons_of(treated, "act")[4]
        assert torch.equal(treated.model.fc.weight[4], model.fc.weight[4])
        assert torch.equal(treated.model.next.weight[:, 4], model.next.weight[:, 4])
        assert equal(output_of(treated.model, -x), output_of(model, -x)) or torch.allclose(treated.model(-x), model(-x))

    def test_units_that_the_input_does_not_reach_are_dead_for_certain(self) -> None:
        torch.manual_seed(0)
        model = fill(InputIndependentBias(), position__up__bias=(3, -100.0))
        treated = untrained(model, *InputIndependentBias.inputs(3))
        assert 3 in revived_by(treated)["position.act"]
        assert ":relu#1" not in revived_by(treated)

    def test_noise_is_no_evidence_and_nothing_to_train_on(self) -> None:
        model = conv_norm().eval()
        for reinit in ("dead", "all"):
            dataset = dataset_of(gaussian(SAMPLES, 3, 6, 6), synthetic=True)
            treated = treat(model, dataset, Treatment(reinit=reinit))
            assert revived_by(treated) == {}
            assert "synthetic" in treated.fine_tune
            assert all("synthetic" in reason for reason in reasons_of(treated, "act").values())
            assert {1, 5} <= set(reasons_of(treated, "act"))
            state = treated.model.state_dict()
            assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_an_output_that_is_silent_is_not_dead_and_nothing_is_done_to_it() -> None:
    torch.manual_seed(0)
    model = fill(ReluOnOutput().eval(), fc__bias=(2, -100.0))
    treated = untrained(model, *ReluOnOutput.inputs(SAMPLES))
    (site,) = treated.before.sites
    assert (site.is_output, site.dead, site.silent_outputs) == (True, 0, [2])
    assert revived_by(treated) == {}
    assert treated.preservation.equal


class TestDeclined:
    @pytest.mark.parametrize("kind", [ResidualBlock, NormBehindRelu, DictOutput, TiedLinear])
    def test_units_that_must_not_be_cut_off_stay_as_they_are_to_the_bit(self, kind: type) -> None:
        torch.manual_seed(0)
        model = kind().eval()
        site = kind.protected[0]
        producer = {"stem_act": "stem", "act": "conv1" if kind is NormBehindRelu else "fc", ":relu#1": "fc"}[site]
        fill(model, **{f"{producer}__bias": (2, -100.0)})
        x = kind.inputs(SAMPLES)
        treated = untrained(model, *x)
        assert reasons_of(treated, site).get(2)
        assert revived_by(treated) == {}
        assert treated.preservation.equal
        after = treated.model.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in model.state_dict().items())

    def test_a_unit_behind_a_residual_sum_is_revived_where_known_weights_alone_read_it(self) -> None:
        torch.manual_seed(0)
        model, x = ResidualBlock().eval(), ResidualBlock.inputs(SAMPLES)
        fill(model, bn2__bias=(1, -50.0), bn1__bias=(4, -50.0))
        treated = untrained(model, *x)
        assert revived_by(treated) == {"relu#1": [4], "relu#2": [1]}
        assert (treated.model.head.weight[:, 1] == 0).all()
        assert torch.equal(treated.model.stem.weight, model.stem.weight)
        assert torch.allclose(treated.model(*x), model(*x), rtol=1e-6, atol=1e-6)

    def test_a_layer_whose_weight_or_output_is_used_elsewhere_keeps_its_rows(self) -> None:
        class Shared(nn.Module):
            def __init__(self, way: Callable[[nn.Linear, Tensor], Tensor]) -> None:
                super().__init__()
                self.fc, self.act, self.next, self.way = nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3), way

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                return self.next(self.act(self.fc(x))), self.way(self.fc, x)

        ways = {
            "used elsewhere": lambda fc, x: F.linear(x, fc.weight).sum(1, keepdim=True),
            "its alone": lambda fc, x: x,
        }
        for name, way in ways.items():
            model, x = fill(Shared(way), fc__bias=(4, -100.0)).eval(), gaussian(SAMPLES, 6)
            treated = untrained(model, x)
            assert revived_by(treated) == ({} if name == "used elsewhere" else {"act": [4]})
            if name == "used elsewhere":
                assert "parameters of fc are used elsewhere" in reasons_of(treated, "act")[4]
                assert torch.equal(treated.model.fc.weight, model.fc.weight)

    def test_a_preactivation_that_others_read_too_keeps_its_rows(self) -> None:
        class Leaking(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc, self.act, self.next, self.other = nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3), nn.Linear(9, 3)

            def forward(self, x: Tensor) -> Tensor:
                x = self.fc(x)
                return self.next(self.act(x)) + self.other(x)

        model, x = fill(Leaking(), fc__bias=(4, -100.0)).eval(), gaussian(SAMPLES, 6)
        treated = untrained(model, x)
        assert revived_by(treated) == {}
        assert "the output of fc is read by others" in reasons_of(treated, "act")[4]
        assert torch.equal(treated.model.fc.weight, model.fc.weight)

    def test_units_that_stay_silent_after_every_draw_get_their_weights_back(self) -> None:
        model = linear().eval()
        treated = untrained(model, torch.zeros(SAMPLES, 6))
        assert revived_by(treated) == {}
        assert set(reasons_of(treated, "act")) >= {0, 4}
        assert all("silent" in reason for reason in reasons_of(treated, "act").values())
        state = treated.model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        assert (state["act.weight"] == 0).all()

    def test_a_bias_outside_the_layer_keeps_its_unit_closed_and_the_weights_come_back(self) -> None:
        class ShiftedMatMul(MatMul):
            def __init__(self) -> None:
                super().__init__()
                self.shift = nn.Parameter(torch.tensor([0.0, 0.0, -1e4, 0.0, 0.0]))

            def forward(self, x: Tensor) -> Tensor:
                return F.relu(x @ self.inner + self.shift) @ self.outer

        model, x = ShiftedMatMul().eval(), gaussian(SAMPLES, 6)
        treated = untrained(model, x)
        assert revived_by(treated) == {}
        assert "silent" in reasons_of(treated, ":relu#1")[2]
        assert torch.equal(treated.model.inner, model.inner)
        assert torch.equal(treated.model.outer, model.outer)


class TestNeighbours:
    @staticmethod
    def two_sites() -> nn.Module:
        return chain(a=nn.Linear(6, 5), act1=nn.ReLU(), b=nn.Linear(5, 4), act2=nn.ReLU(), c=nn.Linear(4, 2)).eval()

    def test_a_dead_unit_that_feeds_a_dead_unit(self) -> None:
        model, x = fill(self.two_sites(), a__bias=(1, -100.0), b__bias=(2, -100.0)), gaussian(SAMPLES, 6)
        treated = untrained(model, x)
        assert revived_by(treated) == {"act1": [1], "act2": [2]}
        assert (treated.model.b.weight[:, 1] == 0).all()
        assert (treated.model.c.weight[:, 2] == 0).all()
        assert (treated.model.b.weight[2, [0, 2, 3, 4]] != 0).all()
        assert torch.allclose(treated.model(x), model(x), rtol=1e-6, atol=1e-6)

    def test_a_layer_that_is_dead_as_a_whole_wakes_and_the_one_behind_it_has_nothing_to_read(self) -> None:
        model = fill(self.two_sites(), a__bias=(slice(None), -100.0), b__bias=(slice(None), -100.0))
        x = gaussian(SAMPLES, 6)
        treated = untrained(model, x)
        assert revived_by(treated) == {"act1": [0, 1, 2, 3, 4]}
        assert all("silent" in reason for reason in reasons_of(treated, "act2").values())
        assert (treated.model.b.weight == 0).all()
        assert torch.equal(treated.model.b.bias, model.b.bias)
        assert torch.equal(treated.model.c.weight, model.c.weight)
        assert torch.equal(treated.model(x), model(x))

    def test_planted_units_of_shared_and_functional_relus_all_wake(self) -> None:
        model = PlantedModel().eval()
        treated = untrained(model, *PlantedModel.inputs(SAMPLES))
        assert all(set(PlantedModel.truth[site]) <= set(units) for site, units in revived_by(treated).items())
        assert set(revived_by(treated)) == set(PlantedModel.truth)
        assert sum(site.dead for site in treated.after.sites) == 0


class TestWhatFactsSay:
    """The steps on a conv-BN-ReLU net with 4 of 16 channels closed by the norm's shift."""

    @staticmethod
    def net() -> nn.Module:
        model = chain(
            conv=nn.Conv2d(3, 16, 3, bias=False), norm=nn.BatchNorm2d(16), act=nn.ReLU(), next=nn.Conv2d(16, 4, 3)
        )
        return fill(model, norm__bias=([0, 1, 2, 3], -50.0)).eval()

    X = gaussian(SAMPLES, 3, 8, 8)

    def dead(self, model: nn.Module) -> int:
        return 16 - len(firing(model, self.X)["act"])

    def test_drawing_the_rows_alone_leaves_them_dead(self) -> None:
        model = self.net()
        assert self.dead(model) == 4
        nn.init.normal_(model.conv.weight[:4].data, std=(2 / 27) ** 0.5)
        assert self.dead(model) == 4

    def test_zeroing_their_readers_while_they_are_dead_leaves_no_gradient_anywhere(self) -> None:
        model = fill(self.net(), next__weight=((slice(None), [0, 1, 2, 3]), 0.0))
        model(self.X).square().sum().backward()
        assert (model.next.weight.grad[:, :4] == 0).all()
        assert (model.conv.weight.grad[:4] == 0).all()
        assert (model.norm.bias.grad[:4] == 0).all()

    def test_the_usual_recipe_moves_the_output_by_more_than_its_range(self) -> None:
        treated = untrained(self.net(), self.X, alpha=0.25, reinit="none")
        assert treated.preservation.max_change > treated.preservation.scale

    def test_ours_moves_it_by_nothing_and_all_units_live(self) -> None:
        model = self.net()
        treated = untrained(model, self.X)
        assert treated.preservation.max_change <= 1e-6 * treated.preservation.scale
        assert revived_by(treated) == {"act": [0, 1, 2, 3]}
        assert self.dead(treated.model) == 0

    def test_no_reinitialisation_leaves_the_weights_alone(self) -> None:
        model = self.net()
        treated = untrained(model, self.X, reinit="none")
        state = treated.model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        assert treated.preservation.equal
        assert treated.after.sites[0].dead == 4

    def test_drawing_all_units_anew_recalibrates_the_norms_and_promises_nothing(self) -> None:
        model = self.net()
        treated = untrained(model, self.X, reinit="all")
        assert not treated.preservation.promised
        assert revived_by(treated) == {"act": list(range(16))}
        assert not torch.equal(treated.model.conv.weight, model.conv.weight)
        assert torch.equal(treated.model.next.weight, model.next.weight)
        assert not any(module.training for module in treated.model.modules())
        seen: list[Tensor] = []
        treated.model.norm.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
        treated.model(self.X)
        assert torch.allclose(seen[0].std((0, 2, 3)), torch.ones(16), atol=0.02)


def test_the_same_seed_revives_with_the_same_bits_and_another_one_does_not() -> None:
    models = [untrained(_fixed_net(), gaussian(SAMPLES, 3, 6, 6), seed=seed).model for seed in (0, 0, 1)]
    assert same_state(models[0], models[1])
    assert not same_state(models[0], models[2])


def _fixed_net() -> nn.Module:
    torch.manual_seed(5)
    return conv_norm()


def test_the_random_state_and_the_original_are_left_as_they_were() -> None:
    model, x = conv_norm(), gaussian(SAMPLES, 3, 6, 6)
    twin, state = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    treat(model.train(), dataset_of(x), Treatment(training=UNTRAINED))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(twin[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("alpha_shape", ["site", "tied"])
def test_one_slope_for_many_units_stays_at_0_when_one_is_revived(alpha_shape: str) -> None:
    model, x = linear(), gaussian(SAMPLES, 6)
    treated = untrained(model, x, alpha_shape=alpha_shape)
    assert revived_by(treated) == {"act": [0, 4]}
    assert (treated.model.act.weight == 0).all()
    assert torch.allclose(treated.model(x), model(x), rtol=1e-6, atol=1e-6)


def test_every_weight_is_kept_once_however_many_of_its_units_are_revived() -> None:
    class Clones(TorchDispatchMode):
        kept = 0

        def __torch_dispatch__(
            self, func: object, types: object, args: tuple = (), kwargs: dict | None = None
        ) -> object:
            self.kept += func is torch.ops.aten.clone.default and args[0].shape == (90, 6)
            return func(*args, **(kwargs or {}))

    def clones(dead: int) -> int:
        torch.manual_seed(0)
        model = chain(fc=nn.Linear(6, 90), act=nn.ReLU(), next=nn.Linear(90, 3)).eval()
        fill(model, fc__bias=(slice(dead), -100.0))
        with Clones() as counted:
            (change,) = treat(model, dataset_of(gaussian(SAMPLES, 6)), Treatment(training=UNTRAINED)).changes
        assert change.revived == [*range(dead)]
        return counted.kept

    assert clones(60) == clones(2)

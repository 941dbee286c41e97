"""Surgery: a PReLU at every site, the same function, everything else as it was, and reasons for what was declined."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from treated import dataset_of, equal, gaussian, operated, output_of, same_state, untrained
from zoo import (
    DropoutFunctional,
    FunctionalOnOutput,
    InplaceThenOverwritten,
    Integers,
    PlantedModel,
    RankOne,
    SharedReluTwoWidths,
    every,
)
from zoo.odd import Odd

from prelu_doctor.data.batches import Batch
from prelu_doctor.leaves import tensors_of
from prelu_doctor.scanning.scan import Scan, scan_model
from prelu_doctor.sites.activations import CONVERTED, activation_of
from prelu_doctor.sites.trace import trace
from prelu_doctor.treatment.fine_tuning import slope_parameters
from prelu_doctor.treatment.surgery import Surgery, copy_of


def zoo_model(kind: type[Odd]) -> Odd:
    torch.manual_seed(0)
    return kind().eval()


@functools.cache
def surgery_of(kind: type[Odd]) -> tuple[Odd, Surgery, Scan]:
    """A zoo model, its proven surgery and its scan; whoever uses them leaves them as they are."""
    model = zoo_model(kind)
    before = look_of(model)
    surgery, scan = operated(model, *kind.inputs(4), **kind.keywords(4))
    CHANGED[kind] = [what for what, look in look_of(model).items() if look != before[what]]
    return model, surgery, scan


CHANGED: dict[type[Odd], list[str]] = {}
"""What the surgery changed in the model that it was given."""


def look_of(model: nn.Module) -> dict[str, object]:
    return {
        "modules": [(name, id(module), type(module)) for name, module in model.named_modules()],
        "attributes": [set(vars(module)) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "weights": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        "gradients": [parameter.requires_grad for parameter in model.parameters()],
    }


def outputs_of(kind: type[Odd], model: nn.Module, samples: int, seed: int = 0, scale: int = 1) -> list[Tensor]:
    inputs = [scale * tensor for tensor in kind.inputs(samples, seed=seed)]
    return output_of(model, *inputs, **{name: scale * x for name, x in kind.keywords(samples, seed=seed).items()})


@every()
def test_slopes_of_0_keep_every_output_in_eval_and_in_train_mode(kind: type[Odd]) -> None:
    model, surgery, _ = surgery_of(kind)
    past_a_ceiling = {"samples": 5, "seed": 2, "scale": 1 if kind is Integers else 50}
    for given in ({"samples": 4}, {"samples": 5, "seed": 1}, {"samples": 1, "seed": 3}, past_a_ceiling):
        assert equal(outputs_of(kind, model, **given), outputs_of(kind, surgery.model, **given))
    twins = copy_of(model).train(), copy_of(surgery.model).train()
    assert equal(*(outputs_of(kind, twin, samples=5) for twin in twins))


class LeakyEverywhere(TorchDispatchMode):
    """Every rectifier that the dispatcher sees has a slope of 0.3: what a model with such PReLUs should compute."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        op, kwargs = func.overloadpacket.__name__, kwargs or {}
        if op in ("rnn_relu", "rnn_relu_cell"):
            with self:
                return func.decompose(*args, **kwargs)
        activation = activation_of(op, args, kwargs)
        if not activation or activation.function not in CONVERTED or not args[0].is_floating_point():
            return func(*args, **kwargs)
        sloped = torch.where(args[0] > 0, args[0], 0.3 * args[0]).clamp(max=activation.ceiling or torch.inf)
        return args[0].copy_(sloped) if activation.in_place else sloped


@every(but=lambda kind: bool(kind.declines) or kind is RankOne)  # which keep a ReLU
def test_slopes_act_at_every_call_and_at_no_other(kind: type[Odd]) -> None:
    """With slopes of 0 a PReLU at the wrong call would go unseen."""
    model, surgery, _ = surgery_of(kind)
    model, sloped = copy_of(model), copy_of(surgery.model)
    for recipe in surgery.done:
        for place in recipe.places:
            torch.nn.init.constant_(sloped.get_submodule(place.module).weight, 0.3)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode():
            for given in ({"samples": 4}, {"samples": 5, "seed": 1}):
                with LeakyEverywhere():
                    expected = outputs_of(kind, model, **given)
                for one, other in zip(expected, outputs_of(kind, sloped, **given), strict=True):
                    torch.testing.assert_close(other, one, rtol=0.01, atol=0.002, equal_nan=True)  # bfloat16 inside
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@every(but=lambda kind: kind is InplaceThenOverwritten)  # which has no gradients
def test_slopes_of_0_keep_every_gradient(kind: type[Odd]) -> None:
    """So that nothing but the slopes is new to a training: no part is frozen or thawed, no precision lost."""
    model, surgery, _ = surgery_of(kind)
    before, after = (gradients_of(kind, copy_of(operated)) for operated in (model, surgery.model))
    assert before
    assert {name for name, gradient in before.items() if gradient is None} == {
        name for name, gradient in after.items() if gradient is None and name in before
    }
    for name, gradient in before.items():
        assert gradient is None or equal([gradient], [after[name]]), name


def gradients_of(kind: type[Odd], model: nn.Module) -> dict[str, Tensor | None]:
    batch = Batch(args=kind.inputs(3, seed=1), kwargs=kind.keywords(3, seed=1))
    torch.manual_seed(0)
    outputs = [output for output in tensors_of(batch.run(model)) if output.requires_grad]
    sum(output.double().square().sum() for output in outputs).backward()
    # Copies of scripted parameters are no leaves, and gather nothing.
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.is_leaf}


@every()
def test_every_site_is_a_prelu_or_declined_for_the_expected_reason(kind: type[Odd]) -> None:
    _, surgery, before = surgery_of(kind)
    assert surgery.declined.keys() == kind.declines.keys(), surgery.declined
    assert all(word in surgery.declined[site] for site, word in kind.declines.items()), surgery.declined
    assert {recipe.site for recipe in surgery.done} == {site for site, _ in kind.expected_sites} - kind.declines.keys()
    after = scan_model(surgery.model, dataset_of(*kind.inputs(4), keywords=kind.keywords(4)).scanned())
    functions = {site.id: site.function for site in before.sites}
    kept = [functions[site] for site in surgery.declined]
    assert sorted(site.function for site in after.sites) == sorted(["prelu"] * len(surgery.done) + kept)
    assert [site.units for site in after.sites] == [site.units for site in before.sites]


@every()
def test_every_site_is_a_prelu_or_has_a_reason(kind: type[Odd]) -> None:
    _, surgery, before = surgery_of(kind)
    assert all(surgery.declined.values())
    assert {*surgery.declined, *(recipe.site for recipe in surgery.done)} == {site.id for site in before.sites}


@every()
def test_every_prelu_has_a_slope_for_each_unit_unless_the_axis_was_assumed(kind: type[Odd]) -> None:
    _, surgery, before = surgery_of(kind)
    for site in before.sites:
        if site.id not in surgery.declined:
            assert len(surgery.prelu(site.id).weight) == (1 if site.axis_assumed else site.units)


@every()
def test_the_state_dict_keeps_its_names_and_gains_slopes(kind: type[Odd]) -> None:
    model, surgery, _ = surgery_of(kind)
    before, after = model.state_dict(), surgery.model.state_dict()
    moving = {"runs"}  # a number that these forwards keep
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - moving)
    slopes = {f"{place.module}.weight" for recipe in surgery.done for place in recipe.places}
    assert slopes <= after.keys()
    owners = {name: surgery.model.get_submodule(name.rpartition(".")[0]) for name in after.keys() - before.keys()}
    assert all(isinstance(owner, nn.PReLU) for owner in owners.values())


@every()
def test_the_original_stays_as_it_was(kind: type[Odd]) -> None:
    surgery_of(kind)
    assert CHANGED[kind] == []


@every()
def test_the_result_can_be_copied_and_keeps_its_classes_and_flags(kind: type[Odd]) -> None:
    model, surgery, _ = surgery_of(kind)
    assert isinstance(surgery.model, kind)
    assert type(surgery.model).__name__ == kind.__name__
    assert type(surgery.model).__module__ == kind.__module__
    assert not any(module.training for module in surgery.model.modules())
    twin = copy_of(surgery.model)
    assert equal(outputs_of(kind, twin, samples=4), outputs_of(kind, model, samples=4))
    for slope in slope_parameters(twin):
        torch.nn.init.constant_(slope, 0.5)
    assert all((slope == 0).all() or kind.__name__ == "PReluNet" for slope in slope_parameters(surgery.model))


def test_a_silent_unit_of_the_last_operation_is_an_output_and_left_as_it_was() -> None:
    model, x = zoo_model(FunctionalOnOutput), FunctionalOnOutput.inputs(400)
    treated = untrained(model, *x)
    (last,) = (change for change in treated.changes if change.site == ":relu#2")
    assert (last.revived, last.declined_units) == ([], [])
    assert [(site.dead, site.silent_outputs) for site in treated.after.sites] == [(0, []), (0, [1])]
    assert same_state(treated.model.head, model.head)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.head = nn.Linear(6, 2)


X = gaussian(8, 4)


class OwnRelu(Net):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(x)))


class Functional(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(x)))


def test_the_slopes_reach_the_output() -> None:
    for kind in (OwnRelu, Functional):
        surgery, before = operated(kind(), X)
        torch.nn.init.constant_(surgery.prelu(before.sites[0].id).weight, 0.5)
        linear = surgery.model
        expected = linear.head(F.leaky_relu(linear.fc(X), 0.5))
        assert torch.allclose(surgery.model(X), expected)


def test_hooks_on_the_owner_and_on_a_swapped_module_go_on_firing() -> None:
    fired: list[str] = []
    for kind in (OwnRelu, Functional):
        model = kind()
        model.register_forward_hook(lambda *_: fired.append("owner"))
        model.fc.register_forward_pre_hook(lambda *_: fired.append("child"))
        if kind is OwnRelu:
            model.act.register_forward_hook(lambda *_, **__: fired.append("act"), with_kwargs=True)
        surgery, _ = operated(model, X)
        fired.clear()
        surgery.model(X)
        assert fired == ["child", *(["act"] if kind is OwnRelu else []), "owner"]


def test_a_prelu_takes_the_training_flag_of_what_stood_there() -> None:
    for kind in (OwnRelu, Functional):
        model = kind()
        model.train()
        surgery, _ = operated(model, X)
        assert all(module.training for module in surgery.model.modules())


def test_functional_dropout_follows_the_flag_after_rewriting() -> None:
    model = zoo_model(DropoutFunctional)
    surgery, _ = operated(model, *DropoutFunctional.inputs(4))
    x = DropoutFunctional.inputs(64)
    surgery.model.train()
    assert not equal(output_of(surgery.model, *x, seed=1), output_of(surgery.model, *x, seed=2))
    surgery.model.eval()
    assert equal(output_of(surgery.model, *x, seed=1), output_of(surgery.model, *x, seed=2))


class MaskedByDefaultNone(Net):
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
        hidden = F.relu(self.fc(x))
        if mask is not None:
            hidden = hidden * mask
        return self.head(hidden) * scale


def test_an_argument_that_was_none_may_be_anything_later() -> None:
    model = MaskedByDefaultNone()
    surgery, _ = operated(model, X)
    assert torch.equal(surgery.model(X, mask=None), model(X))
    assert torch.equal(surgery.model(X, None, 3.0), model(X, None, 3.0))
    assert torch.equal(surgery.model(X, scale=3.0), model(X, scale=3.0))
    mask = gaussian(8, 6, seed=2)
    assert torch.equal(surgery.model(X, mask=mask), model(X, mask=mask))


class IgnoredReturn(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        F.relu(x, inplace=True)
        return self.head(x)


class IgnoredReturnOfAModule(Net):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        self.act(x)
        return self.head(x)


class OverwrittenResidual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.mid = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.head(self.mid(self.act(x)) + x)


class ThroughAView(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        F.relu_(x.view(-1, 3))
        return self.head(x)


@pytest.mark.parametrize(
    ("kind", "recompute"),
    [
        (IgnoredReturnOfAModule, lambda model, hidden: model.head(hidden)),
        (OverwrittenResidual, lambda model, hidden: model.head(model.mid(hidden) + hidden)),
        (ThroughAView, lambda model, hidden: model.head(hidden)),
    ],
)
def test_an_overwritten_input_that_is_read_again_is_overwritten_by_the_prelu(
    kind: type[Net], recompute: Callable[[Net, Tensor], Tensor]
) -> None:
    model = kind()
    surgery, before = operated(model, X)
    assert not surgery.declined
    assert torch.equal(surgery.model(X), model(X))
    prelu = surgery.prelu(before.sites[0].id)
    torch.nn.init.constant_(prelu.weight, 0.5)
    assert torch.allclose(surgery.model(X), recompute(model, F.leaky_relu(model.fc(X), 0.5)))
    surgery.model(X).sum().backward()
    assert prelu.weight.grad is not None
    assert prelu.weight.grad.abs().sum() > 0


def test_an_ignored_return_of_an_in_place_function_is_rewritten_rightly() -> None:
    model = IgnoredReturn()
    surgery, _ = operated(model, X)
    assert not surgery.declined
    torch.nn.init.constant_(surgery.prelu(":relu#1").weight, 0.5)
    assert torch.allclose(surgery.model(X), model.head(F.leaky_relu(model.fc(X), 0.5)))


class MakesTensors(Net):
    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(6)
        total += F.relu(self.fc(x)).mean(0)
        return self.head(total + F.relu(self.fc(x)))


class CountsItsRuns(Net):
    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.head(F.relu(self.fc(x)))


class MakesItsReluAnew(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.ReLU()(self.fc(x)))


class BranchesOnValues(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc(x))
        return self.head(x if x.sum() > 0 else -x)


@pytest.mark.parametrize("kind", [MakesTensors, CountsItsRuns, MakesItsReluAnew, BranchesOnValues])
def test_a_forward_that_a_graph_would_falsify_runs_as_it_was_written(kind: type[nn.Module]) -> None:
    model = kind()
    surgery, before = operated(model, X)
    assert not surgery.declined
    assert {place.how for recipe in surgery.done for place in recipe.places} == {"route"}
    slopes = {f"{place.module}.weight" for recipe in surgery.done for place in recipe.places}
    assert surgery.model.state_dict().keys() == model.state_dict().keys() | slopes
    assert torch.equal(surgery.model(X), model(X))
    torch.nn.init.constant_(surgery.prelu(before.sites[0].id).weight, 0.5)
    assert not torch.equal(surgery.model(X), model(X))


def test_a_forward_that_was_replaced_on_the_instance_is_declined() -> None:
    model = Functional()
    model.forward = lambda x: model.head(F.relu(model.fc(x))) * 2  # type: ignore[method-assign]
    surgery, _ = operated(model, X)
    assert "instance" in surgery.declined[":relu#1"]


class ComputesFromABuffer(Net):
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", gaussian(6))
        self.gain = nn.Parameter(gaussian(6, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(x)) * self.table.exp() * self.gain.exp())


def test_what_is_computed_from_parameters_and_buffers_is_computed_anew_at_every_run() -> None:
    model = ComputesFromABuffer()
    surgery, _ = operated(model, X)
    assert not surgery.declined
    with torch.no_grad():
        for other in (model, surgery.model):
            other.table.fill_(0.5)
            other.gain.fill_(-0.5)
    assert torch.equal(surgery.model(X), model(X))


class NameTaken(Net):
    def __init__(self) -> None:
        super().__init__()
        self.prelu_1 = nn.PReLU(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.prelu_1(self.fc(F.relu(x))))


def test_a_module_of_the_users_own_is_never_overwritten() -> None:
    model = NameTaken()
    surgery, _ = operated(model, X)
    assert torch.equal(surgery.model.prelu_1.weight, model.prelu_1.weight)
    assert surgery.done[0].places[0].module == "prelu_1_"
    assert surgery.declined["prelu_1"].startswith("prelu has a negative side")


class AttributeNobodyCalls(Net):
    def __init__(self) -> None:
        super().__init__()
        self.activation = F.relu

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc(x)))


class HeldInAListToo(Net):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.steps = [self.fc, self.act, self.head]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


@pytest.mark.parametrize("kind", [AttributeNobodyCalls, HeldInAListToo])
def test_where_a_swapped_prelu_would_never_run_its_calls_are_routed(kind: type[nn.Module]) -> None:
    model = kind()
    surgery, before = operated(model, X)
    assert [place.how for recipe in surgery.done for place in recipe.places] == ["route"]
    torch.nn.init.constant_(surgery.prelu(before.sites[0].id).weight, 0.5)
    assert not torch.equal(surgery.model(X), model(X))


@pytest.mark.parametrize("activation", [F.relu, nn.ReLU()], ids=["function", "module"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer_layer_computes_the_slopes_on_its_fast_path_too(activation: object, norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(
        8,
        2,
        16,
        activation=activation,
        batch_first=True,
        norm_first=norm_first,  # type: ignore[arg-type]
    )
    model, x = nn.Sequential(layer).eval(), gaussian(4, 5, 8)
    surgery, before = operated(model, x)
    assert not surgery.declined
    assert surgery.done[0].places[0].module == "0.activation"
    torch.nn.init.constant_(surgery.prelu(before.sites[0].id).weight, 0.5)
    with torch.no_grad():
        fast = surgery.model(x)
        torch.backends.mha.set_fastpath_enabled(False)
        slow = surgery.model(x)
        torch.backends.mha.set_fastpath_enabled(True)
    assert torch.allclose(fast, slow, atol=1e-5)
    assert not torch.allclose(fast, model(x), atol=1e-3)


class TwoOwners(nn.Module):
    """Two modules hold one linear layer: one site, though one of them cannot be traced."""

    def __init__(self, other: type[Rectified]) -> None:
        super().__init__()
        shared = nn.Linear(4, 4)
        self.plain = Rectified(shared)
        self.other = other(shared)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.plain(x)) + self.other(x)


class Rectified(nn.Module):
    def __init__(self, fc: nn.Linear) -> None:
        super().__init__()
        self.fc = fc

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x))


class BranchingRectified(Rectified):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x)) if x.sum() < 1e9 else x


class ReplacedOnTheInstance(Rectified):
    def __init__(self, fc: nn.Linear) -> None:
        super().__init__(fc)
        self.forward = lambda x: F.relu(self.fc(x))  # type: ignore[method-assign]


@pytest.mark.parametrize("other", [Rectified, BranchingRectified])
def test_a_site_of_two_owners_has_one_prelu(other: type[Rectified]) -> None:
    surgery, before = operated(TwoOwners(other), X)
    assert not surgery.declined
    assert len(before.sites) == len(surgery.done)
    assert surgery.model.plain.prelu_1.weight is surgery.model.other.prelu_1.weight


def test_a_site_of_two_owners_is_converted_as_a_whole_or_not_at_all() -> None:
    model = TwoOwners(ReplacedOnTheInstance)
    surgery, _ = operated(model, X)
    assert not surgery.done
    assert surgery.model.state_dict().keys() == model.state_dict().keys()


def test_a_preactivation_of_minus_infinity_declines_its_site() -> None:
    model = OwnRelu()
    with torch.no_grad():
        model.fc.bias[2] = float("-inf")
    treated = untrained(model, X)
    assert "-inf" in treated.changes[0].declined
    assert treated.preservation.equal


def test_random_numbers_drawn_in_eval_mode_are_no_movement_of_the_output() -> None:
    class Noisy(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.fc(x))
            return self.head(x + torch.randn_like(x))

    assert not operated(Noisy(), X)[0].declined


def test_old_weight_norm_can_be_operated_on() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2))
    model(X)  # leaves a computed weight on the module, which copy.deepcopy refuses
    surgery, _ = operated(model, X)
    assert torch.equal(surgery.model(X), model(X))


def test_a_model_that_is_one_relu_is_converted_or_declined() -> None:
    surgery, _ = operated(nn.ReLU(), X)
    assert len(surgery.done) + len(surgery.declined) == 1
    assert torch.equal(surgery.model(X), F.relu(X))


def test_half_precision_models_get_slopes_of_their_own_dtype() -> None:
    surgery, before = operated(OwnRelu().bfloat16(), X.bfloat16())
    assert surgery.prelu(before.sites[0].id).weight.dtype == torch.bfloat16


class TestShapesOfSlopes:
    def test_one_a_channel_is_the_default(self) -> None:
        surgery, _ = operated(zoo_model(PlantedModel), *PlantedModel.inputs(4))
        assert [recipe.shape.count for recipe in surgery.done] == [8, 8, 16]

    def test_one_a_site(self) -> None:
        surgery, _ = operated(zoo_model(PlantedModel), *PlantedModel.inputs(4), alpha_shape="site")
        assert [recipe.shape.count for recipe in surgery.done] == [1, 1, 1]
        assert len(slope_parameters(surgery.model)) == 3

    def test_tied_slopes_are_one_parameter_that_the_optimizer_sees_once(self) -> None:
        surgery, _ = operated(zoo_model(PlantedModel), *PlantedModel.inputs(4), alpha_shape="tied")
        slopes = {id(surgery.prelu(recipe.site).weight) for recipe in surgery.done}
        assert len(slopes) == 1
        assert len(slope_parameters(surgery.model)) == 1
        assert sum(id(parameter) in slopes for parameter in surgery.model.parameters()) == 1

    def test_one_module_called_at_two_widths_becomes_two_prelus(self) -> None:
        surgery, _ = operated(zoo_model(SharedReluTwoWidths), *SharedReluTwoWidths.inputs(4))
        assert {name for name in surgery.model.state_dict() if "prelu" in name} == {
            "prelu_1.weight",
            "prelu_2.weight",
        }

    def test_slopes_off_0_move_the_output_and_promise_nothing(self) -> None:
        treated = untrained(zoo_model(PlantedModel), gaussian(8, 3, 8, 8), alpha=0.25)
        assert not treated.preservation.promised
        assert treated.preservation.max_change > 0.1
        assert all((slope == 0.25).all() for slope in slope_parameters(treated.model)), (
            "every slope starts where --alpha says"
        )


def test_the_traced_graph_of_the_result_calls_each_prelu_as_a_module() -> None:
    surgery, _ = operated(zoo_model(PlantedModel), *PlantedModel.inputs(4))
    first = next(dataset_of(*PlantedModel.inputs(4)).scanned())
    modules = [call.position.module for call in trace(surgery.model, first).activations() if call.position]
    assert modules == [recipe.places[0].module for recipe in surgery.done]


def test_the_copy_of_a_scripted_module_has_parameters_of_its_own() -> None:
    """It runs under inference mode even where the original has run with gradients before, and it can be trained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(4, 5), nn.ReLU())), nn.Linear(5, 2)).eval()
    x = gaussian(3, 4)
    for _ in range(4):
        model(x).sum().backward()
    copied = copy_of(model)
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in copied[0].parameters())
    assert equal(copied(x), model(x))
    with torch.no_grad():
        next(copied[0].parameters()).zero_()
    assert bool(next(model[0].parameters()).any())

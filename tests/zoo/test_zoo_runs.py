"""The zoo's own answers, checked against a slow oracle that shares nothing with the package."""

from __future__ import annotations

import inspect

import pytest
import torch

from prelu_doctor.leaves import tensors_of

from . import (
    ALL,
    algebra,
    axes,
    branches,
    every,
    forms,
    inplace,
    inside,
    loops,
    planted,
    ranks,
    reached,
    results,
    sharing,
    surroundings,
    weights,
    wiring,
)
from .odd import Odd
from .slow_oracle import Call, CallRecorder, calls_by_site


def calls_of(kind: type[Odd], samples: int = 2) -> tuple[Odd, list[Call]]:
    torch.manual_seed(0)
    model = kind().eval()
    return model, CallRecorder(model.in_plain_python().eval()).record(*kind.inputs(samples), **kind.keywords(samples))


def first_calls(kind: type[Odd], calls: list[Call]) -> list[Call]:
    """The call each site is named after, given how many calls each is made of."""
    return [own[0] for own in calls_by_site(kind, calls).values()]


def silent_units(call: Call) -> list[int]:
    """Units on axis 1 that are positive nowhere."""
    units = call.values.transpose(0, 1).flatten(1)
    return [unit for unit, values in enumerate(units) if not (values > 0).any()]


def test_all_lists_every_model_of_the_zoo() -> None:
    files = (
        algebra,
        axes,
        branches,
        forms,
        inplace,
        inside,
        loops,
        planted,
        ranks,
        reached,
        results,
        sharing,
        surroundings,
        weights,
        wiring,
    )
    classes = {item for file in files for _, item in inspect.getmembers(file, inspect.isclass) if issubclass(item, Odd)}
    defined = {item for item in classes if not item.__name__.startswith("_")} - {Odd}
    assert set(ALL) == defined
    assert len(ALL) == len(defined)


@every()
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_it_runs_on_any_batch_size(kind: type[Odd], samples: int) -> None:
    tensors = tensors_of(kind().eval()(*kind.inputs(samples), **kind.keywords(samples)))
    assert tensors
    assert all(tensor.shape[0] == samples and tensor.isfinite().all() for tensor in tensors)


@every()
def test_its_input_shapes_are_told_one_way(kind: type[Odd]) -> None:
    assert not (kind.input_shape and kind.input_shapes)
    assert kind.input_shape or kind.input_shapes or kind.keyword_shapes


@every()
def test_its_sites_are_the_calls_that_the_oracle_sees(kind: type[Odd]) -> None:
    _, calls = calls_of(kind)
    assert [call.id for call in first_calls(kind, calls)] == [site for site, _ in kind.expected_sites]


@every()
def test_its_functions_are_those_that_the_oracle_sees(kind: type[Odd]) -> None:
    _, calls = calls_of(kind)
    expected = [kind.functions.get(site, "relu") for site, _ in kind.expected_sites]
    assert [call.function for call in first_calls(kind, calls)] == expected


@every()
def test_its_units_are_the_width_of_the_activation(kind: type[Odd]) -> None:
    _, calls = calls_of(kind)
    widths = [
        call.values.shape[kind.unit_axes.get(site, 1)]
        for call, (site, _) in zip(first_calls(kind, calls), kind.expected_sites, strict=True)
    ]
    assert widths == [units for _, units in kind.expected_sites]


@every(but=lambda kind: kind is planted.PlantedModel)
def test_no_other_axis_has_the_size_of_the_units(kind: type[Odd]) -> None:
    """A wrong axis must show as a wrong number of units; the planted model is 8 units on 8x8 and cannot tell."""
    _, calls = calls_of(kind, samples=2)
    for call, (site, units) in zip(first_calls(kind, calls), kind.expected_sites, strict=True):
        others = list(call.values.shape)
        others.pop(kind.unit_axes.get(site, 1))
        assert units not in others, site


@every()
def test_annotations_name_known_sites(kind: type[Odd]) -> None:
    sites = {site for site, _ in kind.expected_sites}
    named = {
        *kind.unit_axes,
        *kind.merged_calls,
        *kind.functions,
        *kind.axis_assumed,
        *kind.input_independent,
        *kind.truth,
        *kind.protected,
        *kind.declines,
        *kind.call_order,
    }
    assert named <= sites
    assert not sites & {*kind.uncalled, *kind.unresolved}


@every()
def test_input_reaches_every_site_but_the_independent_ones(kind: type[Odd]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    plain = model.in_plain_python().eval()
    one, other = (CallRecorder(plain).record(*kind.inputs(seed=seed), **kind.keywords(seed=seed)) for seed in (0, 1))
    unmoved = [
        call.id
        for call, again in zip(one, other, strict=True)
        if torch.equal(call.values, again.values) and call.id not in kind.unresolved
    ]
    assert unmoved == kind.input_independent


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.truth], ids=lambda kind: kind.__name__)
def test_planted_units_fire_on_no_sample(kind: type[Odd]) -> None:
    _, calls = calls_of(kind, samples=512)
    for call in calls:
        assert set(kind.truth.get(call.id, [])) <= set(silent_units(call)), call.id


def test_planted_model_has_no_other_dead_unit_behind_its_convolutions() -> None:
    _, calls = calls_of(planted.PlantedModel, samples=512)
    found = {call.id: silent_units(call) for call in calls}
    assert found["relu#1"] == planted.PlantedModel.truth["relu#1"]
    assert found["relu#2"] == planted.PlantedModel.truth["relu#2"]
    assert set(found[":relu#1"]) >= set(planted.PlantedModel.truth[":relu#1"])


def test_planted_model_is_the_same_at_every_construction() -> None:
    state = torch.random.get_rng_state()
    one, other = planted.PlantedModel().state_dict(), planted.PlantedModel().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(state, torch.random.get_rng_state())


def test_prelu_net_has_a_silent_unit_that_is_not_dead() -> None:
    model, calls = calls_of(forms.PReluNet, samples=64)
    silent = silent_units(calls[0])
    slopes = model.get_parameter("act.weight")
    assert silent == [2, 4]
    assert [unit for unit in silent if abs(slopes[unit]) < 1e-3] == [2]


def test_uncalled_modules_are_registered_activations_without_a_call() -> None:
    model, calls = calls_of(surroundings.UnusedRelu)
    assert all(isinstance(model.get_submodule(path), torch.nn.ReLU) for path in model.uncalled)
    assert not {call.id for call in calls} & set(model.uncalled)


def test_inplace_relu_on_input_overwrites_what_it_was_given() -> None:
    (given,) = forms.InplaceReluOnInput.inputs()
    forms.InplaceReluOnInput().eval()(given)
    assert (given >= 0).all()


def test_training_branch_computes_something_else_in_train_mode() -> None:
    torch.manual_seed(0)
    model = surroundings.TrainingBranch()
    (x,) = model.inputs()
    assert not torch.allclose(model.train()(x), model.eval()(x))


def test_tied_linear_moves_when_the_columns_of_a_unit_are_cleared() -> None:
    """Why its site is protected: also a dead unit's columns carry a live signal."""
    torch.manual_seed(0)
    model = sharing.TiedLinear().eval()
    (x,) = model.inputs()
    with torch.no_grad():
        model.fc.bias[0] = -100
        before = model(x)
        model.tied.weight[:, 0] = 0
        assert not torch.allclose(model(x), before)

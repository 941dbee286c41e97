"""Activations that no PReLU equals: slopes by least squares, everything else proved before they are put in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from treated import UNTRAINED, dataset_of, equal, gaussian, output_of, untrained

from prelu_doctor import Training, Treatment, convert, load
from prelu_doctor.errors import UsageError
from prelu_doctor.treatment.conversion import Treated, treat
from prelu_doctor.treatment.prelu import AxisPReLU

ALL = ("relu", "relu6", "leaky_relu", "gelu", "silu", "hardswish")


class Conv(nn.Module):
    """SiLU behind a norm, in place; GELU as a function; hardswish on the last axis; a LeakyReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.SiLU(inplace=True)
        self.deep, self.fc, self.out = nn.Conv2d(4, 5, 3), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        x = F.gelu(self.deep(x), approximate="tanh").mean((2, 3))
        return self.out(F.leaky_relu(F.hardswish(self.fc(x)), 0.2))


class Encoder(nn.Module):
    def __init__(self, activation: object) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 10, batch_first=True, activation=activation)
        self.encoder, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(x).mean(1))


def fits_of(treated: Treated) -> dict[str, object]:
    return {change.site: change.fit for change in treated.changes}


def least_squares(x: np.ndarray, f: np.ndarray, axis: int | None) -> tuple[np.ndarray, float]:
    """The slow oracle: one `lstsq` a unit over all negative pre-activations, and the energy that is left."""
    rows = x.reshape(1, -1) if axis is None else np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    values = f.reshape(1, -1) if axis is None else np.moveaxis(f, axis, 0).reshape(f.shape[axis], -1)
    slopes = []
    for unit, value in zip(rows, values, strict=True):
        below = unit < 0
        slopes.append(np.linalg.lstsq(unit[below, None], value[below], rcond=None)[0][0])
    prelu = np.where(rows > 0, rows, np.array(slopes)[:, None] * rows)
    return np.array(slopes), float(((values - prelu) ** 2).sum() / (values**2).sum())


@torch.no_grad()
def test_slopes_and_misfit_are_those_of_a_slow_least_squares_over_all_batches():
    model, x = Conv().eval(), gaussian(50, 2, 8, 8)
    fits = fits_of(treat(model, dataset_of(x, batch_size=7), Treatment(activations=ALL, training=UNTRAINED)))
    first = model.norm(model.conv(x))
    second = model.deep(F.silu(first))
    third = model.fc(F.gelu(second, approximate="tanh").mean((2, 3)))
    expected = {
        "act": (first, F.silu(first)),
        ":gelu#1": (second, F.gelu(second, approximate="tanh")),
        ":hardswish#1": (third, F.hardswish(third)),
    }
    for site, (before, after) in expected.items():
        slopes, residual = least_squares(before.double().numpy(), after.double().numpy(), axis=1)
        assert np.allclose(fits[site].slopes.values, slopes, rtol=1e-4), site
        assert fits[site].residual == pytest.approx(residual, rel=1e-4), site
        assert fits[site].unseen == [unit for unit in range(before.shape[1]) if not bool((before[:, unit] < 0).any())]


def test_one_slope_serves_a_site_where_asked_for_and_is_fitted_to_all_of_it():
    model, x = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)), gaussian(40, 4)
    treated = untrained(model, x, activations=("gelu",), alpha_shape="site")
    with torch.no_grad():
        before = model[0](x).double()
    slopes, residual = least_squares(before.numpy(), F.gelu(before).numpy(), axis=None)
    fit = treated.changes[0].fit
    assert (fit.slopes.shape, fit.slopes.values) == ("site", pytest.approx(slopes, rel=1e-4))
    assert fit.residual == pytest.approx(residual, rel=1e-4)


@torch.no_grad()
def test_a_loop_over_time_steps_is_fitted_on_all_its_calls():
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step, self.act = nn.Linear(4, 4), nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.act(self.step(x))
            return x

    model, x = Loop().eval(), gaussian(30, 4)
    (change,) = untrained(model, x, activations=("silu",)).changes
    seen = []
    for _ in range(3):
        seen.append(model.step(x))
        x = F.silu(seen[-1])
    before = torch.cat(seen).double()
    assert change.fit.slopes.values == pytest.approx(
        least_squares(before.numpy(), F.silu(before).numpy(), axis=1)[0], rel=1e-4
    )


def test_a_unit_that_never_goes_negative_gets_a_slope_of_0_and_is_named():
    model = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].bias[1] = 100.0
    fit = untrained(model, gaussian(40, 4), activations=("gelu",)).changes[0].fit
    assert fit.unseen == [1]
    assert fit.slopes.values[1] == 0.0
    assert fit.slopes.values[0] > 0.0


def test_values_that_are_not_finite_do_not_spoil_a_fit():
    model, x = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)), gaussian(40, 4)
    clean = untrained(model, x, activations=("gelu",)).changes[0].fit
    spoilt = untrained(model, torch.cat([x, torch.full((1, 4), float("nan"))]), activations=("gelu",)).changes[0].fit
    assert spoilt.slopes.values == clean.slopes.values


def test_fitted_slopes_keep_to_the_range_that_was_asked_for():
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2))
    training = Training(steps=0, alpha_range=(0.0, 0.2))
    treated = treat(model, dataset_of(gaussian(40, 4)), Treatment(activations=("gelu",), training=training))
    assert treated.changes[0].fit.slopes.max == 0.2


def test_the_report_tells_how_far_the_output_moved_and_that_nothing_else_moved_it():
    model, x = Conv().eval(), gaussian(30, 2, 8, 8)
    treated = untrained(model, x, activations=ALL)
    old, new = output_of(model, x)[0], output_of(treated.model, x)[0]
    kept = treated.preservation
    assert (kept.promised, kept.equal) == (False, False)
    assert kept.max_change == pytest.approx(float((new - old).abs().max()))
    assert kept.rms_change == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-5)
    assert (treated.before_fitting.promised, treated.before_fitting.equal) == (True, True)


def test_prelus_stand_where_the_activations_stood_and_none_is_left():
    treated = untrained(Conv(), gaussian(30, 2, 8, 8), activations=ALL)
    assert [(site.id, site.function) for site in treated.after.sites] == [
        ("act", "prelu"), ("prelu_2", "prelu"), ("prelu_3", "prelu"), ("prelu_4", "prelu"),
    ]  # fmt: skip
    assert type(treated.model.act) is nn.PReLU
    assert type(treated.model.prelu_3) in (nn.PReLU, AxisPReLU)


def test_dead_relus_beside_a_gelu_are_revived_before_the_fit_without_moving_the_output():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 2)).eval()
    with torch.no_grad():
        model[0].bias[2] = -100.0
    treated = untrained(model, gaussian(400, 4), activations=("relu", "gelu"))
    assert treated.changes[0].revived == [2]
    assert treated.before_fitting.equal
    assert treated.changes[1].fit.residual < 0.3


def test_a_smooth_unit_is_never_dead():
    model = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        model[0].bias[1] = -100.0
    treated = untrained(model, gaussian(400, 4), activations=("gelu",))
    (site,) = treated.before.sites
    assert (site.function, site.dead, site.never_positive) == ("gelu", 0, 1)
    assert not treated.changes[0].revived


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.3), nn.Linear(6, 2)),
        nn.Sequential(nn.Conv1d(4, 6, 1), nn.LeakyReLU(0.01, inplace=True), nn.Flatten(), nn.Linear(6, 2)),
        nn.Sequential(nn.Linear(4, 6), nn.RReLU(0.1, 0.3), nn.Linear(6, 2)),
    ],
    ids=["linear", "convolution in place", "rrelu"],
)
def test_a_leaky_relu_keeps_its_slope_and_the_output(model):
    x = gaussian(30, 4, 1) if isinstance(model[0], nn.Conv1d) else gaussian(30, 4)
    model.eval()
    treated = untrained(model, x, activations=("leaky_relu",))
    assert (treated.preservation.promised, treated.preservation.equal) == (True, True)
    assert equal(output_of(treated.model, x), output_of(model, x))
    slope = 0.2 if isinstance(model[1], nn.RReLU) else model[1].negative_slope
    assert treated.model[1].weight.tolist() == pytest.approx([slope] * 6)


def test_a_leaky_relu_is_left_alone_unless_named():
    (change,) = untrained(nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU()), gaussian(30, 4)).changes
    assert change.declined == "leaky_relu has a negative side of its own already"


def test_a_relu_is_left_alone_where_others_are_named():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2))
    first, second = untrained(model, gaussian(30, 4), activations=("gelu",)).changes
    assert first.declined == "it is a relu, and --activations does not name it"
    assert second.fit


def test_half_precision_declines_a_leaky_relu_whose_slope_it_would_round():
    model = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.01), nn.Linear(6, 6), nn.LeakyReLU(0.25), nn.Linear(6, 2))
    rounded, exact = untrained(model.bfloat16(), gaussian(30, 4).bfloat16(), activations=("leaky_relu",)).changes
    assert rounded.declined == "the model's precision rounds its slope 0.01"
    assert not exact.declined


def test_nothing_is_fitted_to_noise():
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2))
    options = Treatment(activations=("gelu",), training=UNTRAINED)
    treated = treat(model, dataset_of(gaussian(30, 4), synthetic=True), options)
    assert "slopes are fitted on real samples only" in treated.changes[0].declined
    assert treated.preservation.equal


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(4, 6), nn.Hardtanh(0, 1), nn.Linear(6, 2)), (30, 4)),
        (nn.Sequential(nn.Conv2d(1, 6, 3), nn.Hardtanh(0, 20)), (30, 1, 5, 5)),
    ],
    ids=["ceiling 1", "ceiling 20"],
)
def test_a_relu_with_another_ceiling_becomes_a_prelu_with_that_ceiling(model, shape):
    x = 30 * gaussian(*shape)
    treated = untrained(model, x)
    assert treated.before.sites[0].function == "clamp"
    assert treated.model[1].ceiling == model[1].max_val
    assert treated.preservation.equal
    assert equal(output_of(treated.model, x), output_of(model.eval(), x))


@pytest.mark.parametrize("activation", ["gelu", nn.GELU(), F.silu], ids=["gelu", "nn.GELU", "F.silu"])
def test_a_transformer_is_converted_saved_exported_and_loaded(activation, tmp_path: Path):
    model, x = Encoder(activation).eval(), gaussian(40, 5, 6)
    conversion = convert(model, x, Treatment(activations=ALL, training=UNTRAINED))
    report = conversion.save(tmp_path / "a.safetensors", onnx=tmp_path / "a.onnx")
    assert [(bool(change.fit), change.declined) for change in report.changes] == [(True, "")] * 2
    assert report.before_fitting.equal
    assert report.parity.verdict == "healthy"
    loaded = load(Encoder(activation), tmp_path / "a.safetensors").eval()
    assert equal(output_of(loaded, x), output_of(conversion.model.eval(), x))
    assert not equal(output_of(loaded, x), output_of(model, x))


def test_a_mobilenet_keeps_its_hard_sigmoids_and_nothing_else():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.mobilenet_v3_small(num_classes=3)
    treated = untrained(model, gaussian(4, 3, 32, 32), activations=("relu", "hardswish"))
    assert not [change.declined for change in treated.changes if change.declined]
    assert {site.function for site in treated.before.sites} == {"relu", "hardswish"}
    assert {site.function for site in treated.after.sites} == {"prelu"}
    kinds = {type(module) for module in treated.model.modules()}
    assert nn.Hardsigmoid in kinds
    assert not kinds & {nn.Hardswish, nn.ReLU}
    assert treated.before_fitting.equal


def test_a_converted_file_tells_which_calls_were_numbered(tmp_path: Path):
    model, x = Conv().eval(), gaussian(30, 2, 8, 8)
    conversion = convert(model, x, Treatment(activations=("hardswish",), training=UNTRAINED))
    conversion.save(tmp_path / "a.safetensors")
    assert set(conversion.recipe.functions) >= {"relu", "relu6", "leaky_relu", "hardswish"}
    assert "gelu" not in conversion.recipe.functions
    loaded = load(Conv(), tmp_path / "a.safetensors").eval()
    assert equal(output_of(loaded, x), output_of(conversion.model.eval(), x))


class Branching(nn.Module):
    """No graph holds a branch on data: its calls are routed while the forward runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.first(x), approximate="tanh")
        if x.isnan().any():
            raise ValueError("not a number")
        return F.leaky_relu(F.silu(self.second(x)), negative_slope=0.3)


def test_calls_that_no_graph_can_hold_are_routed_and_come_back(tmp_path: Path):
    model, x = Branching().eval(), gaussian(40, 4)
    conversion = convert(model, x, Treatment(activations=ALL, training=UNTRAINED))
    conversion.save(tmp_path / "a.safetensors")
    assert {place.how for site in conversion.recipe.sites for place in site.places} == {"route"}
    assert [bool(change.fit) for change in conversion.report.changes] == [True, True, False]
    assert conversion.report.before_fitting.equal
    loaded = load(Branching(), tmp_path / "a.safetensors").eval()
    assert equal(output_of(loaded, x), output_of(conversion.model.eval(), x))


def test_an_activation_held_in_an_attribute_and_given_its_slope_is_rewritten_where_it_is_called():
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(4, 6), F.leaky_relu

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.fc(x), 0.3)

    treated = untrained(Held(), gaussian(30, 4), activations=("leaky_relu",))
    assert treated.changes[0].module == "prelu_1"
    assert treated.preservation.equal


def test_the_fine_tune_starts_from_the_fitted_slopes_and_never_keeps_worse():
    model = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 3)).eval()
    x = gaussian(300, 4)
    dataset = dataset_of(x[:240], held_out=(x[240:],))
    treated = treat(model, dataset, Treatment(activations=("gelu",), training=Training(steps=30)))
    tuned = treated.fine_tune
    assert (tuned.objective, tuned.original.loss) == ("distillation", 0.0)
    assert 0.0 < tuned.best.loss < tuned.start.loss


@pytest.mark.parametrize("names", [("bogus",), (), ("relu", "GELU"), ("",)])
def test_unknown_activations_are_refused_with_the_known_ones(names):
    with pytest.raises(UsageError, match="relu, relu6, leaky_relu, gelu, silu, hardswish"):
        Treatment(activations=names)


def test_one_slope_for_the_whole_net_is_refused_with_slopes_of_their_own():
    with pytest.raises(UsageError, match="--alpha-shape tied with --activations relu,gelu"):
        Treatment(activations=("relu", "gelu"), alpha_shape="tied")

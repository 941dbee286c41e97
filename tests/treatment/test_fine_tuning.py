"""The fine-tune: the best state is kept, slopes have rules of their own, and nothing else is disturbed."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from treated import dataset_of, gaussian, operated, same_state

from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.errors import DataError, ForwardError
from prelu_doctor.records import FineTune
from prelu_doctor.treatment.conversion import Treated, Treatment, treat
from prelu_doctor.treatment.fine_tuning import Training, fine_tune, slope_parameters
from prelu_doctor.treatment.training_set import TrainingSet

X = gaussian(160, 4)
Y = (X[:, 0] + X[:, 1] > 0).long() + (X[:, 2] > 0.5).long()
VALUES = torch.stack([X[:, 0].abs(), X[:, 1] * X[:, 2]], dim=1)


class Net(nn.Module):
    """With everything that a fine-tune may disturb: batch norm, dropout, an eval-mode part, a frozen part."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 16)
        self.norm = nn.BatchNorm1d(16)
        self.act = nn.ReLU()
        self.mid = nn.Linear(16, 16)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.fc(x)))
        return self.head(self.drop(F.relu(self.mid(x))))


def net(outputs: int = 3) -> Net:
    torch.manual_seed(0)
    return Net(outputs).eval()


def tuned(
    model: nn.Module, target: Tensor | None = Y, dataset: Dataset | None = None, alpha: float = 0.0, **options: object
) -> Treated:
    training = Training(**{"steps": 40, "lr": 1e-2, **options})  # type: ignore[arg-type]
    treatment = Treatment(alpha=alpha, reinit="none", training=training)
    return treat(model, dataset or dataset_of(X, target=target, batch_size=32), treatment)


def record_of(treated: Treated) -> FineTune:
    assert isinstance(treated.fine_tune, FineTune), treated.fine_tune
    return treated.fine_tune


def held_out_loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


def slopes_of(model: nn.Module) -> Tensor:
    prelus = [module for module in model.modules() if isinstance(module, nn.PReLU)]
    return torch.cat([prelu.weight.detach().flatten() for prelu in prelus])


class TestObjective:
    def test_labels_are_learned_and_counted(self) -> None:
        record = record_of(tuned(net()))
        assert record.objective == "cross-entropy"
        assert record.best.loss < 0.7 * record.start.loss
        assert record.best.accuracy > record.start.accuracy

    def test_values_are_regressed(self) -> None:
        record = record_of(tuned(net(2), target=VALUES))
        assert record.objective == "mean-squared-error"
        assert record.best.loss < 0.7 * record.start.loss
        assert record.best.accuracy is None

    def test_one_value_a_sample_fits_an_output_column(self) -> None:
        assert record_of(tuned(net(1), target=VALUES[:, 0])).objective == "mean-squared-error"

    def test_without_labels_the_original_is_the_teacher(self) -> None:
        model = net()
        treated = tuned(model, target=None, alpha=0.25)
        record = record_of(treated)
        assert record.objective == "distillation"
        assert record.original.loss == 0
        assert record.best.loss < 0.5 * record.start.loss

    def test_without_labels_an_equal_model_has_nothing_to_learn(self) -> None:
        assert "equals it already" in str(tuned(net(), target=None).fine_tune)

    def test_one_hot_labels_are_classes(self) -> None:
        hot, indices = record_of(tuned(net(), target=F.one_hot(Y, 3).float())), record_of(tuned(net()))
        assert hot.objective == "cross-entropy"
        assert hot.best.accuracy == indices.best.accuracy
        assert math.isclose(hot.best.loss, indices.best.loss, rel_tol=1e-4)

    @pytest.mark.parametrize("target", [(X[:, :1] > 0).float(), (X[:, 0] > 0).long(), (X[:, :1] > 0).long()])
    def test_labels_of_0_and_1_for_one_output_are_binary_classes(self, target: Tensor) -> None:
        record = record_of(tuned(net(outputs=1), target=target))
        assert record.objective == "binary-cross-entropy"
        assert record.best.loss < record.start.loss < 2
        assert record.best.accuracy > record.start.accuracy

    def test_a_model_that_gives_probabilities_is_taken_at_its_word(self) -> None:
        class Probable(Net):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x).softmax(1)

        torch.manual_seed(0)
        logits, probable = net(), Probable().eval()
        probable.load_state_dict(logits.state_dict())
        start, wanted = (record_of(tuned(model, steps=1)).start for model in (probable, logits))
        assert math.isclose(start.loss, wanted.loss, rel_tol=1e-4)
        assert start.accuracy == wanted.accuracy

    def test_labels_of_a_part_alone_are_no_labels(self) -> None:
        dataset = dataset_of(X, held_out=(X[:32],), held_out_target=Y[:32])
        assert record_of(tuned(net(), dataset=dataset, alpha=0.25)).objective == "distillation"

    @pytest.mark.parametrize("place", [0, 77, 159])
    @pytest.mark.parametrize("label", [3, -1])
    def test_a_label_out_of_range_is_refused_wherever_it_stands(self, place: int, label: int) -> None:
        target = Y.clone()
        target[place] = label
        with pytest.raises(DataError, match="for 3 classes"):
            tuned(net(), target=target)

    def test_the_class_that_torch_ignores_is_ignored(self) -> None:
        target = Y.clone()
        target[::2] = -100
        record = record_of(tuned(net(), target=target))
        assert record.best.accuracy > 0.8

    @pytest.mark.parametrize("target", [Y[:, None].expand(-1, 2), VALUES[:, :1]])
    def test_labels_of_another_shape_are_refused(self, target: Tensor) -> None:
        with pytest.raises(DataError, match="labels of shape"):
            tuned(net(), target=target)

    def test_small_integer_labels_serve_as_well(self) -> None:
        wide, narrow = (tuned(net(), target=target) for target in (Y, Y.to(torch.uint8)))
        assert same_state(wide.model, narrow.model)


class TestBestState:
    def test_the_reported_losses_are_those_of_the_models(self) -> None:
        x, y = X[:40], Y[:40]
        model = net()
        treated = tuned(model, dataset=dataset_of(X[40:], target=Y[40:], held_out=(x,), held_out_target=y))
        record = record_of(treated)
        assert record.original.loss == pytest.approx(held_out_loss(model, x, y), rel=1e-5)
        assert record.start.loss == record.original.loss
        assert record.best.loss == pytest.approx(held_out_loss(treated.model, x, y), rel=1e-5)
        assert record.best.accuracy == pytest.approx(float((treated.model(x).argmax(1) == y).float().mean()))

    @pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
    @pytest.mark.parametrize("lr", [1e-3, 0.3, 30.0])
    def test_the_result_is_never_worse_than_the_start(self, optimizer: str, lr: float) -> None:
        treated = tuned(net(), optimizer=optimizer, lr=lr)
        record = record_of(treated)
        assert record.best.loss <= record.start.loss
        assert (record.best_step == 0) == (record.best == record.start)

    def test_where_nothing_beats_the_start_the_start_is_kept_to_the_bit(self) -> None:
        model = net()
        treated = tuned(model, lr=1e4, optimizer="sgd")
        assert record_of(treated).best_step == 0
        state = treated.model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())

    def test_a_loss_that_is_not_finite_stops_and_keeps_the_best(self) -> None:
        steps: list[float] = []
        surgery, _ = operated(net(), X)
        record = fine_tune(
            surgery.model,
            net(),
            TrainingSet(dataset_of(X, target=Y, batch_size=32), 0),
            Training(steps=40, lr=1e30, optimizer="sgd"),
            progress=lambda step, of, loss: steps.append(loss),
        )
        assert isinstance(record, FineTune)
        assert len(steps) < 40
        assert not math.isfinite(steps[-1])
        assert all(tensor.isfinite().all() for tensor in surgery.model.state_dict().values())

    def test_a_start_that_is_not_finite_is_not_trained(self) -> None:
        model = net()
        with torch.no_grad():
            model.head.bias[0] = float("nan")
        assert "nan" in str(tuned(model).fine_tune)

    def test_the_same_seed_gives_the_same_bits_and_another_one_others(self) -> None:
        first, second, third = (tuned(net(), seed=seed) for seed in (0, 0, 1))
        assert same_state(first.model, second.model)
        assert first.fine_tune == second.fine_tune
        assert not same_state(first.model, third.model)

    def test_what_was_drawn_before_makes_no_difference(self) -> None:
        first = tuned(net())
        model = net()
        torch.rand(7)
        assert same_state(first.model, tuned(model).model)


class TestSlopes:
    def test_they_learn_at_a_rate_of_their_own(self) -> None:
        still = tuned(net(), alpha_lr=0.0)
        assert record_of(still).best_step > 0
        assert (slopes_of(still.model) == 0).all()
        slow, fast = (slopes_of(tuned(net(), alpha_lr=rate).model).abs().mean() for rate in (1e-3, 1e-1))
        assert fast > 5 * slow > 0

    def test_their_rate_is_ten_times_the_weights_unless_said(self) -> None:
        assert same_state(tuned(net(), lr=1e-2).model, tuned(net(), lr=1e-2, alpha_lr=1e-1).model)

    @pytest.mark.parametrize("bounds", [(0.0, 1.0), (-0.01, 0.01)])
    def test_they_are_kept_within_their_range(self, bounds: tuple[float, float]) -> None:
        free = slopes_of(tuned(net(), alpha_lr=1e-1).model)
        assert free.min() < bounds[0]
        kept = slopes_of(tuned(net(), alpha_lr=1e-1, alpha_range=bounds).model)
        assert bounds[0] <= kept.min()
        assert kept.max() <= bounds[1]

    @pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
    def test_after_freezing_they_do_not_move_by_a_bit(self, optimizer: str) -> None:
        seen: list[Tensor] = []
        surgery, _ = operated(net(), X)
        fine_tune(
            surgery.model,
            net(),
            TrainingSet(dataset_of(X, target=Y, batch_size=32), 0),
            Training(
                steps=20,
                optimizer=optimizer,
                freeze_alpha_after=7,
                alpha_weight_decay=0.1,  # type: ignore[arg-type]
            ),
            progress=lambda step, of, loss: seen.append(slopes_of(surgery.model)),
        )
        assert len(seen) == 20
        assert not torch.equal(seen[5], seen[6])
        assert all(torch.equal(slopes, seen[6]) for slopes in seen[7:])
        assert all(slope.requires_grad for slope in slope_parameters(surgery.model))

    def test_frozen_from_the_start_they_stay_0_and_the_weights_learn(self) -> None:
        treated = tuned(net(), freeze_alpha_after=0)
        assert record_of(treated).best_step > 0
        assert (slopes_of(treated.model) == 0).all()

    def test_their_weight_decay_touches_nothing_else(self) -> None:
        plain, decayed = (self.after_one_step(alpha_weight_decay=decay) for decay in (0.0, 0.5))
        for name in plain:
            is_slope = name in ("act.weight", "prelu_2.weight")
            assert torch.equal(plain[name], decayed[name]) != is_slope, name
            if is_slope:
                assert torch.allclose(decayed[name], plain[name] - 0.1 * 0.5 * 0.25, atol=1e-6)

    @staticmethod
    def after_one_step(**options: float) -> dict[str, Tensor]:
        """The parameters after a step of gradient descent, slopes from 0.25 on at a rate of 0.1."""
        surgery, _ = operated(net(), X)
        for slope in slope_parameters(surgery.model):
            nn.init.constant_(slope, 0.25)
        seen: list[dict[str, Tensor]] = []
        fine_tune(
            surgery.model,
            net(),
            TrainingSet(dataset_of(X, target=Y, batch_size=32), 0),
            Training(steps=1, optimizer="sgd", alpha_lr=0.1, **options),  # type: ignore[arg-type]
            progress=lambda *_: seen.append({n: p.detach().clone() for n, p in surgery.model.named_parameters()}),
        )
        return seen[0]

    def test_a_users_own_frozen_prelu_stays_frozen_and_unclamped(self) -> None:
        model = nn.Sequential(nn.Linear(4, 8), nn.PReLU(8, init=0.7), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        model[1].requires_grad_(False)
        treated = tuned(model, alpha_range=(0.0, 0.1))
        assert (treated.model[1].weight == 0.7).all()
        assert not treated.model[1].weight.requires_grad


class TestControl:
    def test_where_the_treatment_changes_nothing_the_control_ends_at_the_same_bits(self) -> None:
        record = record_of(tuned(net(), freeze_alpha_after=0))
        assert record.best_step > 0
        assert record.control == record.best

    def test_it_trains_a_copy(self) -> None:
        model = net()
        assert record_of(tuned(model)).control is not None
        assert same_state(model, net())

    def test_it_may_be_left_out(self) -> None:
        assert record_of(tuned(net(), control=False)).control is None

    def test_against_its_own_teacher_it_has_nothing_to_learn(self) -> None:
        assert record_of(tuned(net(), target=None, alpha=0.25)).control is None


class TestDisturbance:
    def test_flags_of_modules_and_parameters_and_leftover_gradients(self) -> None:
        model = net()
        model.drop.train()
        model.fc.requires_grad_(False)
        frozen = model.fc.weight.clone()
        treated = tuned(model)
        assert record_of(treated).best_step > 0
        assert [name for name, module in treated.model.named_modules() if module.training] == ["drop"]
        assert torch.equal(treated.model.fc.weight, frozen)
        assert not treated.model.fc.weight.requires_grad
        assert treated.model.mid.weight.requires_grad
        assert all(parameter.grad is None for parameter in treated.model.parameters())

    def test_a_model_without_anything_to_train_is_left_alone(self) -> None:
        model = nn.Sequential(nn.Linear(4, 8), nn.PReLU(8), nn.Linear(8, 3)).requires_grad_(False)
        assert tuned(model).fine_tune == "all parameters are frozen"
        assert tuned(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))).fine_tune == "no site was converted"
        training_set = TrainingSet(dataset_of(X, target=Y), seed=0)
        assert fine_tune(model, model, training_set, Training(steps=1)) == "all parameters are frozen"

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_interruption_restores_flags_and_leaves_the_best_state(self, error: type[BaseException]) -> None:
        surgery, _ = operated(net(), X)
        model, original = surgery.model, net()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.drop.train()

        def interrupt(step: int, of: int, loss: float) -> None:
            if step == 30:
                raise error("stop")

        state = torch.get_rng_state()
        training_set = TrainingSet(dataset_of(X, target=Y, batch_size=32), 0)
        with pytest.raises(error):
            fine_tune(model, original, training_set, Training(steps=1000, freeze_alpha_after=3), progress=interrupt)
        assert [name for name, module in model.named_modules() if module.training] == ["drop"]
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert same_state(original, net())
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_forward_that_raises_in_train_mode_is_told_and_everything_restored(self) -> None:
        class EvalOnly(Net):
            def forward(self, x: Tensor) -> Tensor:
                x = self.act(self.norm(self.fc(x)))
                if self.training:
                    raise NotImplementedError("no training here")
                return self.head(x)

        model = EvalOnly().eval()
        surgery, _ = operated(model, X)
        training_set = TrainingSet(dataset_of(X, target=Y), 0)
        with pytest.raises(ForwardError, match="no training here"):
            fine_tune(surgery.model, model, training_set, Training(steps=3))
        assert not any(module.training for module in surgery.model.modules())

    def test_a_model_without_a_way_back_is_told(self) -> None:
        class Detached(Net):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x).detach()

        with pytest.raises(ForwardError, match="gradient"):
            tuned(Detached().eval())


class TestSteps:
    @pytest.mark.parametrize(("epochs", "steps"), [(0.5, 2), (1.0, 4), (1.3, 6), (2, 8)])
    def test_epochs_may_be_fractions(self, epochs: float, steps: int) -> None:
        record = record_of(tuned(net(), steps=None, epochs=epochs))
        assert record.steps == steps
        assert record.epochs == steps / 4

    @pytest.mark.parametrize("options", [{"steps": 0}, {"steps": None, "epochs": 0}])
    def test_none_are_none(self, options: dict[str, object]) -> None:
        assert tuned(net(), **options).fine_tune == "no training was asked for"

    def test_steps_count_whatever_the_epochs_say(self) -> None:
        assert record_of(tuned(net(), steps=3, epochs=0)).steps == 3

    @pytest.mark.parametrize("samples", [41, 42])
    def test_a_last_batch_of_one_sample_does_not_stop_a_batch_norm(self, samples: int) -> None:
        x, y = X[:samples], Y[:samples]
        dataset = dataset_of(x, target=y, held_out=(X[100:],), held_out_target=Y[100:], batch_size=20)
        record = record_of(tuned(net(), dataset=dataset, steps=None, epochs=2))
        assert record.best.loss < record.start.loss

    def test_batches_of_one_sample_train_a_model_without_batch_norm(self) -> None:
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        record = record_of(tuned(model, dataset=dataset_of(X[:10], target=Y[:10], batch_size=1), steps=12))
        assert record.steps == 12

    def test_batches_of_one_sample_are_told_where_a_batch_norm_cannot_take_them(self) -> None:
        with pytest.raises(ForwardError, match="Expected more than 1 value"):
            tuned(net(), dataset=dataset_of(X[:10], target=Y[:10], batch_size=1), steps=12)

    def test_a_single_sample_is_not_trained_on(self) -> None:
        assert "hold out" in str(tuned(net(), dataset=dataset_of(X[:1], target=Y[:1])).fine_tune)

    def test_samples_of_several_shapes_are_told(self) -> None:
        model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))
        batches = [Batch(args=(gaussian(4, 2, length),), target=Y[:4]) for length in (7, 9)]
        dataset = Dataset(source="test", synthetic=False, seed=0, scanned=lambda: iter(batches))
        with pytest.raises(DataError, match="different shapes"):
            tuned(model, dataset=dataset)
        assert tuned(model, dataset=dataset, steps=0).fine_tune == "no training was asked for"


class TestTrainingSet:
    def test_an_epoch_sees_every_sample_once_in_a_new_order(self) -> None:
        x = torch.arange(64.0)[:, None]
        training_set = TrainingSet(dataset_of(x, held_out=(x[:1],), batch_size=16), seed=0)
        epochs = [torch.cat([batch.args[0] for batch in training_set.epoch()]).flatten().tolist() for _ in range(2)]
        assert sorted(epochs[0]) == sorted(epochs[1]) == x.flatten().tolist()
        assert epochs[0] != epochs[1]

    def test_a_fifth_is_held_out_and_never_trained_on(self) -> None:
        x = torch.arange(100.0)[:, None]
        training_set = TrainingSet(dataset_of(x, target=torch.arange(100), batch_size=16), seed=0)
        held_out = torch.cat([batch.args[0] for batch in training_set.held_out]).flatten().tolist()
        trained = torch.cat([batch.args[0] for batch in training_set.epoch()]).flatten().tolist()
        assert len(held_out) == 20
        assert sorted(held_out + trained) == x.flatten().tolist()

    def test_labels_stay_with_their_samples(self) -> None:
        x = torch.arange(100.0)[:, None]
        training_set = TrainingSet(dataset_of(x, target=torch.arange(100), batch_size=16), seed=0)
        assert all(torch.equal(batch.args[0][:, 0].long(), batch.target) for batch in training_set.epoch())

"""The library on modules in memory: it prints nothing, and leaves the model as it was."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from prelu_doctor import Training, Treatment, check_parity, convert, export_onnx, load, open_patient, scan
from prelu_doctor.errors import CheckpointError, DataError, DoctorError, ForwardError, UsageError
from prelu_doctor.reports.formats import Format, written

SAMPLES = 400
DEAD = [2, 5]
BRIEF = Treatment(training=Training(steps=10))


@pytest.fixture
def net() -> nn.Sequential:
    """A net in train mode, so that its mode, its norm's statistics and its dropout are there to be disturbed."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8),
        nn.ReLU(inplace=True), nn.Linear(8, 3),
    )  # fmt: skip
    with torch.no_grad():
        model[1].bias[DEAD] = -50
    model[4].eval()
    model[0].weight.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def y(x: Tensor) -> Tensor:
    return x[:, :3].argmax(1)


@pytest.fixture
def untouched(capfd) -> Iterator[Callable[[nn.Module], None]]:
    """Takes note of a model; at the end of the test nothing about it has changed and nothing was printed."""
    watched: list[tuple[nn.Module, dict]] = []
    random_state = torch.get_rng_state()
    yield lambda model: watched.append((model, observed(model)))
    for model, before in watched:
        after = observed(model)
        assert after.keys() == before.keys()
        assert [name for name in before if not same(before[name], after[name])] == []
    assert torch.equal(torch.get_rng_state(), random_state)
    assert tuple(capfd.readouterr()) == ("", "")


def observed(model: nn.Module) -> dict:
    return {
        "state": copy.deepcopy(model.state_dict()),
        "identities": [id(tensor) for tensor in model.state_dict(keep_vars=True).values()],
        "gradients": [(p.requires_grad, p.grad is None) for p in model.parameters()],
        "classes": [type(module) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "hooks": [
            len(hooks) for module in model.modules() for name, hooks in vars(module).items() if name.endswith("_hooks")
        ],
    }


def same(before, after) -> bool:
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return before == after


FORMS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "tensor": lambda x, y: x,
    "double precision": lambda x, y: x.double(),
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=50),
    "shuffling loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True),
    "dataset": TensorDataset,
    "list of pairs": lambda x, y: list(zip(x.split(64), y.split(64), strict=True)),
    "list of inputs": lambda x, y: list(x.split(64)),
    "generator": lambda x, y: (batch for batch in x.split(64)),
    "NumPy arrays": lambda x, y: [np.asarray(batch) for batch in x.split(64)],
    "one batch in a list": lambda x, y: [(x, y)],
    "dictionaries": lambda x, y: [{"input": x, "labels": y}],
}


@pytest.mark.parametrize("form", FORMS)
def test_samples_in_every_form_give_the_same_scan(net, x, y, untouched, form):
    expected = scan(copy.deepcopy(net), x).sites
    untouched(net)
    report = scan(net, FORMS[form](x, y))
    assert report.sites == expected
    assert report.sites[0].dead_units == DEAD
    assert (report.data.samples, report.data.synthetic) == (SAMPLES, False)
    assert (report.model.kind, report.model.path, report.model.sha256) == ("in-memory", "", "")


def test_a_scan_without_data_is_synthetic(net, untouched):
    untouched(net)
    report = scan(net)
    assert (report.data.synthetic, report.verdict) == (True, "undecided")
    assert scan(net, seed=3).sites != report.sites


def test_a_scan_of_data_spec_and_checkpoint_is_a_scan_of_what_is_in_them(net, x, tmp_path, untouched):
    torch.save(net, tmp_path / "net.pt")
    np.save(tmp_path / "x.npy", x.numpy())
    untouched(net)
    for path, data in ((tmp_path / "net.pt", tmp_path / "x.npy"), (str(tmp_path / "net.pt"), str(tmp_path / "x.npy"))):
        assert scan(path, data).sites == scan(net, x).sites
    assert scan(open_patient(net), x) == scan(net, x)


def test_progress_is_told_to_the_caller(net, x):
    told: list[tuple[str, int]] = []
    scan(net, list(x.split(200)), phase=lambda name, done, of, loss: told.append((name, done)))
    assert told == [("scanning", 200), ("scanning", 400)]


def test_a_conversion_works_on_a_copy_with_the_same_outputs(net, x, untouched):
    untouched(net)
    conversion = convert(net, x, Treatment(training=Training(steps=0)))
    assert [type(module) for module in conversion.model.modules()].count(nn.PReLU) == 2
    assert conversion.report.changes[0].revived == DEAD
    assert conversion.report.preservation.equal
    shared = {tensor.data_ptr() for tensor in net.state_dict().values()}
    assert shared.isdisjoint(
        tensor.data_ptr() for tensor in conversion.model.state_dict().values() if tensor.numel() > 1
    )
    with torch.no_grad():
        assert torch.equal(conversion.model.eval()(x), copy.deepcopy(net).eval()(x))


def test_a_conversion_trains_on_labels(net, x, y, untouched):
    untouched(net)
    report = convert(net, [(x, y)], BRIEF).report
    assert report.fine_tune is not None
    assert (report.fine_tune.objective, report.fine_tune.steps) == ("cross-entropy", 10)


def test_a_conversion_repeats_itself_also_with_a_shuffling_loader(net, x, y):
    def weights() -> dict[str, Tensor]:
        return convert(net, DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True), BRIEF).model.state_dict()

    torch.manual_seed(1)
    first = weights()
    torch.manual_seed(2)
    second = weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_conversion_on_noise_revives_and_trains_nothing(net, untouched):
    untouched(net)
    report = convert(net, None).report
    assert (report.changes[0].revived, report.fine_tune) == ([], None)


def test_a_saved_conversion_is_loaded_into_a_fresh_model(net, x, tmp_path, untouched):
    fresh = copy.deepcopy(net)
    untouched(net)
    untouched(fresh)
    conversion = convert(net, x, BRIEF)
    for name in ("healed.safetensors", "healed.pt"):
        report = conversion.save(tmp_path / name)
        assert report.files[0] == str(tmp_path / name)
        for source in (fresh, lambda: copy.deepcopy(fresh)):
            loaded = load(source, tmp_path / name).eval()
            with torch.no_grad():
                assert torch.equal(loaded(x), conversion.model.eval()(x))


def test_saving_replaces_nothing_unless_forced(net, x, tmp_path):
    conversion = convert(net, x, Treatment(training=Training(steps=0)))
    conversion.save(tmp_path / "healed.safetensors")
    with pytest.raises(UsageError, match="exists"):
        conversion.save(tmp_path / "healed.safetensors")
    conversion.save(tmp_path / "healed.safetensors", force=True)


def test_a_conversion_never_writes_over_its_checkpoint(net, x, tmp_path):
    torch.save(net, tmp_path / "net.pt")
    before = (tmp_path / "net.pt").read_bytes()
    conversion = convert(tmp_path / "net.pt", x, Treatment(training=Training(steps=0)))
    with pytest.raises(UsageError, match="is also an input"):
        conversion.save(tmp_path / "net.pt", force=True)
    assert (tmp_path / "net.pt").read_bytes() == before


def test_an_export_is_proved_and_found_equal_again(net, x, tmp_path, untouched):
    untouched(net)
    proof = export_onnx(net, tmp_path / "net.onnx", x)
    assert (proof.verdict, proof.onnx_path) == ("healthy", str(tmp_path / "net.onnx"))
    assert check_parity(net, tmp_path / "net.onnx", x).verdict == "healthy"
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[6].bias += 1
    assert check_parity(other, str(tmp_path / "net.onnx"), x).verdict == "findings"
    with pytest.raises(UsageError, match="exists"):
        export_onnx(net, tmp_path / "net.onnx", x)


class LoopsOverSamples(nn.Module):
    """Its export cannot leave the batch axis open."""

    def forward(self, x):
        return torch.stack([torch.relu(row - 1) for row in x])


class BranchesOnTheBatch(nn.Module):
    """Its export leaves the batch axis open and holds the other branch."""

    def forward(self, x):
        return x * 2 if x.shape[0] == 1 else x * 3


class TakesThreeOrSix(nn.Module):
    """Neither one sample nor two."""

    def forward(self, x):
        return x.reshape(3, -1, *x.shape[1:]).sum(1)


@pytest.mark.parametrize(
    ("model", "size", "why"),
    [
        (LoopsOverSamples(), 1, "ValueError: .* static shape of 2"),
        (BranchesOnTheBatch(), 1, r"exported for any batch size, it differs from the model at 1 \(scaled error 0.5\)"),
        (TakesThreeOrSix(), 6, "the model's forward raised RuntimeError: shape"),
    ],
)
def test_a_forward_that_fixes_the_batch_size_is_proved_at_one_size_and_the_proof_says_why(tmp_path, model, size, why):
    batches = [torch.randn(6, 4, generator=torch.Generator().manual_seed(0))]
    proof = export_onnx(model, tmp_path / "m.onnx", batches)
    assert (proof.verdict, proof.fixed_batch) == ("healthy", size)
    assert re.match(why, proof.fixed_because)
    again = check_parity(model, tmp_path / "m.onnx", batches)
    assert (again.verdict, again.fixed_batch, again.fixed_because) == ("healthy", size, "")


def test_the_proof_of_a_conversion_says_that_the_batch_size_is_fixed(tmp_path):
    batches = [torch.randn(6, 4, generator=torch.Generator().manual_seed(0))]
    conversion = convert(LoopsOverSamples(), batches, Treatment(training=Training(steps=0)))
    report = conversion.save(tmp_path / "m.safetensors", onnx=tmp_path / "m.onnx")
    assert report.parity.fixed_batch == 1
    assert "this file takes batches of 1 alone: ValueError" in re.sub(r"\s+", " ", written(report, Format.TEXT))


def test_a_converted_checkpoint_is_converted_again_and_both_surgeries_are_repeated(tmp_path):
    torch.manual_seed(0)
    both = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.LeakyReLU(0.125), nn.Linear(5, 2))
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(1))
    untrained = Training(steps=0)
    torch.save(both, tmp_path / "net.pt")
    convert(both, x, Treatment(training=untrained)).save(tmp_path / "once.safetensors")
    once = open_patient(tmp_path / "once.safetensors", arch=str(tmp_path / "net.pt"))
    assert [type(layer).__name__ for layer in once.module] == ["Linear", "PReLU", "Linear", "LeakyReLU", "Linear"]
    conversion = convert(once, x, Treatment(activations=("leaky_relu",), training=untrained))
    assert conversion.report.preservation.equal
    conversion.save(tmp_path / "twice.safetensors")
    fresh = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.LeakyReLU(0.125), nn.Linear(5, 2))
    twice = load(fresh, tmp_path / "twice.safetensors")
    assert [type(layer).__name__ for layer in twice] == ["Linear", "PReLU", "Linear", "PReLU", "Linear"]
    assert torch.equal(twice.eval()(x), both.eval()(x))


@pytest.mark.parametrize(
    "options",
    [Treatment(alpha=float("nan")), Treatment(training=Training(lr=float("inf"))),
     Treatment(training=Training(alpha_range=(0.0, float("nan"))))],
)  # fmt: skip
def test_options_that_are_no_numbers_are_refused(net, x, options):
    with pytest.raises(UsageError, match="a finite number"):
        convert(net, x, options)


UNUSABLE: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a pair of tensors, which could be two batches": lambda x, y: (x, y),
    "a dictionary": lambda x, y: {"input": x},
    "a number": lambda x, y: 3,
    "a tensor without axes": lambda x, y: torch.tensor(1.0),
    "no batches": lambda x, y: [],
    "no samples": lambda x, y: x[:0],
    "text batches": lambda x, y: [["a", "b"]],
    "different lengths": lambda x, y: [(x, y[:3])],
}


@pytest.mark.parametrize("form", UNUSABLE)
def test_unusable_samples_are_refused(net, x, y, untouched, form):
    untouched(net)
    with pytest.raises(DataError):
        scan(net, UNUSABLE[form](x, y))


def test_a_forward_that_raises_is_told_and_leaves_the_model_as_it_was(net, untouched):
    untouched(net)
    with pytest.raises(ForwardError, match="cannot be multiplied"):
        scan(net, torch.zeros(10, 7))
    for work in (convert, lambda model, data: export_onnx(model, Path("x.onnx"), data)):
        with pytest.raises(DoctorError):
            work(net, torch.zeros(10, 7))


def test_a_file_without_a_recipe_is_not_loaded(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match="no recipe"):
        load(net, tmp_path / "plain.pt")

"""The whole treatment of the fixtures, from a checkpoint to proved files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from treated import FIXTURES, UNTRAINED, dataset_of, gaussian, same_state

import prelu_doctor
from prelu_doctor.data.batches import Batch
from prelu_doctor.deployment import onnx_file
from prelu_doctor.doctor import Conversion, convert
from prelu_doctor.errors import BrokenPromiseError
from prelu_doctor.patient import open_patient
from prelu_doctor.records import FineTune
from prelu_doctor.treatment.conversion import Treatment, treat
from prelu_doctor.treatment.fine_tuning import Training

DIGITS = FIXTURES / "digits.safetensors"
ARCH = {"dying_cnn.pt": None, "dying_resnet.pt": f"{FIXTURES / 'nets.py'}:dying_resnet"}
SOME_STEPS = Training(steps=30)


def healed(name: str, **options: object) -> Conversion:
    patient = open_patient(FIXTURES / name, arch=ARCH[name], device="cpu")
    return convert(patient, DIGITS, Treatment(**{"training": SOME_STEPS, **options}))


@pytest.fixture(scope="module")
def conversions() -> dict[str, Conversion]:
    return {name: healed(name) for name in ARCH}


@pytest.mark.parametrize("name", ARCH)
def test_no_dead_unit_is_left_but_those_that_were_declined(conversions: dict[str, Conversion], name: str) -> None:
    report = conversions[name].report
    dead = {site.id: set(site.dead_units) for site in report.before.sites}
    assert sum(map(len, dead.values())) == report.before.totals.dead > 0
    for change, site in zip(report.changes, report.after.sites, strict=True):
        declined = {unit for units in change.declined_units for unit in units.units}
        assert dead[change.site] == set(change.revived) | declined
        assert not declined & set(change.revived)
        assert all(units.reason for units in change.declined_units)
        assert set(site.dead_units) <= declined
        assert site.function == "prelu"
        assert change.module
        assert change.declined == ""


def test_the_dead_units_are_those_that_were_planted(conversions: dict[str, Conversion]) -> None:
    dead = {site.id: set(site.dead_units) for site in conversions["dying_resnet.pt"].report.before.sites}
    planted = json.loads((FIXTURES / "dying_resnet.json").read_text())
    assert all(entry["unit"] in dead[entry["site"]] for entry in planted)


@pytest.mark.parametrize("name", ARCH)
def test_the_output_did_not_move_and_the_loss_got_no_worse(conversions: dict[str, Conversion], name: str) -> None:
    report = conversions[name].report
    kept, tuned = report.preservation, report.fine_tune
    assert kept.promised
    assert kept.samples == sum(len(tensor) for key, tensor in load_file(DIGITS).items() if key.startswith("x"))
    assert kept.equal or kept.max_change <= 1e-6 * kept.scale
    assert isinstance(tuned, FineTune)
    assert tuned.start.loss == pytest.approx(tuned.original.loss, rel=1e-5)
    assert tuned.best.loss <= tuned.start.loss
    assert tuned.start.accuracy == tuned.original.accuracy


@pytest.mark.parametrize("name", ARCH)
def test_the_files_are_proved_equal_and_come_back(
    conversions: dict[str, Conversion], name: str, tmp_path: Path
) -> None:
    conversion = conversions[name]
    report = conversion.save(tmp_path / "healed.safetensors", onnx=tmp_path / "healed.onnx")
    assert report.parity.verdict == "healthy"
    assert [Path(file).name for file in report.files] == ["healed.safetensors", "healed.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["healed.onnx", "healed.safetensors"]
    original = open_patient(FIXTURES / name, arch=ARCH[name], device="cpu").module
    loaded = prelu_doctor.load(original, tmp_path / "healed.safetensors").eval()
    x = load_file(DIGITS)["x_val"]
    assert same_state(loaded, conversion.model)
    assert torch.equal(loaded(x), conversion.model.eval()(x))


def test_the_same_seed_gives_the_same_model_and_report(conversions: dict[str, Conversion]) -> None:
    again = healed("dying_cnn.pt")
    assert same_state(again.model, conversions["dying_cnn.pt"].model)
    assert again.report == conversions["dying_cnn.pt"].report
    assert again.recipe == conversions["dying_cnn.pt"].recipe


def test_the_checkpoint_is_never_changed(conversions: dict[str, Conversion], tmp_path: Path) -> None:
    patient = open_patient(FIXTURES / "dying_cnn.pt", device="cpu")
    before = {name: tensor.clone() for name, tensor in patient.module.state_dict().items()}
    bytes_before = (FIXTURES / "dying_cnn.pt").read_bytes()
    convert(patient, DIGITS, Treatment(training=SOME_STEPS)).save(tmp_path / "healed.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in patient.module.state_dict().items())
    assert (FIXTURES / "dying_cnn.pt").read_bytes() == bytes_before


def test_an_export_that_is_another_function_leaves_no_file_behind(
    conversions: dict[str, Conversion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = onnx_file.export_onnx

    def with_one_slope_changed(model: nn.Module, example: object, path: Path, **options: object) -> onnx_file.OnnxFile:
        made = export(model, example, path, **options)
        stored = onnx.load(path)
        names = {node.input[1] for node in stored.graph.node if node.op_type == "PRelu"}
        slope = next(tensor for tensor in stored.graph.initializer if tensor.name in names)
        values = numpy_helper.to_array(slope).copy()
        values[(0,) * values.ndim] += np.float32(0.5)
        slope.CopyFrom(numpy_helper.from_array(values, slope.name))
        onnx.save(stored, path)
        return made

    monkeypatch.setattr(onnx_file, "export_onnx", with_one_slope_changed)
    old = tmp_path / "healed.safetensors"
    old.write_bytes(b"an older file")
    with pytest.raises(BrokenPromiseError, match="differs from the model"):
        conversions["dying_cnn.pt"].save(old, onnx=tmp_path / "healed.onnx", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["healed.safetensors"]
    assert old.read_bytes() == b"an older file"


def test_an_export_that_raises_leaves_no_file_behind(
    conversions: dict[str, Conversion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPromiseError("cannot be exported")

    monkeypatch.setattr(onnx_file, "export_onnx", broken)
    with pytest.raises(BrokenPromiseError):
        conversions["dying_cnn.pt"].save(tmp_path / "healed.pt", onnx=tmp_path / "healed.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_data_nothing_is_revived_and_nothing_trained() -> None:
    patient = open_patient(FIXTURES / "dying_cnn.pt", device="cpu")
    report = convert(patient, None).report
    assert report.before.data.synthetic
    assert report.fine_tune is None
    assert report.not_trained == "the data is synthetic"
    assert report.preservation.equal
    assert not any(change.revived for change in report.changes)
    assert any(change.declined_units for change in report.changes)
    assert all("synthetic" in units.reason for change in report.changes for units in change.declined_units)


def test_the_phases_are_told_in_their_order() -> None:
    told: list[str] = []
    patient = open_patient(FIXTURES / "dying_cnn.pt", device="cpu")
    convert(patient, DIGITS, Treatment(training=SOME_STEPS), phase=lambda name, *_: told.append(name))
    phases = ["scanning", "reviving dead units", "fine-tuning", "control", "scanning the result"]
    assert list(dict.fromkeys(told)) == phases
    assert told.count("fine-tuning") == 30


def test_a_revival_that_moves_the_output_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from prelu_doctor.treatment import revival_plan

    monkeypatch.setattr(revival_plan, "_cut", lambda columns, graph: iter(()))
    report = healed("dying_cnn.pt", training=UNTRAINED).report
    assert report.preservation.equal
    assert all("moved the output" in change.declined_units[0].reason for change in report.changes)


def test_a_site_whose_revival_moves_the_output_is_given_up_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from prelu_doctor.treatment import revival_plan

    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)]
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for layer in (0, 2, 4):
            model[layer].bias[1] = -100.0
    cut = revival_plan._cut
    leaky = lambda columns, graph: iter(()) if columns.layer.name == "4" else cut(columns, graph)  # noqa: E731
    monkeypatch.setattr(revival_plan, "_cut", leaky)
    treated = treat(model, dataset_of(gaussian(600, 4)), Treatment(training=UNTRAINED))
    assert [1 in change.revived for change in treated.changes] == [True, False, True]
    assert treated.changes[1].revived == []
    assert "moved the output" in treated.changes[1].declined_units[0].reason
    assert treated.preservation.equal
    state = treated.model.state_dict()
    assert torch.equal(state["2.weight"][1], model[2].weight[1] * torch.tensor([1.0, 0, 1, 1, 1, 1, 1, 1]))
    assert torch.equal(state["3.weight"], torch.zeros(8))
    assert state["5.weight"][1] == 0.25


def test_a_site_whose_prelu_moves_the_output_keeps_its_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    from prelu_doctor.treatment import slopes

    build = slopes.build_prelu
    monkeypatch.setattr(slopes, "build_prelu", lambda shape, slope, like: build(shape, 0.25, like))
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    treated = treat(model, dataset_of(gaussian(8, 4)), Treatment(training=UNTRAINED))
    assert "a PReLU in its place moves the output" in treated.changes[0].declined
    assert treated.preservation.equal


class LateBranch(nn.Module):
    """A second activation, on the batches whose first number is large alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second, self.late = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU()
        self.third = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.act(self.first(x))
        return self.third(self.late(self.second(hidden))) if x[0, 0] > 50 else hidden


def test_a_site_that_the_first_samples_do_not_reach_is_converted_but_none_of_its_units_is_revived() -> None:
    torch.manual_seed(0)
    x = gaussian(1024, 4)
    x[64::64, 0] = 100.0
    model = LateBranch().eval()
    with torch.no_grad():
        model.second.bias[2] = -1e6
    treated = treat(model, dataset_of(x), Treatment(training=UNTRAINED))
    assert [change.module for change in treated.changes] == ["act", "late"]
    assert treated.changes[1].revived == []
    assert any("first samples" in units.reason for units in treated.changes[1].declined_units)
    assert treated.preservation.equal


class SelectiveHead(nn.Module):
    """A head that acts on the chosen rows alone, as a detector's does: on none of them at first."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.activation = activation

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(x)
        chosen = features[x[:, 0] > 50]
        for layer in self.layers:
            chosen = self.activation(layer(chosen)) if self.activation else functional.relu(layer(chosen))
        return features, chosen


@pytest.mark.parametrize("activation", [nn.ReLU(), None], ids=["module", "function"])
def test_a_head_that_gets_an_empty_batch_at_first_is_converted(activation: nn.Module | None) -> None:
    torch.manual_seed(0)
    x = gaussian(512, 4)
    x[64::64, 0] = 100.0
    treated = treat(SelectiveHead(activation).eval(), dataset_of(x), Treatment(training=UNTRAINED))
    assert [change.declined for change in treated.changes] == ["", ""]
    assert treated.before.unresolved == []
    assert treated.preservation.equal


def test_a_head_that_never_gets_anything_is_told() -> None:
    treated = treat(SelectiveHead(nn.ReLU()).eval(), dataset_of(gaussian(512, 4)), Treatment(training=UNTRAINED))
    assert treated.changes == []
    assert [("empty batch" in entry.reason) for entry in treated.before.unresolved] == [True, True]


def test_nan_in_the_data_is_no_evidence_of_death() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[0].bias[:2] = -100.0
    x = gaussian(512, 4)
    x[3, 1] = float("nan")
    (change,) = treat(model, dataset_of(x), Treatment(training=UNTRAINED)).changes
    assert change.revived == []
    assert [(units.units, "NaN" in units.reason) for units in change.declined_units] == [([0, 1], True)]


def test_a_unit_at_its_ceiling_is_dead_but_not_silent_and_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU6(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        model[0].bias[1], model[0].bias[5] = 50.0, -50.0
    treated = treat(model, dataset_of(gaussian(600, 4)), Treatment(training=UNTRAINED))
    (change,) = treated.changes
    assert change.revived == [5]
    assert [(units.units, "saturated" in units.reason) for units in change.declined_units] == [([1], True)]
    assert treated.preservation.equal


def test_a_unit_at_its_ceiling_on_the_held_out_part_alone_is_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU6(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        model[0].weight[1] = torch.tensor([0.0, 0.0, 0.0, 1.0])
        model[0].bias[1] = -50.0
    held_out = gaussian(40, 4)
    held_out[0, 3] = 100.0
    dataset = replace(dataset_of(gaussian(600, 4)), held_out=lambda: iter([Batch(args=(held_out,))]))
    (change,) = treat(model, dataset, Treatment(training=UNTRAINED)).changes
    assert change.revived == []
    assert [(units.units, "saturated" in units.reason) for units in change.declined_units] == [([1], True)]


@pytest.mark.parametrize("root", [torch.sqrt, torch.log1p, lambda x: x**0.5], ids=["sqrt", "log1p", "pow"])
def test_a_unit_before_a_function_undefined_below_zero_is_declined(root: object) -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act, self.head = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(root(self.act(self.fc(x))))  # type: ignore[operator]

    torch.manual_seed(0)
    model = Root().eval()
    with torch.no_grad():
        model.fc.bias[2] = -50.0
    treated = treat(model, dataset_of(gaussian(600, 4)), Treatment(training=UNTRAINED))
    assert treated.changes[0].revived == []
    assert "undefined below zero" in treated.changes[0].declined_units[0].reason
    assert treated.preservation.equal

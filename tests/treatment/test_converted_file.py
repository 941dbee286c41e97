"""The converted file: it comes back to the bit, into the user's own class, and into nothing else."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import msgspec
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from treated import UNTRAINED, dataset_of, equal, gaussian, output_of, same_state
from zoo import PlantedModel, SequenceFirst, every
from zoo.odd import Odd

import prelu_doctor
from prelu_doctor.doctor import Conversion, convert
from prelu_doctor.errors import CheckpointError, UsageError
from prelu_doctor.patient import open_patient
from prelu_doctor.treatment.conversion import Treatment
from prelu_doctor.treatment.converted_file import RECIPE_KEY
from prelu_doctor.treatment.fine_tuning import Training, slope_parameters
from prelu_doctor.treatment.recipe import Place, Recipe, SiteRecipe, decode_recipe, encode_recipe
from prelu_doctor.treatment.slopes import SlopeShape

ENDINGS = pytest.mark.parametrize("ending", [".safetensors", ".pt"])


def converted(
    model: nn.Module, *inputs: Tensor, keywords: dict[str, Tensor] | None = None, **options: object
) -> Conversion:
    """The model converted without a fine-tune; then every slope gets a value of its own."""
    data = dataset_of(*inputs, keywords=keywords)
    conversion = convert(model.eval(), data, Treatment(training=UNTRAINED, **options))
    with torch.no_grad():
        for number, slope in enumerate(slope_parameters(conversion.model)):
            slope.copy_(0.01 * torch.arange(1, len(slope) + 1) + number)
    return conversion


@every()
def test_every_model_of_the_zoo_comes_back_to_the_bit(kind: type[Odd], tmp_path: Path) -> None:
    ending = (".safetensors", ".pt")[len(kind.__name__) % 2]  # each is met by many
    conversion = converted(kind(), *kind.inputs(4), keywords=kind.keywords(4))
    conversion.save(tmp_path / f"healed{ending}")
    loaded = prelu_doctor.load(kind, tmp_path / f"healed{ending}").eval()
    assert same_state(loaded, conversion.model)
    inputs, keywords = kind.inputs(5, seed=1), kind.keywords(5, seed=1)
    assert equal(output_of(loaded, *inputs, **keywords), output_of(conversion.model, *inputs, **keywords))


@pytest.mark.parametrize("alpha_shape", ["channel", "site", "tied"])
def test_every_shape_of_slopes_comes_back(alpha_shape: str, tmp_path: Path) -> None:
    conversion = converted(PlantedModel(), *PlantedModel.inputs(4), alpha_shape=alpha_shape)
    conversion.save(tmp_path / "healed.safetensors")
    loaded = prelu_doctor.load(PlantedModel, tmp_path / "healed.safetensors")
    assert same_state(loaded, conversion.model)
    assert len(slope_parameters(loaded)) == len(slope_parameters(conversion.model))
    assert len(slope_parameters(loaded)) == (1 if alpha_shape == "tied" else 3)


def test_what_is_computed_from_buffers_is_that_of_the_file_and_not_of_the_fresh_model(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        table: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 6)
            self.register_buffer("table", torch.rand(6))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.fc(x)) * (self.table - self.table.mean()).exp()

    conversion = converted(Scaled(), gaussian(8, 4))
    conversion.save(tmp_path / "healed.safetensors")
    loaded = prelu_doctor.load(Scaled, tmp_path / "healed.safetensors")
    assert torch.equal(loaded(gaussian(8, 4)), conversion.model(gaussian(8, 4)))


class Mine(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.first = first
        self.tail = nn.Sequential(OrderedDict(fc=nn.Linear(8, 5), second=second, head=nn.Linear(5, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.first(self.norm(self.conv(x))).mean((2, 3)))


def test_a_class_with_its_prelus_written_by_hand_takes_the_weights_as_they_are(tmp_path: Path) -> None:
    conversion = converted(Mine(nn.ReLU(inplace=True), nn.ReLU()), gaussian(8, 3, 6, 6))
    by_hand = Mine(nn.PReLU(8), nn.PReLU(5)).eval()
    x = gaussian(5, 3, 6, 6, seed=1)
    conversion.save(tmp_path / "healed.safetensors")
    by_hand.load_state_dict(load_file(tmp_path / "healed.safetensors"), strict=True)
    assert torch.equal(by_hand(x), conversion.model(x))
    conversion.save(tmp_path / "healed.pt")
    by_hand.load_state_dict(torch.load(tmp_path / "healed.pt", weights_only=True), strict=True)
    assert torch.equal(by_hand(x), conversion.model(x))


def test_a_module_given_to_load_is_left_alone(tmp_path: Path) -> None:
    converted(PlantedModel(), *PlantedModel.inputs(4)).save(tmp_path / "healed.safetensors")
    given = PlantedModel()
    loaded = prelu_doctor.load(given, tmp_path / "healed.safetensors")
    assert loaded is not given
    assert isinstance(given.relu, nn.ReLU)
    assert same_state(given, PlantedModel())


def test_the_recipe_says_what_was_done_to_which_file(tmp_path: Path) -> None:
    source = tmp_path / "model.pt"
    torch.save(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), source)
    patient = open_patient(source)
    conversion = convert(patient, gaussian(8, 4), Treatment(training=Training(steps=0, seed=3), seed=3))
    conversion.save(tmp_path / "healed.safetensors")
    with safe_open(tmp_path / "healed.safetensors", "pt") as file:
        recipe = decode_recipe(file.metadata()[RECIPE_KEY])
    assert recipe.source_sha256 == patient.record.sha256 != ""
    assert recipe.sites == [
        SiteRecipe(site="1", shape=SlopeShape(count=6, axis=1), places=[Place(how="swap", owner="", module="1")])
    ]
    assert recipe.options["seed"] == 3
    assert recipe.options["alpha"] == 0.0


def test_the_recipe_beside_a_pt_file_belongs_to_these_weights_alone(tmp_path: Path) -> None:
    conversion = converted(PlantedModel(), *PlantedModel.inputs(4))
    report = conversion.save(tmp_path / "healed.pt")
    assert [Path(file).name for file in report.files] == ["healed.pt", "healed.pt.recipe.json"]
    assert set(torch.load(tmp_path / "healed.pt", weights_only=True)) == set(conversion.model.state_dict())
    torch.save(torch.load(tmp_path / "healed.pt", weights_only=True) | {"fc2.bias": torch.ones(10)}, tmp_path / "o.pt")
    (tmp_path / "o.pt.recipe.json").write_text((tmp_path / "healed.pt.recipe.json").read_text())
    with pytest.raises(CheckpointError, match="sha256"):
        prelu_doctor.load(PlantedModel, tmp_path / "o.pt")


def test_existing_files_are_kept_unless_forced(tmp_path: Path) -> None:
    conversion = converted(PlantedModel(), *PlantedModel.inputs(4))
    (tmp_path / "healed.pt.recipe.json").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        conversion.save(tmp_path / "healed.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["healed.pt.recipe.json"]
    conversion.save(tmp_path / "healed.pt", force=True)
    prelu_doctor.load(PlantedModel, tmp_path / "healed.pt")


class TestRefused:
    @pytest.mark.parametrize(
        "other",
        [
            lambda: nn.Sequential(nn.Linear(4, 2)),
            SequenceFirst,
            nn.ReLU,
            lambda: Mine(nn.ReLU(), nn.ReLU()),
        ],
    )
    def test_another_architecture(self, other, tmp_path: Path) -> None:
        converted(PlantedModel(), *PlantedModel.inputs(4)).save(tmp_path / "healed.safetensors")
        with pytest.raises(CheckpointError, match=r"not (fit )?this architecture"):
            prelu_doctor.load(other, tmp_path / "healed.safetensors")

    def test_the_same_architecture_at_another_width(self, tmp_path: Path) -> None:
        conversion = converted(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), gaussian(8, 4))
        conversion.save(tmp_path / "healed.safetensors")
        with pytest.raises(CheckpointError, match="6x4 in the file and 7x4"):
            prelu_doctor.load(
                nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 2)), tmp_path / "healed.safetensors"
            )

    def test_a_file_that_was_never_converted(self, tmp_path: Path) -> None:
        save_file(PlantedModel().state_dict(), tmp_path / "plain.safetensors")
        with pytest.raises(CheckpointError, match="no recipe"):
            prelu_doctor.load(PlantedModel, tmp_path / "plain.safetensors")

    @pytest.mark.parametrize(
        "changes",
        [
            {"places": [{"how": "swap", "owner": "", "module": "fc1"}]},
            {"places": [{"how": "swap", "owner": "", "module": ""}]},
            {"places": [{"how": "swap", "owner": "", "module": "__class__"}]},
            {"places": [{"how": "swap", "owner": "", "module": "no.such.module"}]},
            {"places": [{"how": "rewrite", "owner": "", "module": "prelu_1", "rank": 99, "of": 3}]},
            {"places": [{"how": "rewrite", "owner": "", "module": "forward", "rank": 0, "of": 3}]},
            {"places": [{"how": "rewrite", "owner": "fc1", "module": "fc1.prelu_1", "rank": 0, "of": 1}]},
            {"places": [{"how": "rewrite", "owner": "", "module": "prelu_1", "rank": 0, "of": 17}]},
            {"shape": {"count": -1, "axis": 1}},
            {"shape": {"count": 3, "axis": 1}},
            {"shape": {"count": 10**10, "axis": 1}},
        ],
    )
    def test_a_recipe_that_was_tampered_with(self, changes: dict[str, object], tmp_path: Path) -> None:
        converted(PlantedModel(), *PlantedModel.inputs(4)).save(tmp_path / "healed.safetensors")
        self._tamper(tmp_path / "healed.safetensors", lambda recipe: recipe["sites"][0].update(changes))
        with pytest.raises(CheckpointError):
            prelu_doctor.load(PlantedModel, tmp_path / "healed.safetensors")

    @pytest.mark.parametrize("change", [{"version": 2}, {"sites": 3}, {"alpha_shape": "round"}])
    def test_a_recipe_of_another_version_or_form(self, change: dict[str, object], tmp_path: Path) -> None:
        converted(PlantedModel(), *PlantedModel.inputs(4)).save(tmp_path / "healed.safetensors")
        self._tamper(tmp_path / "healed.safetensors", lambda recipe: recipe.update(change))
        with pytest.raises(CheckpointError, match="cannot be read"):
            prelu_doctor.load(PlantedModel, tmp_path / "healed.safetensors")

    @staticmethod
    def _tamper(path: Path, change) -> None:
        with safe_open(path, "pt") as file:
            recipe = json.loads(file.metadata()[RECIPE_KEY])
        change(recipe)
        save_file(load_file(path), path, {"format": "pt", RECIPE_KEY: json.dumps(recipe)})


def test_a_recipe_of_before_other_activations_could_be_converted_numbers_calls_as_it_did() -> None:
    text = json.dumps(
        {
            "tool_version": "0.1.0",
            "source_sha256": "",
            "alpha_shape": "channel",
            "sites": [],
            "none_arguments": {},
            "options": {},
        }
    )
    assert decode_recipe(text).functions == ("relu", "relu6", "prelu", "leaky_relu")


def test_a_recipe_that_names_an_unknown_function_is_refused() -> None:
    recipe = Recipe(tool_version="1", source_sha256="", alpha_shape="site", sites=[], none_arguments={}, options={})
    with pytest.raises(CheckpointError, match="cannot be read"):
        decode_recipe(encode_recipe(recipe).replace("leaky_relu", "tanh"))


def test_a_recipe_survives_its_text() -> None:
    recipe = Recipe(
        tool_version="1",
        source_sha256="ab",
        alpha_shape="site",
        sites=[
            SiteRecipe(
                site="a:relu6#1",
                shape=SlopeShape(count=1, axis=-1, ceiling=6.0),
                places=[Place(how="rewrite", owner="a", module="a.prelu_1", rank=0, of=2)],
            )
        ],
        none_arguments={"a": ["mask"]},
        options={"alpha": 0.0, "steps": None},
    )
    assert decode_recipe(encode_recipe(recipe)) == recipe
    assert msgspec.json.decode(encode_recipe(recipe))["version"] == 1

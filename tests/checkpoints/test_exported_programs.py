"""Exported programs (`.pt2`): opened, scanned under the names of the modules that they were made of, converted."""

import io
import json
import zipfile

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export.pt2_archive._package import package_pt2
from torch.utils.data import TensorDataset

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.doctor import convert, scan
from prelu_doctor.errors import DataError, UsageError
from prelu_doctor.patient import open_patient
from prelu_doctor.treatment.conversion import Treatment
from prelu_doctor.treatment.fine_tuning import Training
from tests.zoo.axes import LastAxisTransformerFeedForward
from tests.zoo.loops import BlockCalledTwice, RnnReluOfTwoLayers
from tests.zoo.planted import PlantedModel

pytestmark = pytest.mark.filterwarnings("ignore")
UNTRAINED = Treatment(training=Training(steps=0))


def exported(path, model, inputs, *, open_batch=True):
    axes = tuple({0: torch.export.Dim("batch")} for _ in inputs) if open_batch else None
    torch.export.save(torch.export.export(model.eval(), inputs, dynamic_shapes=axes), path)
    return path


def found(report):
    return [(site.id, site.function, site.units, site.dead_units, site.source, site.producers) for site in report.sites]


# Reading ---------------------------------------------------------------------------------------------------------


def test_it_tells_the_inputs_that_it_takes(tmp_path):
    path = exported(tmp_path / "m.pt2", PlantedModel(), (torch.randn(2, 3, 8, 8),))
    (only,) = read_checkpoint(path).expected.inputs
    assert (only.name, only.shape, only.dtype) == ("x", (None, 3, 8, 8), torch.float32)
    assert read_checkpoint(path).expected.fixed_batch is None


def test_a_batch_that_was_not_left_open_is_told(tmp_path):
    path = exported(tmp_path / "m.pt2", PlantedModel(), (torch.randn(4, 3, 8, 8),), open_batch=False)
    assert read_checkpoint(path).expected.fixed_batch == 4


def test_several_inputs_and_their_types_are_told(tmp_path):
    class Embeds(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, tokens, mask):
            return F.relu(self.table(tokens) * mask[..., None])

    inputs = torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.float64)
    expected = read_checkpoint(exported(tmp_path / "m.pt2", Embeds(), inputs)).expected
    told = [(one.name, one.shape, one.dtype) for one in expected.inputs]
    assert told == [("tokens", (None, 5), torch.int64), ("mask", (None, 5), torch.float64)]


def test_the_kind_and_the_weights_are_those_of_the_model(tmp_path):
    patient = open_patient(exported(tmp_path / "m.pt2", PlantedModel(), (torch.randn(2, 3, 8, 8),)))
    assert patient.record.kind == "pt2"
    assert patient.module.state_dict().keys() == PlantedModel().state_dict().keys()
    assert patient.record.parameters == sum(weight.numel() for weight in PlantedModel().parameters())


def test_a_program_that_names_a_device_which_is_not_here_opens_on_the_cpu(tmp_path):
    class Makes(nn.Module):
        def forward(self, x):
            return torch.relu(x + torch.ones(4, device=x.device))

    path = exported(tmp_path / "m.pt2", Makes(), (torch.randn(2, 4),))
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            changed = data.replace(b'"type": "cpu", "index": null', b'"type": "cuda", "index": 0')
            archive.writestr(name, changed if name.endswith(".json") else data)
    assert b"cuda" in b"".join(zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist())
    x = torch.randn(3, 4)
    assert torch.equal(read_checkpoint(path).module(x), torch.relu(x + 1))


def test_a_program_exported_in_training_mode_is_noted(tmp_path):
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.ReLU()).train()
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4),)), tmp_path / "m.pt2")
    assert "training mode" in read_checkpoint(tmp_path / "m.pt2").note
    assert read_checkpoint(exported(tmp_path / "e.pt2", net, (torch.zeros(2, 4),))).note == ""


def test_a_file_from_before_the_present_format_is_read(tmp_path):
    """Its weights are a pickle of tensors, which the weights-only reader takes."""
    from torch._export.serde.serialize import serialize

    net, x = PlantedModel().eval(), torch.randn(2, 3, 8, 8)
    artifact = serialize(torch.export.export(net, (x,)))
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", "8.20")
        archive.writestr("serialized_exported_program.json", artifact.exported_program)
        archive.writestr("serialized_state_dict.pt", artifact.state_dict)
        archive.writestr("serialized_constants.pt", artifact.constants)
        archive.writestr("serialized_example_inputs.pt", artifact.example_inputs)
    assert torch.equal(read_checkpoint(tmp_path / "old.pt2").module(x), net(x))


def test_of_several_programs_one_has_to_be_named(tmp_path):
    nets = {name: nn.Sequential(nn.Linear(4, width), nn.ReLU()).eval() for name, width in (("small", 2), ("large", 7))}
    programs = {name: torch.export.export(net, (torch.zeros(2, 4),)) for name, net in nets.items()}
    package_pt2(tmp_path / "both.pt2", exported_programs=programs)
    with pytest.raises(UsageError, match=r"the programs 'small', 'large'\n.*\n.*--method small"):
        open_patient(tmp_path / "both.pt2")
    with pytest.raises(UsageError, match="and no 'other'"):
        open_patient(tmp_path / "both.pt2", method="other")
    patient = open_patient(tmp_path / "both.pt2", method="large")
    assert patient.module(torch.zeros(2, 4)).shape == (2, 7)
    assert patient.record.method == "large"


# Scanning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [PlantedModel, BlockCalledTwice, LastAxisTransformerFeedForward, RnnReluOfTwoLayers])
def test_sites_have_the_names_and_the_dead_units_that_the_module_has(tmp_path, model):
    net = model().eval()
    data = [net.inputs(8)] if len(net.inputs(8)) > 1 else net.inputs(8)[0]
    path = exported(tmp_path / "m.pt2", net, net.inputs(2))
    assert found(scan(path, data)) == found(scan(net, data))


def test_a_real_network_has_the_same_sites(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=4).eval()
    data = torch.randn(4, 3, 64, 64)
    path = exported(tmp_path / "m.pt2", net, (data[:2],))
    # Of a call in a helper method the file knows the line of the forward that called the helper.
    lines = {"resnet.py:270": "resnet.py:285"}
    of_net = [(*site[:4], lines.get(site[4], site[4]), site[5]) for site in found(scan(net, data))]
    assert found(scan(path, data)) == of_net
    assert "layer1.0.relu#2" in [site.id for site in scan(path, data).sites]


def without_notes(program):
    document = json.loads(program)
    for node in document["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}
    return json.dumps(document)


def test_a_graph_that_does_not_tell_its_modules_is_numbered(tmp_path):
    path = exported(tmp_path / "m.pt2", PlantedModel(), (torch.randn(2, 3, 8, 8),))
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, without_notes(data) if name.endswith("models/model.json") else data)
    assert [site.id for site in scan(path, torch.randn(8, 3, 8, 8)).sites] == [":relu#1", ":relu#2", ":relu#3"]


def test_weights_that_are_computed_do_not_make_two_sites_one(tmp_path):
    class Computes(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = (nn.Parameter(torch.randn(4, 4)) for _ in range(2))

        def forward(self, x):
            return F.relu(F.linear(F.relu(F.linear(x, self.one.abs())), self.other.abs())).sum(1)

    sites = [site.units for site in scan(Computes(), torch.randn(8, 4)).sites]
    assert sites == [4, 4]
    path = exported(tmp_path / "m.pt2", Computes(), (torch.randn(2, 4),))
    assert [site.units for site in scan(path, torch.randn(8, 4)).sites] == sites


def test_inputs_of_another_shape_than_the_program_takes_are_told(tmp_path):
    path = exported(tmp_path / "m.pt2", PlantedModel(), (torch.randn(2, 3, 8, 8),))
    with pytest.raises(DataError, match=r"samples of shape 3x9x9\nexpected: 3x8x8, which the model's file takes"):
        scan(path, torch.randn(8, 3, 9, 9))


# Converting ------------------------------------------------------------------------------------------------------


def test_it_is_converted_and_its_dead_units_are_revived(tmp_path):
    path = exported(tmp_path / "m.pt2", PlantedModel(), (torch.randn(2, 3, 8, 8),))
    data = TensorDataset(torch.randn(400, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    conversion = convert(path, data, UNTRAINED)
    assert conversion.report.preservation.equal
    assert [(change.site, change.declined) for change in conversion.report.changes] == [
        ("relu#1", ""),
        ("relu#2", ""),
        (":relu#1", ""),
    ]
    assert conversion.report.before.totals.dead >= 7
    assert conversion.report.after.totals.dead == 0


def test_the_converted_weights_are_read_back_with_the_program_for_an_architecture(tmp_path):
    path = exported(tmp_path / "m.pt2", PlantedModel(), (torch.randn(2, 3, 8, 8),))
    conversion = convert(path, TensorDataset(torch.randn(400, 3, 8, 8)), UNTRAINED)
    conversion.save(tmp_path / "healed.safetensors", onnx=tmp_path / "healed.onnx")
    again = open_patient(tmp_path / "healed.safetensors", arch=str(path))
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(again.module(x), conversion.model(x))
    assert again.record.kind == "converted"


def test_activations_of_every_form_are_converted(tmp_path):
    class Forms(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(5))
            self.six = nn.ReLU6(inplace=True)

        def forward(self, x):
            a, b, c, d, e = self.layers
            x = self.six(a(x))
            x = F.hardtanh(b(x), 0, 2.5)
            x = c(x).clamp(min=0)
            x = d(x).relu_()
            return e(F.threshold(x, 0, 0))

    path = exported(tmp_path / "m.pt2", Forms(), (torch.randn(2, 6),))
    conversion = convert(path, TensorDataset(torch.randn(50, 6)), UNTRAINED)
    assert conversion.report.preservation.equal
    assert [change.declined for change in conversion.report.changes] == [""] * 5
    assert {site.function for site in conversion.report.after.sites} <= {"prelu"}


def test_a_program_in_memory_is_scanned_like_its_file(tmp_path):
    buffer = io.BytesIO()
    torch.export.save(
        torch.export.export(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), (torch.zeros(2, 4),)), buffer
    )
    (tmp_path / "m.pt2").write_bytes(buffer.getvalue())
    module = open_patient(tmp_path / "m.pt2").module
    assert [site.id for site in scan(module, [torch.randn(2, 4)]).sites] == ["1"]


class OfAPairAndAKeyword(nn.Module):
    """Takes a tuple, a keyword and a number, which export fixes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(4, 6), nn.Linear(3, 6)
        with torch.no_grad():
            self.left.bias[:2] = -100

    def forward(self, pair, *, scale, times=2):
        return F.relu(self.left(pair[0]) + self.right(pair[1])) * scale * times


def test_a_program_takes_its_tensors_one_by_one_whatever_structure_it_was_exported_with(tmp_path):
    generator = torch.Generator().manual_seed(1)
    left, right, scale = (torch.randn(40, size, generator=generator) for size in (4, 3, 6))
    rows = torch.export.Dim("rows", min=2, max=1000)
    program = torch.export.export(
        OfAPairAndAKeyword().eval(),
        ((left, right),),
        {"scale": scale, "times": 3},
        dynamic_shapes={"pair": ({0: rows}, {0: rows}), "scale": {0: rows}, "times": None},
    )
    torch.export.save(program, tmp_path / "m.pt2")
    patient = open_patient(tmp_path / "m.pt2")
    assert [one.name for one in patient.expected.inputs] == ["pair_0", "pair_1", "scale"]
    assert torch.equal(patient.module(left, right, scale), OfAPairAndAKeyword()((left, right), scale=scale, times=3))
    (site,) = scan(patient, [{"pair_0": left, "pair_1": right, "scale": scale}]).sites
    assert (site.id, site.dead_units) == (":relu#1", [0, 1])


def test_a_program_that_convert_wrote_of_a_model_with_keywords_is_scanned(tmp_path):
    class OfTwo(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.relu = nn.Linear(4, 6), nn.Linear(3, 6), nn.ReLU()

        def forward(self, left, right):
            return self.relu(self.one(left) + self.other(right))

    torch.manual_seed(0)
    batch = {"left": torch.randn(30, 4), "right": torch.randn(30, 3)}
    net = OfTwo()
    convert(net, [batch], Treatment(training=Training(steps=0))).save(
        tmp_path / "m.safetensors", pt2=tmp_path / "m.pt2"
    )
    (site,) = scan(open_patient(tmp_path / "m.pt2"), [batch]).sites
    assert site.function == "prelu"


def test_as_an_architecture_it_tells_what_it_takes(tmp_path):
    """Weights that go into a program of four samples a batch get batches of four."""
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    program = exported(tmp_path / "four.pt2", net, (torch.randn(4, 4),), open_batch=False)
    patient = open_patient(tmp_path / "weights.pt", arch=str(program))
    assert patient.expected.fixed_batch == 4
    assert scan(patient, torch.randn(10, 4)).data.samples == 10

"""TorchScript archives: scripted, traced and frozen, scanned like the module that they were made of."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.doctor import check_parity, convert, export_onnx, scan
from prelu_doctor.errors import UsageError
from prelu_doctor.patient import open_patient
from prelu_doctor.treatment.conversion import Treatment
from prelu_doctor.treatment.fine_tuning import Training
from tests.zoo.inside import InsideTransformer
from tests.zoo.loops import BlockCalledTwice, ModuleDictLoop, RnnRelu
from tests.zoo.planted import PlantedModel
from tests.zoo.sharing import SharedReluTwoParents
from tests.zoo.surroundings import TrainingBranch

pytestmark = pytest.mark.filterwarnings("ignore")


def made(how, model, inputs):
    if how == "traced":
        return torch.jit.trace(model, inputs)
    scripted = torch.jit.script(model)
    return scripted if how == "scripted" else torch.jit.freeze(scripted)


def stored(path, how, model, inputs):
    torch.jit.save(made(how, model.eval(), inputs), path)
    return path


def named(report):
    return [(site.id, site.units, site.dead_units) for site in report.sites]


def images(samples=64):
    return torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(0))


# Scanning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["scripted", "traced", "frozen"])
def test_the_planted_units_are_found(tmp_path, how):
    """A frozen program has lost its modules: its sites are numbered."""
    net = PlantedModel()
    report = scan(stored(tmp_path / "m.pt", how, net, images(2)), images())
    eager = scan(net, images())
    assert [site[1:] for site in named(report)] == [site[1:] for site in named(eager)]
    expected = [":relu#1", ":relu#2", ":relu#3"] if how == "frozen" else ["relu#1", "relu#2", ":relu#1"]
    assert [site.id for site in report.sites] == expected
    assert report.model.kind == "torchscript"


@pytest.mark.parametrize("how", ["scripted", "traced"])
@pytest.mark.parametrize("model", [BlockCalledTwice, RnnRelu, ModuleDictLoop, TrainingBranch])
def test_sites_have_the_names_that_the_module_has(tmp_path, how, model):
    net = model().eval()
    data = [net.inputs(8)]
    assert named(scan(stored(tmp_path / "m.pt", how, net, net.inputs(8)), data)) == named(scan(net, data))


def test_what_a_frozen_program_holds_is_named_after_what_reads_it(tmp_path):
    report = scan(stored(tmp_path / "m.pt", "frozen", PlantedModel(), images(2)), images())
    assert [site.producers for site in report.sites] == [["conv2d_1"], ["conv2d_2"], ["linear_1"]]
    assert [site.consumers for site in report.sites] == [["conv2d_2"], ["linear_1"], ["linear_2"]]


def test_a_module_that_two_parents_share_has_one_name_in_a_trace(tmp_path):
    net = SharedReluTwoParents().eval()
    report = scan(stored(tmp_path / "m.pt", "traced", net, net.inputs(8)), [net.inputs(8)])
    assert [site.id for site in report.sites] == ["b.act#1", "b.act#2"]


def test_where_a_loop_decides_how_many_calls_there_are_they_are_numbered(tmp_path):
    class Loops(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(x.shape[1]):
                x = self.act(self.fc(x))
            return x

    report = scan(stored(tmp_path / "m.pt", "scripted", Loops(), None), torch.randn(8, 4))
    assert [site.id for site in report.sites] == [":relu#1"]
    assert report.sites[0].calls == 4


def test_the_relu_of_a_fused_transformer_layer_is_seen(tmp_path):
    """What TorchScript compiled would take the fused kernel, which hides it."""
    net = InsideTransformer().eval()
    report = scan(stored(tmp_path / "m.pt", "scripted", net, None), [net.inputs(8)])
    assert [site.units for site in report.sites] == [site.units for site in scan(net, [net.inputs(8)]).sites]


def test_every_pass_finds_the_same_and_leaves_the_state_as_it_was(tmp_path):
    class Counts(nn.Module):
        kept: list[Tensor]

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.runs = 0
            self.state = torch.zeros(1)
            self.kept = []

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            self.state = self.state + 1
            self.kept.append(x)
            return torch.relu(self.fc(x) - self.runs - self.state)

    path = stored(tmp_path / "m.pt", "scripted", Counts(), None)
    patient = open_patient(path)
    data = [torch.randn(8, 4, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    reports = [scan(patient, data) for _ in range(2)]
    assert named(reports[0]) == named(reports[1])
    assert (patient.module.runs, float(patient.module.state), len(patient.module.kept)) == (0, 0.0, 0)
    assert "'runs', 'state' when it runs" in patient.note


def test_a_program_traced_on_a_device_that_is_not_here_runs(tmp_path):
    import zipfile

    class Makes(nn.Module):
        def forward(self, x):
            return torch.relu(x + torch.ones(4, device=x.device))

    path = stored(tmp_path / "m.pt", "traced", Makes(), torch.randn(2, 4))
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            changed = data.replace(b'torch.device("cpu")', b'torch.device("cuda:0")') if name.endswith(".py") else data
            assert not name.endswith("Makes.py") or changed != data
            archive.writestr(name, changed)
    x = torch.randn(3, 4)
    assert torch.equal(read_checkpoint(path).module(x), torch.relu(x + 1))


# Methods ---------------------------------------------------------------------------------------------------------


class Encodes(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.act = nn.ReLU()
        self.head = nn.Linear(5, 2)

    @torch.jit.export
    def encode(self, x):
        return F.relu(self.fc(x))

    def forward(self, x):
        return self.head(self.act(self.encode(x)))


def test_a_method_of_a_scripted_module_is_run_instead(tmp_path):
    path = stored(tmp_path / "m.pt", "scripted", Encodes(), None)
    patient = open_patient(path, method="encode")
    assert patient.module(torch.zeros(2, 4)).shape == (2, 5)
    assert [site.id for site in scan(patient, torch.randn(8, 4)).sites] == [":relu#1"]
    with pytest.raises(UsageError, match=r"has no method 'decode'\nexpected: one of 'forward', 'encode'"):
        open_patient(path, method="decode")


def test_a_method_of_a_module_in_memory_is_run_instead_and_the_module_stays_as_it_is():
    net = Encodes()
    patient = open_patient(net, method="encode")
    assert patient.module(torch.zeros(2, 4)).shape == (2, 5)
    assert net(torch.zeros(2, 4)).shape == (2, 2)
    assert type(net) is Encodes
    with pytest.raises(
        UsageError, match=r"--method decode: Encodes has no such method\nexpected: one of 'forward', 'encode'"
    ):
        open_patient(net, method="decode")


@pytest.mark.parametrize("name", ["eval", "parameters", "__init__", "_call_impl"])
def test_what_every_module_has_is_no_method_to_run(name):
    with pytest.raises(UsageError, match="no such method"):
        open_patient(Encodes(), method=name)


def test_a_method_is_converted_and_read_back(tmp_path):
    net = Encodes().eval()
    with torch.no_grad():
        net.fc.bias[0] = -100
    data = torch.utils.data.TensorDataset(torch.randn(400, 4))
    conversion = convert(open_patient(net, method="encode"), data, Treatment(training=Training(steps=0)))
    conversion.save(tmp_path / "h.safetensors", onnx=tmp_path / "h.onnx", pt2=tmp_path / "h.pt2")
    x = torch.randn(3, 4)
    assert torch.equal(conversion.model(x), net.encode(x))
    from prelu_doctor import load

    again = load(Encodes(), tmp_path / "h.safetensors")
    assert torch.equal(again(x), conversion.model(x))
    assert torch.equal(again.encode(x), again(x))
    assert {name for name, _ in again.named_parameters()} >= {"prelu_1.weight"}


# What cannot be done ---------------------------------------------------------------------------------------------


def test_it_is_not_converted_nor_exported_and_told_how(tmp_path):
    path = stored(tmp_path / "m.pt", "scripted", PlantedModel(), None)
    for attempt in (lambda: convert(path, images()), lambda: export_onnx(path, tmp_path / "m.onnx", images())):
        with pytest.raises(UsageError, match=r"TorchScript, compiled code.*\n.*\n.*--arch module:callable"):
            attempt()
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("how", ["scripted", "traced"])
def test_its_weights_go_into_the_class_that_is_named(tmp_path, how):
    path = stored(tmp_path / "m.pt", how, PlantedModel(), images(2))
    patient = open_patient(path, arch="tests.zoo.planted:PlantedModel")
    assert type(patient.module) is PlantedModel
    conversion = convert(patient, torch.utils.data.TensorDataset(images(400)), Treatment(training=Training(steps=0)))
    conversion.save(tmp_path / "h.safetensors", onnx=tmp_path / "h.onnx")
    assert check_parity(path, tmp_path / "h.onnx", images()).verdict == "healthy"


def test_a_frozen_program_has_no_weights_for_a_class(tmp_path):
    path = stored(tmp_path / "m.pt", "frozen", PlantedModel(), None)
    with pytest.raises(UsageError, match="constants without names"):
        open_patient(path, arch="tests.zoo.planted:PlantedModel")

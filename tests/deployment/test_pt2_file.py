"""`convert --pt2`: a program that runs without the class and without this package, written only once it is proved."""

import dataclasses
import subprocess
import sys
import zipfile

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from prelu_doctor.data.batches import Batch
from prelu_doctor.deployment.pt2_file import export_pt2
from prelu_doctor.doctor import convert, scan
from prelu_doctor.errors import BrokenPromiseError, UsageError
from prelu_doctor.treatment.conversion import Treatment
from prelu_doctor.treatment.fine_tuning import Training
from prelu_doctor.treatment.prelu import AxisPReLU
from tests.zoo.axes import LastAxisTransformerFeedForward
from tests.zoo.loops import BlockCalledTwice
from tests.zoo.planted import PlantedModel

pytestmark = pytest.mark.filterwarnings("ignore")
UNTRAINED = Treatment(training=Training(steps=0))


def batches_of(*tensors):
    return lambda: iter([Batch(tensors)])


def loaded(path):
    return torch.export.load(path).module()


@pytest.fixture
def healed():
    return convert(PlantedModel().eval(), TensorDataset(torch.randn(400, 3, 8, 8)), UNTRAINED)


def test_the_program_gives_the_models_outputs_at_any_batch_size(tmp_path, healed):
    healed.save(tmp_path / "h.safetensors", pt2=tmp_path / "h.pt2")
    for size in (1, 2, 7):
        x = torch.randn(size, 3, 8, 8)
        assert torch.equal(loaded(tmp_path / "h.pt2")(x), healed.model(x))


def test_it_needs_neither_the_class_nor_this_package(tmp_path, healed):
    healed.save(tmp_path / "h.safetensors", pt2=tmp_path / "h.pt2")
    x = torch.randn(3, 3, 8, 8)
    torch.save(x, tmp_path / "x.pt")
    program = (
        "import sys, torch\n"
        "sys.modules['prelu_doctor'] = None\n"
        "torch.save(torch.export.load('h.pt2').module()(torch.load('x.pt')), 'y.pt')\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)  # noqa: S603 - the lines above
    assert torch.equal(torch.load(tmp_path / "y.pt"), healed.model(x))


def test_the_program_is_scanned_again_and_shows_its_slopes(tmp_path, healed):
    report = healed.save(tmp_path / "h.safetensors", pt2=tmp_path / "h.pt2")
    assert report.files == [str(tmp_path / "h.safetensors"), str(tmp_path / "h.pt2")]
    after = scan(tmp_path / "h.pt2", torch.randn(400, 3, 8, 8))
    assert [site.function for site in after.sites] == ["prelu"] * 3
    assert [site.id for site in after.sites] == [site.id for site in healed.report.after.sites]
    assert [site.alpha.max for site in after.sites] == [0.25] * 3
    assert after.totals.dead == 0


def test_the_checkpoint_itself_may_be_a_program(tmp_path, healed):
    healed.save(tmp_path / "h.pt2", onnx=tmp_path / "h.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["h.onnx", "h.pt2"]


def test_a_program_is_converted_into_a_program(tmp_path, healed):
    axes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(PlantedModel().eval(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=axes)
    torch.export.save(program, tmp_path / "m.pt2")
    conversion = convert(tmp_path / "m.pt2", TensorDataset(torch.randn(400, 3, 8, 8)), UNTRAINED)
    conversion.save(tmp_path / "h.pt2")
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(loaded(tmp_path / "h.pt2")(x), conversion.model(x))
    assert [site.function for site in scan(tmp_path / "h.pt2", torch.randn(20, 3, 8, 8)).sites] == ["prelu"] * 3


@pytest.mark.parametrize("model", [LastAxisTransformerFeedForward, BlockCalledTwice])
def test_slopes_on_the_last_axis_and_rewritten_forwards_go_along(tmp_path, model):
    net = model()
    conversion = convert(net, TensorDataset(*net.inputs(400)), UNTRAINED)
    conversion.save(tmp_path / "h.pt2")
    assert torch.allclose(loaded(tmp_path / "h.pt2")(*net.inputs(3)), conversion.model(*net.inputs(3)), atol=1e-6)


def test_a_ceiling_on_the_last_axis_is_the_same_function(tmp_path):
    net = nn.Sequential(nn.Linear(4, 6), AxisPReLU(6, axis=-1, ceiling=1.0, init=0.1), nn.Linear(6, 2))
    export_pt2(net, batches_of(torch.randn(16, 3, 4)), tmp_path / "m.pt2")
    x = torch.randn(5, 3, 4)
    assert torch.equal(loaded(tmp_path / "m.pt2")(x), net(x))


def test_a_forward_that_fixes_the_batch_gives_a_program_of_that_batch(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return torch.relu(x.view(4, 6) @ torch.ones(6, 2))

    written = export_pt2(Fixed(), batches_of(torch.randn(4, 6)), tmp_path / "m.pt2")
    assert written.fixed_batch == 4
    assert written.fixed_because
    assert loaded(tmp_path / "m.pt2")(torch.ones(4, 6)).shape == (4, 2)


def test_a_forward_that_loops_over_the_samples_takes_one_at_a_time(tmp_path):
    class OneByOne(nn.Module):
        def forward(self, x):
            return torch.stack([torch.relu(x[k]) for k in range(len(x))])

    written = export_pt2(OneByOne(), batches_of(torch.randn(8, 3)), tmp_path / "m.pt2")
    assert written.fixed_batch == 1


def test_inputs_by_keyword_stay_keywords(tmp_path):
    class Adds(nn.Module):
        def forward(self, x, *, scale):
            return torch.relu(x) * scale

    export_pt2(Adds(), lambda: iter([Batch((torch.randn(4, 3),), {"scale": torch.randn(4, 3)})]), tmp_path / "m.pt2")
    x, scale = torch.randn(6, 3), torch.randn(6, 3)
    assert torch.equal(loaded(tmp_path / "m.pt2")(x, scale=scale), torch.relu(x) * scale)


def test_an_output_of_the_users_own_class_becomes_a_tuple(tmp_path):
    @dataclasses.dataclass
    class Found:
        score: torch.Tensor
        box: torch.Tensor

    class Finds(nn.Module):
        def forward(self, x):
            return Found(torch.relu(x), x + 1)

    export_pt2(Finds(), batches_of(torch.randn(4, 3)), tmp_path / "m.pt2")
    x = torch.randn(5, 3)
    score, box = loaded(tmp_path / "m.pt2")(x)
    assert torch.equal(score, torch.relu(x))
    assert torch.equal(box, x + 1)


def test_the_file_holds_no_sample_and_no_path(tmp_path):
    x = torch.full((8, 3), 1234.5)
    export_pt2(PlantedHead(), batches_of(x), tmp_path / "m.pt2")
    with zipfile.ZipFile(tmp_path / "m.pt2") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert x[:1].numpy().tobytes() not in content
    assert b"/home" not in content
    assert str(tmp_path.parent).encode() not in content
    assert __file__.rpartition("/")[0].encode() not in content
    assert b"test_pt2_file.py" in content


class PlantedHead(nn.Module):
    def forward(self, x):
        return F.relu(x - 1)


# Refusals --------------------------------------------------------------------------------------------------------


class DrawsNumbers(nn.Module):
    """What it draws is drawn anew by the program, in another order."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        kept = torch.rand(4).sort().values if torch.compiler.is_exporting() else torch.rand(4)
        return self.fc(torch.relu(x)) * kept


def test_a_program_that_computes_something_else_is_not_written(tmp_path):
    conversion = convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), TensorDataset(torch.randn(20, 4)), UNTRAINED)
    with pytest.raises(BrokenPromiseError, match=r"outputs differ from the model's by"):
        export_pt2(DrawsNumbers(), batches_of(torch.randn(8, 4)), tmp_path / "m.pt2")
    assert not (tmp_path / "m.pt2").exists()
    object.__setattr__(conversion, "model", DrawsNumbers())
    with pytest.raises(BrokenPromiseError):
        conversion.save(tmp_path / "h.safetensors", pt2=tmp_path / "h.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_forward_that_cannot_be_exported_is_told(tmp_path):
    class Branches(nn.Module):
        def forward(self, x):
            return torch.relu(x) if float(x.sum()) > 0 else x

    with pytest.raises(BrokenPromiseError, match="cannot be exported as a program"):
        export_pt2(Branches(), batches_of(torch.ones(8, 4)), tmp_path / "m.pt2")
    assert not (tmp_path / "m.pt2").exists()


def test_the_name_has_to_say_what_it_is(tmp_path, healed):
    with pytest.raises(UsageError, match=r"ends in \.pt2"):
        healed.save(tmp_path / "h.safetensors", pt2=tmp_path / "h.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_program_is_not_replaced_unasked(tmp_path, healed):
    (tmp_path / "h.pt2").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        healed.save(tmp_path / "h.safetensors", pt2=tmp_path / "h.pt2")
    assert (tmp_path / "h.pt2").read_text() == "mine"
    assert not (tmp_path / "h.safetensors").exists()


def test_the_model_and_the_random_state_are_left_as_they_were(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.ReLU()).train()
    state = torch.get_rng_state()
    export_pt2(net, batches_of(torch.randn(4, 4, generator=torch.Generator().manual_seed(0))), tmp_path / "m.pt2")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in net.modules())

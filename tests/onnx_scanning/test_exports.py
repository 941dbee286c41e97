"""What the exporters of PyTorch write is scanned as the eager model is: the same sites, names and counts."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from zoo import (
    BlockCalledTwice,
    ChannelsLastConv,
    FlattenedTokens,
    InsideTransformer,
    LeakyNet,
    PlantedModel,
    PReluNet,
    Relu6Net,
    ReluInHelperFunction,
    RnnReluBothWays,
    SequenceFirst,
    SiameseEncoder,
    ThresholdForm,
    TimeLoop,
)

from prelu_doctor.data.batches import Batch
from prelu_doctor.doctor import convert
from prelu_doctor.onnx_scanning.model import open_onnx_model
from prelu_doctor.onnx_scanning.scan import scan_onnx
from prelu_doctor.scanning.scan import scan_model

SAMPLES = 6
ODD = [
    PlantedModel, Relu6Net, LeakyNet, PReluNet, ThresholdForm, ChannelsLastConv, FlattenedTokens, SequenceFirst,
    SiameseEncoder, BlockCalledTwice, TimeLoop, RnnReluBothWays, InsideTransformer,
]  # fmt: skip


def exported(model: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, *, dynamo: bool = True) -> Path:
    """The file that an exporter of PyTorch writes, its batch axis open."""
    names = [f"input_{number}" for number in range(len(inputs))]
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    logging.disable(logging.CRITICAL)
    try:
        with quiet[0], quiet[1], warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if dynamo:
                shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
                torch.onnx.export(
                    model.eval(), inputs, path, dynamo=True, verbose=False, external_data=False, dynamic_shapes=shapes
                )
            else:
                axes = {name: {0: "batch"} for name in names}
                torch.onnx.export(model.eval(), inputs, path, dynamo=False, input_names=names, dynamic_axes=axes)
    finally:
        logging.disable(logging.NOTSET)
    return path


def split(inputs, size):
    return iter([Batch(args=part) for part in zip(*(tensor.split(size) for tensor in inputs), strict=True)])


def told(site):
    return {
        name: getattr(site, name)
        for name in (
            "id", "function", "units", "unit_axis", "axis_assumed", "input_independent", "counted", "samples", "dead",
            "dead_units", "never_positive", "rare", "always_on", "dormant", "is_output", "silent_outputs",
            "firing_rate", "positive_rate", "firing_rate_bound",
        )
    }  # fmt: skip


def check_alike(model, path, inputs, *, size=4):
    eager = scan_model(model, split(inputs, size)).sites
    found = scan_onnx(open_onnx_model(path), split(inputs, size))
    assert [told(site) for site in found.sites] == [told(site) for site in eager]
    assert found.unresolved == []
    return eager, found.sites


@pytest.mark.parametrize("kind", ODD, ids=lambda kind: kind.__name__)
def test_an_odd_model_is_scanned_as_it_is_in_pytorch(kind, tmp_path):
    torch.manual_seed(0)
    model, inputs = kind(), kind.inputs(SAMPLES)
    path = exported(model, tuple(tensor.clone() for tensor in inputs), tmp_path / "m.onnx")
    eager, found = check_alike(model, path, inputs)
    for one, other in zip(eager, found, strict=True):
        assert (one.alpha is None) == (other.alpha is None)
        assert one.alpha is None or other.alpha.values == pytest.approx(one.alpha.values)


@pytest.mark.parametrize("kind", [Relu6Net, InsideTransformer, ReluInHelperFunction], ids=lambda kind: kind.__name__)
def test_the_names_of_the_older_exporter_tell_modules_from_functions(kind, tmp_path):
    torch.manual_seed(0)
    model, inputs = kind(), kind.inputs(SAMPLES)
    check_alike(model, exported(model, inputs, tmp_path / "m.onnx", dynamo=False), inputs)


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_planted_units_are_found_dead_at_their_calls(tmp_path, dynamo):
    inputs = PlantedModel.inputs(300)
    path = exported(PlantedModel(), (inputs[0][:3],), tmp_path / "m.onnx", dynamo=dynamo)
    first, second, last = scan_onnx(open_onnx_model(path), split(inputs, 100)).sites
    assert (first.id, first.producers, first.consumers, first.dead_units) == ("relu#1", ["conv1"], ["conv2"], [0, 1])
    assert (second.id, second.producers, second.dead_units) == ("relu#2", ["conv2"], [3])
    assert (last.id, last.producers, last.consumers) == (":relu#1", ["fc1"], ["fc2"])
    assert last.dead_units[:4] == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def resnet():
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_resnet_has_the_sites_and_counts_of_the_eager_model(resnet, tmp_path, dynamo):
    """The exporter folds norms into convolutions: a pre-activation within rounding of 0 may fall on either side."""
    inputs = (torch.randn(SAMPLES, 3, 64, 64, generator=torch.Generator().manual_seed(1)),)
    path = exported(resnet, (inputs[0][:2],), tmp_path / "m.onnx", dynamo=dynamo)
    eager = scan_model(resnet, split(inputs, 4)).sites
    found = scan_onnx(open_onnx_model(path), split(inputs, 4)).sites
    assert len(found) == 17
    for one, other in zip(eager, found, strict=True):
        assert (other.id, other.units, other.unit_axis, other.axis_assumed) == (one.id, one.units, 1, False)
        assert [
            name for name in one.producers if ".bn" not in f".{name}" and "downsample.1" not in name
        ] == other.producers
        assert other.consumers == [name for name in one.consumers if ".bn" not in f".{name}"]
        assert other.positive_rate == pytest.approx(one.positive_rate, abs=0.01)
        assert other.firing_rate == pytest.approx(one.firing_rate, abs=1 / SAMPLES + 1e-9)
    wrong = sum(one.firing_rate != other.firing_rate for one, other in zip(eager, found, strict=True))
    assert wrong <= 1


def test_a_file_of_this_program_is_named_by_its_slopes(tmp_path):
    """Its exports keep no metadata: a PRelu carries its module's name, and weights do anyway."""
    inputs = PlantedModel.inputs(20)
    conversion = convert(PlantedModel(), None)
    conversion.save(tmp_path / "healed.safetensors", onnx=tmp_path / "healed.onnx")
    sites = scan_onnx(open_onnx_model(tmp_path / "healed.onnx"), split(inputs, 8)).sites
    assert [site.function for site in sites] == ["prelu"] * 3
    assert [site.producers for site in sites] == [["conv1"], ["conv2"], ["fc1"]]
    assert all(site.alpha.values == [0.0] * site.units for site in sites)

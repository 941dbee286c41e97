"""Sites and surgery on models of many libraries: every call found, every site a PReLU, every output equal."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from treated import equal

from benchmarks.zoo_models import ZooModel, zoo_models
from benchmarks.zoo_run.comparing import outputs_of
from benchmarks.zoo_run.dispatched import dispatched_rectifiers, rectifiers
from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.scanning.scan import scan_model
from prelu_doctor.sites.find import find_sites
from prelu_doctor.sites.trace import trace
from prelu_doctor.treatment.proven_surgery import operate_and_prove

DOZEN = [
    "torchvision/resnet18",
    "torchvision/googlenet",
    "torchvision/densenet121",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/mobilenet_v2",
    "torchvision/squeezenet1_1",
    "torchvision/swin_v2_t",
    "torchvision/lraspp_mobilenet_v3_large",
    "timm/resnest14d",
    "timm/ghostnet_050",
    "transformers/opt",
    "transformers/t5",
    "transformers/detr",
    "transformers/wav2vec2",
    "plain/transformer_encoder",
    "plain/cyclegan_generator",
    "plain/unet",
    "plain/unet_3d",
    "plain/tcn",
]

CALLS = {
    "torchvision/resnet18": 17,
    "torchvision/googlenet": 57,
    "torchvision/inception_v3": 94,
    "torchvision/densenet121": 121,
    "torchvision/swin_v2_t": 12,
    "transformers/t5": 4,
    "plain/rnn_relu": 12,
    "plain/unet": 10,
}
"""Rectifier calls of one forward, as they are known for these models."""

CALLS_IN_NO_SITE = {"transformers/timesfm": 1}
"""Calls that hold no units, for a reason that the scan gives."""

DECLINED: dict[str, int] = {}
"""Sites that keep their ReLU, for a reason that the surgery gives."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads wait for each other on inputs this small
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of these libraries: it is not their warnings that are tested
        yield
    torch.set_num_threads(threads)


def dataset_of(batch: Batch) -> Dataset:
    return Dataset(source="test", synthetic=False, seed=0, scanned=lambda: iter([batch]))


def check(entry: ZooModel) -> None:
    """Finds and operates on a model, and compares with the independent count and with the original's outputs."""
    model, batch = entry.build(), entry.samples(2, seed=0)
    expected = dispatched_rectifiers(model, batch)
    if not rectifiers(expected):
        pytest.skip("it makes no rectifier call")
    dataset = dataset_of(batch)
    before = scan_model(model, dataset.scanned())
    sites = [site for site in before.probe.sites.found if site.activation.function in ("relu", "relu6")]
    found = Counter(site.activation.function for site in sites for _ in site.calls)
    in_no_site = CALLS_IN_NO_SITE.get(entry.name, 0)
    assert found.total() == rectifiers(expected) - in_no_site
    assert found["relu6"] == expected["relu6"]
    unresolved = [entry for entry in before.unresolved if "never called" not in entry.reason]
    assert len([entry for entry in unresolved if "which have no gradient" not in entry.reason]) == in_no_site

    surgery, _ = operate_and_prove(model, dataset, before, "channel")
    declined = {site.id for site in sites}.intersection(surgery.declined)
    assert len(declined) == DECLINED.get(entry.name, 0), surgery.declined
    other = entry.samples(3, seed=1)
    outputs = outputs_of(model, other)
    assert outputs
    assert all(output.isfinite().all() for output in outputs if output.is_floating_point())
    assert any(output.double().std() > 0 for output in outputs if output.numel() > 1)
    assert equal(outputs_of(surgery.model, other), outputs)

    rewritten = [site for site in sites if site.id not in declined]
    after = find_sites(surgery.model, trace(surgery.model, batch))
    kinds = Counter(site.activation.function for site in after.found)
    already = sum(site.function == "prelu" for site in before.sites)
    assert kinds["prelu"] - already == len(rewritten)
    assert kinds["relu"] + kinds["relu6"] == len(declined)
    left = dispatched_rectifiers(surgery.model, batch)
    assert rectifiers(left) == sum(len(site.calls) for site in sites if site.id in declined) + in_no_site
    assert left["prelu"] - expected["prelu"] == sum(len(site.calls) for site in rewritten)
    slopes = [len(surgery.prelu(site.id).weight) for site in rewritten]
    assert slopes == [1 if site.axis_assumed else site.units for site in rewritten]


@pytest.mark.parametrize("name", DOZEN)
def test_a_few_models_of_every_library(name: str) -> None:
    check(zoo_models()[name])


@pytest.mark.parametrize("name", CALLS)
def test_the_numbers_of_calls_that_are_known(name: str) -> None:
    entry = zoo_models()[name]
    assert rectifiers(dispatched_rectifiers(entry.build(), entry.samples(2, seed=0))) == CALLS[name]


def test_the_zoo_is_as_large_as_it_says() -> None:
    families = {source: set() for source in ("torchvision", "timm", "transformers", "plain")}
    numbers: Counter[str] = Counter()
    for entry in zoo_models().values():
        families[entry.source].add(entry.family)
        numbers[entry.source] += 1
    assert numbers["torchvision"] >= 120
    assert numbers["timm"] >= 80
    assert len(families["timm"]) >= 40
    assert len(families["transformers"]) >= 25


OTHERS = [name for name in zoo_models() if name not in DOZEN]


@pytest.mark.zoo
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_model(name: str) -> None:
    check(zoo_models()[name])

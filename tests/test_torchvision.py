"""Sites and surgery on torchvision's classifiers: every call found, every site a PReLU, every output equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from treated import dataset_of, equal, gaussian, output_of

from prelu_doctor.scanning.scan import scan_model
from prelu_doctor.sites.find import find_sites
from prelu_doctor.sites.trace import trace
from prelu_doctor.treatment.proven_surgery import operate_and_prove

models = pytest.importorskip("torchvision.models")

SIZES = {
    "alexnet": 67,
    "vgg": 32,
    "inception_v3": 96,
    "vit": 32,
    "vit_h": 28,
    "swin": 32,
    "swin_v2": 64,
    "maxvit": 224,
    "googlenet": 48,
}
"""Side of the input by the start of a name, the longest that fits; 40 for the others."""

EXTRA: dict[str, dict[str, object]] = {
    "googlenet": {"init_weights": False, "aux_logits": False},
    "inception_v3": {"init_weights": False, "aux_logits": False},
    "vit_h": {"image_size": 28},
    "vit": {"image_size": 32},
}

DOZEN = [
    "alexnet",
    "vgg11_bn",
    "resnet18",
    "googlenet",
    "inception_v3",
    "densenet121",
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet0_5",
    "regnet_y_400mf",
    "swin_v2_t",
]

CALLS = {"resnet18": 17, "googlenet": 57, "inception_v3": 94, "densenet121": 121, "swin_v2_t": 12}
"""Rectifier calls of one forward, as they are known for these models."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads wait for each other on inputs this small
    yield
    torch.set_num_threads(threads)


class DispatchedRectifiers(TorchDispatchMode):
    """Counts the rectifier calls of a forward; shares nothing with the package."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.rstrip("_")
        bounds = [argument for argument in args[1:3] if isinstance(argument, int | float)]
        ceiling = name in ("hardtanh", "clamp") and bounds == [0, 6]
        if name in ("relu", "relu6") or ceiling or (name in ("clamp", "clamp_min") and bounds == [0]):
            self.calls["relu6" if ceiling or name == "relu6" else "relu"] += 1
        return func(*args, **(kwargs or {}))


def size_of(name: str) -> int:
    fitting = [start for start in SIZES if name.startswith(start)]
    return SIZES[max(fitting, key=len)] if fitting else 40


def build(name: str) -> nn.Module:
    """The model with random weights, drawn without the slow initialisers that some families have."""
    options = next((options for start, options in EXTRA.items() if name.startswith(start)), {})
    with pytest.MonkeyPatch.context() as patch:
        for init in (init for init in dir(nn.init) if init.endswith("_") and not init.startswith("_")):
            patch.setattr(nn.init, init, lambda tensor, *args, **kwargs: tensor)
        model = models.get_model(name, weights=None, **options).eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        _fill(module, generator)
    return model


@torch.no_grad()
def _fill(module: nn.Module, generator: torch.Generator) -> None:
    for tensor in module.parameters(recurse=False):
        fan_in = max(tensor[0].numel(), 1) if tensor.dim() > 1 else 100
        tensor.normal_(std=(2 / fan_in) ** 0.5, generator=generator)


def counted(model: nn.Module, x: Tensor) -> Counter[str]:
    counter = DispatchedRectifiers()
    with torch.inference_mode(), counter:
        model(x.clone())
    return counter.calls


def check(name: str) -> None:
    """Finds and operates on a model, and compares with the independent count and with the original's outputs."""
    model, x = build(name), gaussian(2, 3, size_of(name), size_of(name))
    expected = counted(model, x)
    dataset = dataset_of(x)
    before = scan_model(model, dataset.scanned())
    assert sum(site.calls for site in before.sites) == expected.total()
    assert Counter(s.activation.function for s in before.probe.sites.found for _ in s.calls) == expected
    assert not [entry for entry in before.unresolved if "never called" not in entry.reason]
    surgery, _ = operate_and_prove(model, dataset, before, "channel")
    assert surgery.declined == {}
    other = gaussian(3, 3, size_of(name), size_of(name), seed=1)
    outputs = output_of(model, other)
    assert all(output.isfinite().all() for output in outputs)
    assert outputs[0].std() > 0
    assert equal(output_of(surgery.model, other), outputs)
    after = find_sites(surgery.model, trace(surgery.model, dataset.first()))
    assert [site.activation.function for site in after.found] == ["prelu"] * len(before.sites)
    assert sum(len(site.calls) for site in after.found) == expected.total()
    assert [site.units for site in after.found] == [site.units for site in before.probe.sites.found]
    slopes = [len(surgery.prelu(site.id).weight) for site in before.sites]
    assert slopes == [1 if site.axis_assumed else site.units for site in before.sites]


@pytest.mark.parametrize("name", DOZEN)
def test_a_dozen_classifiers(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", CALLS)
def test_the_numbers_of_calls_that_are_known(name: str) -> None:
    assert counted(build(name), gaussian(2, 3, size_of(name), size_of(name))).total() == CALLS[name]


OTHERS = [name for name in models.list_models(module=models) if name not in DOZEN]


@pytest.mark.zoo
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_classifier(name: str) -> None:
    model = build(name)
    if not counted(model, gaussian(2, 3, size_of(name), size_of(name))):
        pytest.skip("it makes no rectifier call")
    del model
    check(name)

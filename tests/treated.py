"""What the tests of the treatment share: data sets out of tensors, a treatment in one call, models compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.leaves import tensors_of
from prelu_doctor.scanning.scan import Scan, scan_model
from prelu_doctor.treatment.conversion import Treated, Treatment, treat
from prelu_doctor.treatment.fine_tuning import Training
from prelu_doctor.treatment.proven_surgery import operate_and_prove
from prelu_doctor.treatment.surgery import Surgery

FIXTURES = Path(__file__).parents[1] / "fixtures"
UNTRAINED = Training(steps=0)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dataset_of(
    *inputs: Tensor,
    target: Tensor | None = None,
    held_out: tuple[Tensor, ...] | None = None,
    held_out_target: Tensor | None = None,
    batch_size: int = 64,
    synthetic: bool = False,
    keywords: Mapping[str, Tensor] | None = None,
) -> Dataset:
    def batches(tensors: tuple[Tensor, ...], labels: Tensor | None):
        whole = Batch(args=tensors, kwargs=keywords or {}, target=labels)
        for start in range(0, whole.size, batch_size):
            yield whole.take(slice(start, start + batch_size))

    return Dataset(
        source="test",
        synthetic=synthetic,
        seed=0,
        scanned=lambda: batches(inputs, target),
        held_out=None if held_out is None else lambda: batches(held_out, held_out_target),
    )


def untrained(model: nn.Module, *inputs: Tensor, **options: object) -> Treated:
    """The model treated on these inputs, without a fine-tune."""
    return treat(model.eval(), dataset_of(*inputs), Treatment(training=UNTRAINED, **options))


def operated(
    model: nn.Module, *inputs: Tensor, alpha_shape: str = "channel", **keywords: Tensor
) -> tuple[Surgery, Scan]:
    """The model's proven surgery, and its scan."""
    dataset = dataset_of(*inputs, keywords=keywords)
    before = scan_model(model, dataset.scanned())
    surgery, _ = operate_and_prove(model, dataset, before, alpha_shape)
    return surgery, before


def output_of(model: nn.Module, *inputs: Tensor, seed: int = 0, **keywords: Tensor) -> list[Tensor]:
    """All output tensors, with the same random numbers at every call."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return tensors_of(Batch(args=inputs, kwargs=keywords).clone().run(model))


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    """All elements `==`, so that -0.0 is 0.0."""
    return len(left) == len(right) and all(bool((a == b).all()) for a, b in zip(left, right, strict=True))


def same_state(left: nn.Module, right: nn.Module) -> bool:
    """Bit-equal parameters and buffers under the same names."""
    one, other = left.state_dict(), right.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

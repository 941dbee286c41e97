"""One model of the zoo: how to build it, and what inputs it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from unittest import mock

import torch
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch

Draw = Callable[[int, torch.Generator], Tensor]
"""Draws one input for a number of samples N: `[N, ...]`."""


@dataclass(frozen=True)
class ZooModel:
    """One architecture.

    Attributes:
        name: Unique in the zoo, `source/architecture`.
        family: What it is a variant of.
        make: Makes the module; its weights are drawn anew by `build`.
        args: Its positional inputs.
        kwargs: Its keyword inputs.
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    args: tuple[Draw, ...] = ()
    kwargs: Mapping[str, Draw] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The library that it comes from."""
        return self.name.partition("/")[0]

    def build(self) -> nn.Module:
        """The model in eval mode with seeded random weights, whose signals neither fade nor explode."""
        with _slow_initialisers_off():
            model = self.make().eval()
        generator = torch.Generator().manual_seed(0)
        for module in model.modules():
            _fill(module, generator)
        _settle_norms(model, self.samples(4, seed=2))
        return model

    def samples(self, number: int, *, seed: int) -> Batch:
        """Seeded random inputs for this many samples."""
        generator = torch.Generator().manual_seed(seed)
        return Batch(
            args=tuple(draw(number, generator) for draw in self.args),
            kwargs={name: draw(number, generator) for name, draw in self.kwargs.items()},
        )


def gaussian(*shape: int) -> Draw:
    """Standard normal numbers `[N, *shape]`."""
    return lambda number, generator: torch.randn(number, *shape, generator=generator)


def uniform(*shape: int) -> Draw:
    """Numbers in 0..1, `[N, *shape]`."""
    return lambda number, generator: torch.rand(number, *shape, generator=generator)


def tokens(vocabulary: int, *shape: int) -> Draw:
    """Token numbers `[N, *shape]`, without the first few, which are padding and the like."""
    return lambda number, generator: torch.randint(4, vocabulary, (number, *shape), generator=generator)


def ones(*shape: int) -> Draw:
    """A mask of ones `[N, *shape]`."""
    return lambda number, _: torch.ones(number, *shape, dtype=torch.long)


def counting(length: int) -> Draw:
    """0, 1, 2, ... in every sample, `[N, length]`."""
    return lambda number, _: torch.arange(length).repeat(number, 1)


SLOW_INITIALISERS = """
    normal_ uniform_ trunc_normal_ kaiming_normal_ kaiming_uniform_ xavier_normal_ xavier_uniform_ orthogonal_ sparse_
""".split()
"""Those that draw. Constants are left to the constructors, because some of these copy them."""


@contextlib.contextmanager
def _slow_initialisers_off() -> Iterator[None]:
    with contextlib.ExitStack() as patches:
        for name in SLOW_INITIALISERS:
            patches.enter_context(mock.patch.object(nn.init, name, lambda tensor, *args, **kwargs: tensor))
        yield


@torch.no_grad()
def _fill(module: nn.Module, generator: torch.Generator) -> None:
    """He-normal matrices and kernels; scales near 1, and shifts near 0.

    The shifts of batch norms lie near 1: with random weights and shifts of 0, every layer of a net without skip
    connections amplifies a rounding error by about 1.2 (Yang et al. 2019), which no trained net does.
    """
    for name, tensor in module.named_parameters(recurse=False):
        if tensor.dim() > 1:
            tensor.normal_(std=(2 / max(tensor[0].numel(), 1)) ** 0.5, generator=generator)
        else:
            near_one = name in ("weight", "scale") or isinstance(module, nn.modules.batchnorm._BatchNorm)
            tensor.normal_(mean=float(near_one), std=0.1, generator=generator)


def _settle_norms(model: nn.Module, batch: Batch) -> None:
    """Takes the running statistics of batch norms, frozen ones too, from one forward, as training would have."""

    def settle(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1)
        norm.running_mean.copy_(values.mean(1))
        variance = values.var(1)
        norm.running_var.copy_(variance.clamp(min=0.1 * float(variance.mean()) + 1e-6))

    norms = (module for module in model.modules() if isinstance(getattr(module, "running_mean", None), Tensor))
    handles = [norm.register_forward_pre_hook(settle) for norm in norms]
    if handles:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            batch.run(model)
    for handle in handles:
        handle.remove()

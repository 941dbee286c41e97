"""Models made on the spot from a function, and what the package finds in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch
from prelu_doctor.sites.find import Sites, find_sites
from prelu_doctor.sites.graph import Graph
from prelu_doctor.sites.trace import trace


class Made(nn.Module):
    """A model whose forward is a function of the model itself and the inputs; parts are given by name."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


def found_in(model: nn.Module, *inputs: Tensor, **keywords: Tensor) -> tuple[Graph, Sites]:
    """The graph of one forward, and its sites."""
    graph = trace(model, Batch(args=inputs, kwargs=keywords))
    return graph, find_sites(model, graph)


def ids_in(model: nn.Module, *inputs: Tensor) -> list[str]:
    return [site.id for site in found_in(model, *inputs)[1].found]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

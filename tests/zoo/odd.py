"""What every model of the zoo carries beside its forward: the answer a scan of it must give."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class Odd(nn.Module):
    """A small model named after its oddity, with its expected answer in eval mode.

    Attributes:
        expected_sites: Site id and number of units, in forward order.
        input_shape: One sample, without the batch axis.
        input_shapes: One shape for each positional input, where there are several.
        unit_axes: Axis of the units, for the sites where it is not 1.
        merged_calls: Calls in one forward, for the sites that are made of several with the same producers.
        functions: The activation, for the sites where it is not relu.
        axis_assumed: Sites behind no producer at all.
        input_independent: Sites that the input does not reach.
        uncalled: Activation modules that no forward reaches.
        truth: Units that are dead by construction, by site id.
        protected: Sites whose units must not be isolated, because something other than a known consumer weight
            reads them, or because a weight that reads them reads something else too.
    """

    expected_sites: ClassVar[list[tuple[str, int]]]
    input_shape: ClassVar[tuple[int, ...]] = ()
    input_shapes: ClassVar[tuple[tuple[int, ...], ...]] = ()
    unit_axes: ClassVar[dict[str, int]] = {}
    merged_calls: ClassVar[dict[str, int]] = {}
    functions: ClassVar[dict[str, str]] = {}
    axis_assumed: ClassVar[list[str]] = []
    input_independent: ClassVar[list[str]] = []
    uncalled: ClassVar[list[str]] = []
    truth: ClassVar[dict[str, list[int]]] = {}
    protected: ClassVar[list[str]] = []

    @classmethod
    def inputs(cls, samples: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
        """Seeded Gaussian inputs, each `[samples, ...]`."""
        generator = torch.Generator().manual_seed(seed)
        shapes = cls.input_shapes or (cls.input_shape,)
        return tuple(torch.randn(samples, *shape, generator=generator) for shape in shapes)

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
        keyword_shapes: One shape for each input that is given by keyword.
        dtype: Of the inputs.
        unit_axes: Axis of the units, for the sites where it is not 1.
        merged_calls: Calls in one forward, for the sites that are made of several with the same producers.
        call_order: The site of every call in one forward, where the calls of a site are not neighbours.
        functions: The activation, for the sites where it is not relu.
        axis_assumed: Sites behind no producer at all.
        input_independent: Sites that the input does not reach.
        uncalled: Activation modules that no forward reaches.
        unresolved: By id, calls that are no sites, and a word of the reason that must be given.
        truth: Units that are dead by construction, by site id.
        protected: Sites whose units must not be isolated, because something other than a known consumer weight
            reads them, or because a weight that reads them reads something else too.
        declines: By id, sites that keep their activation, and a word of the reason that must be given.
        by_batch: True where the forward looks at the batch as a whole, so that a sample alone may run otherwise.
    """

    expected_sites: ClassVar[list[tuple[str, int]]]
    input_shape: ClassVar[tuple[int, ...]] = ()
    input_shapes: ClassVar[tuple[tuple[int, ...], ...]] = ()
    keyword_shapes: ClassVar[dict[str, tuple[int, ...]]] = {}
    dtype: ClassVar[torch.dtype] = torch.float32
    unit_axes: ClassVar[dict[str, int]] = {}
    merged_calls: ClassVar[dict[str, int]] = {}
    call_order: ClassVar[list[str]] = []
    functions: ClassVar[dict[str, str]] = {}
    axis_assumed: ClassVar[list[str]] = []
    input_independent: ClassVar[list[str]] = []
    uncalled: ClassVar[list[str]] = []
    unresolved: ClassVar[dict[str, str]] = {}
    truth: ClassVar[dict[str, list[int]]] = {}
    protected: ClassVar[list[str]] = []
    declines: ClassVar[dict[str, str]] = {}
    by_batch: ClassVar[bool] = False

    @classmethod
    def inputs(cls, samples: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
        """Seeded Gaussian positional inputs, each `[samples, ...]`."""
        generator = torch.Generator().manual_seed(seed)
        shapes = cls.input_shapes or ((cls.input_shape,) if cls.input_shape else ())
        return tuple(torch.randn(samples, *shape, generator=generator).to(cls.dtype) for shape in shapes)

    @classmethod
    def keywords(cls, samples: int = 2, seed: int = 0) -> dict[str, Tensor]:
        """Seeded Gaussian inputs by keyword, each `[samples, ...]`."""
        generator = torch.Generator().manual_seed(seed + 1000)
        shapes = cls.keyword_shapes.items()
        return {name: torch.randn(samples, *shape, generator=generator).to(cls.dtype) for name, shape in shapes}

    def in_plain_python(self) -> nn.Module:
        """A model of the same weights whose calls Python sees, for the slow oracle; itself wherever possible."""
        return self

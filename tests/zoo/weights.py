"""Layers whose weights are no plain parameters of a plain layer."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from .odd import Odd


class _Normed(Odd):
    """Two linear layers, wrapped by the subclass, and the two ways to make a site."""

    expected_sites = [("act", 5), (":relu#1", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = self.wrapped(nn.Linear(4, 5))
        self.act = nn.ReLU()
        self.fc2 = self.wrapped(nn.Linear(5, 6))
        self.head = nn.Linear(6, 2)

    @staticmethod
    def wrapped(layer: nn.Linear) -> nn.Module:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc2(self.act(self.fc1(x)))))


class WeightNormed(_Normed):
    """Weights computed by the parametrization weight_norm: their columns are no parameter's."""

    protected = ["act"]

    @staticmethod
    def wrapped(layer: nn.Linear) -> nn.Module:
        return parametrizations.weight_norm(layer)


class SpectralNormed(_Normed):
    """The parametrization spectral_norm, which keeps vectors of its own and moves them in training."""

    protected = ["act"]

    @staticmethod
    def wrapped(layer: nn.Linear) -> nn.Module:
        return parametrizations.spectral_norm(layer)


class OrthogonalWeights(_Normed):
    """The parametrization orthogonal: a weight that only a matrix exponential writes."""

    protected = ["act"]

    @staticmethod
    def wrapped(layer: nn.Linear) -> nn.Module:
        return parametrizations.orthogonal(layer)


class OldWeightNormed(_Normed):
    """The old weight_norm, a hook that computes the weight before every forward."""

    protected = ["act"]

    @staticmethod
    def wrapped(layer: nn.Linear) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.utils.weight_norm(layer)


class OldSpectralNormed(_Normed):
    """The old spectral_norm."""

    protected = ["act"]

    @staticmethod
    def wrapped(layer: nn.Linear) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.utils.spectral_norm(layer)


class TiedProducers(Odd):
    """Two layers share one weight, without a bias: they write the same units, and make one site of two calls."""

    expected_sites = [(":relu#1", 5)]
    input_shapes = ((4,), (4,))
    merged_calls = {":relu#1": 2}

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 5, bias=False)
        self.right = nn.Linear(4, 5, bias=False)
        self.right.weight = self.left.weight
        self.left_head = nn.Linear(5, 2)
        self.right_head = nn.Linear(5, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left_head(F.relu(self.left(left))) + self.right_head(F.relu(self.right(right)))


class TiedWeightsOwnBiases(Odd):
    """Two layers share one weight, but each has a bias of its own: two sites."""

    expected_sites = [(":relu#1", 5), (":relu#2", 5)]
    input_shapes = ((4,), (4,))

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 5)
        self.right = nn.Linear(4, 5)
        self.right.weight = self.left.weight
        self.left_head = nn.Linear(5, 2)
        self.right_head = nn.Linear(5, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left_head(F.relu(self.left(left))) + self.right_head(F.relu(self.right(right)))


class TiedAutoencoder(Odd):
    """The decoder's weight is the encoder's, transposed: a column of the one is a row of the other."""

    expected_sites = [(":relu#1", 5)]
    input_shape = (4,)
    protected = [":relu#1"]

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(self.fc(x)), self.fc.weight.t())


class BufferWeights(Odd):
    """Fixed filters in a buffer, as of a spectrogram."""

    expected_sites = [(":relu#1", 5), (":relu#2", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", torch.randn(5, 4))
        self.fc = nn.Linear(5, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(F.relu(F.linear(x, self.filters)))))


class BareParameters(Odd):
    """No layer module at all: parameters, a matrix product, an addition."""

    expected_sites = [(":relu#1", 5), (":relu#2", 6), (":relu#3", 7)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(4, 5))
        self.b1 = nn.Parameter(torch.randn(5))
        self.w2 = nn.Parameter(torch.randn(6, 5))
        self.w3 = nn.Parameter(torch.randn(6, 7))
        self.b3 = nn.Parameter(torch.randn(7))
        self.w4 = nn.Parameter(torch.randn(7, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x @ self.w1 + self.b1)
        x = F.relu(torch.einsum("ni,oi->no", x, self.w2))
        x = F.relu(torch.addmm(self.b3, x, self.w3))
        return x @ self.w4


class ParameterListLoop(Odd):
    """The weights of a loop in an nn.ParameterList."""

    expected_sites = [(":relu#1", 5), (":relu#2", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(5, 4), torch.randn(6, 5)])
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = F.relu(F.linear(x, weight))
        return self.head(x)


class HyperNetwork(Odd):
    """The weights of a layer are computed from the sample: the layer that writes them writes the units."""

    expected_sites = [(":relu#1", 5)]
    input_shapes = ((4,), (3,))
    axis_assumed = [":relu#1"]

    def __init__(self) -> None:
        super().__init__()
        self.hyper = nn.Linear(3, 20)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        weights = self.hyper(context).view(-1, 5, 4)
        return self.head(F.relu(torch.bmm(weights, x.unsqueeze(2)).squeeze(2)))

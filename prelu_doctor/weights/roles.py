"""What a tensor of a state dict is for, as far as its name and its shape tell."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

SlopeSurety = Literal["recipe", "name", "one element", "undetermined"]


@dataclass(frozen=True)
class Layer:
    """A weight whose slices write a layer's outputs.

    Attributes:
        weight: Its name.
        bias: Name of the bias that is added to its outputs; empty where there is none.
        axis: The weight's axis that holds the outputs.
        doubt: What else it may be, so that the axis or the use is assumed; empty where names and shapes tell.
        alone: True where its slices and the bias are all that writes its outputs.
    """

    weight: str
    bias: str
    axis: int = 0
    doubt: str = ""
    alone: bool = True


@dataclass(frozen=True)
class Norm:
    """The scale and shift of a normalisation, or of a bare scaling.

    Attributes:
        scale: Name of the scale, [C].
        shift: Name of the shift, [C]; empty where there is none.
        running: True where running statistics stand beside it: a batch norm.
    """

    scale: str
    shift: str
    running: bool


@dataclass(frozen=True)
class Slope:
    """What may be the slopes of a PReLU.

    Attributes:
        name: Of the tensor.
        surety: What says so.
    """

    name: str
    surety: SlopeSurety


TRANSPOSED = "a transposed convolution, whose outputs lie on the other axis, looks the same"
EMBEDDING = "an embedding, whose padding row is zero on purpose, looks the same"
SQUARE = "a weight that is stored transposed looks the same"
GATES = "a recurrent layer adds what its other matrix gives"
GROUPED = "its bias belongs to other slices than these"
PARAMETRISED = "its parametrisation may turn 0 into something else"
DIRECTION = "a weight norm divides by the length of such a slice, which is 0"

_SHIFT_OF = {"weight": "bias", "gamma": "beta"}
_NORM_WORDS = re.compile(r"norm|rms|(^|_)ln(_|\d|$)|(^|_)bn(_|\d|$)", re.IGNORECASE)
_EMBEDDING_WORDS = re.compile(r"emb|wte|wpe|vocab|token", re.IGNORECASE)
_LAYER_WEIGHT = re.compile(r"weight|^kernel$", re.IGNORECASE)
_PARAMETRISED = re.compile(r"\.?parametrizations\.(?P<leaf>[^.]*weight[^.]*)\.original[01]?$")
_ORIGINAL = re.compile(r"original0?$")


def norm_of(name: str, state: Mapping[str, Tensor]) -> Norm | None:
    """The norm that a tensor is the scale of; None where it is none, or where names and shapes do not tell."""
    path, leaf = _split(name)
    scale = state[name]
    if leaf not in _SHIFT_OF or scale.ndim != 1:
        return None
    running = _joined(path, "running_var") in state
    shift = _joined(path, _SHIFT_OF[leaf])
    if shift in state:
        return Norm(name, shift, running) if state[shift].shape == scale.shape else None
    named = _NORM_WORDS.search(path.rpartition(".")[2]) is not None
    return Norm(name, "", running) if running or named else None


def slope_of(name: str, state: Mapping[str, Tensor], known: Collection[str] = ()) -> Slope | None:
    """The slopes that a tensor may be; None where it is none.

    Args:
        name: Of the tensor.
        state: All tensors by name.
        known: Paths of modules that are PReLUs for sure.
    """
    path, leaf = _split(name)
    if leaf != "weight" or state[name].ndim != 1:
        return None
    if path in known:
        return Slope(name, "recipe")
    if "prelu" in path.rpartition(".")[2].lower():
        return Slope(name, "name")
    if _joined(path, "bias") in state or norm_of(name, state):
        return None
    return Slope(name, "one element" if state[name].numel() == 1 else "undetermined")


def layer_of(name: str, state: Mapping[str, Tensor]) -> Layer | None:
    """The layer that a tensor is the weight of; None for what is no weight of a layer.

    PyTorch keeps outputs on axis 0, but on axis 1 in transposed convolutions (and in the `Conv1D` of transformers). The
    length of the bias tells which, where the weight is not square.
    """
    parametrised = _PARAMETRISED.search(name)
    path, leaf = _split(name)
    if parametrised:
        path, leaf = name[: parametrised.start()], parametrised["leaf"]
    if state[name].ndim < 2 or not _LAYER_WEIGHT.search(leaf):
        return None
    bias = _bias_of(path, leaf, state)
    if re.match(r"weight_[ih]h", leaf):
        return Layer(name, "", doubt=GATES, alone=False)
    if parametrised:
        return _parametrised(name, bias, _ORIGINAL.sub("original1", name), state)
    if leaf in ("weight_g", "weight_v"):
        return _parametrised(name, bias, _joined(path, "weight_v"), state)
    return _placed(name, bias, state[name].shape, state)


def may_be_padding(layer: Layer, zero: int) -> bool:
    """Whether so few zero rows may be an embedding's padding."""
    return layer.doubt == EMBEDDING and (zero == 1 or _EMBEDDING_WORDS.search(layer.weight) is not None)


def _parametrised(name: str, bias: str, direction: str, state: Mapping[str, Tensor]) -> Layer:
    """A tensor from which a weight is made: under spectral norm, weight norm (gain and direction), or another."""
    if f"{name.removesuffix('original')}0._u" in state:  # spectral norm keeps a zero slice zero
        return _placed(name, bias, state[name].shape, state)
    if name == direction:
        return Layer(name, "", doubt=DIRECTION, alone=False)
    if direction not in state or not _is_gain(state[name].shape, state[direction].shape):
        return Layer(name, "", doubt=PARAMETRISED, alone=False)
    placed = _placed(name, bias, state[direction].shape, state)
    return placed if placed.axis == 0 else Layer(name, "", doubt=GROUPED, alone=False)


def _placed(name: str, bias: str, shape: Sequence[int], state: Mapping[str, Tensor]) -> Layer:
    if not bias:
        return Layer(name, "", doubt=TRANSPOSED if len(shape) > 2 else EMBEDDING)
    length = len(state[bias])
    if length == shape[0]:
        return Layer(name, bias, doubt=SQUARE if shape[0] == shape[1] else "")
    if length == shape[1]:
        return Layer(name, bias, axis=1)
    return Layer(name, "", doubt=GROUPED, alone=False)


def _is_gain(gain: Sequence[int], direction: Sequence[int]) -> bool:
    """Whether a weight norm's gain has one value for each slice of axis 0."""
    return len(gain) == len(direction) and gain[0] == direction[0] and set(gain[1:]) == {1}


def _bias_of(path: str, leaf: str, state: Mapping[str, Tensor]) -> str:
    """The bias beside a weight: `bias`, `in_proj_bias` for `in_proj_weight`; empty where there is none of one axis."""
    plain = re.sub(r"_(orig|g|v)$", "", leaf).lower()
    name = _joined(path, "bias" if plain == "kernel" else plain.replace("weight", "bias"))
    return name if name in state and state[name].ndim == 1 else ""


def _split(name: str) -> tuple[str, str]:
    path, _, leaf = name.rpartition(".")
    return path, leaf


def _joined(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf

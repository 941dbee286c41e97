"""The shape of one sample, told by the model's first layer and by what its forward accepts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prelu_doctor.data import asking
from prelu_doctor.data.intake import Intake
from prelu_doctor.devices import device_of
from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped
from prelu_doctor.undisturbed import undisturbed

Shape = tuple[int, ...]

# Sizes that data sets have, in the order tried behind the preferred one: the common first, the costly last.
_SIZES_2D = (224, 28, 32, 64, 8, 16, 96, 128, 48, 256, 299, 112, 12, 14, 20, 24, 40, 50, 100, 160, 192, 227, 384, 512)
_SIZES_1D = (64, 128, 256, 16, 32, 100, 200, 512, 1000, 1024, 2048, 4096, 8000, 16000)
_SIZES_3D = (16, 8, 32, 64)
_STEPS = 16  # of a sequence; recurrent nets take any number


def guessed_input_shape(intake: Intake, *, seed: int = 0) -> tuple[Shape, str]:
    """The shape of one sample, found by running the model on two samples of noise.

    The first layer with parameters tells the number of features or channels: linear `(in,)`, else `(16, in)` as a
    sequence; recurrent and batch first `(16, in)`; a norm over the last axes its own shape. A convolution leaves the
    size open: the first size that the forward accepts is taken. 32 is tried first for one channel and 64 for more
    (3-d: 16), so that nets which take any size get a cheap one; then the sizes that data sets have. A linear layer
    behind a flatten accepts only the right one.

    Args:
        intake: What the model takes; the model is run in eval mode under inference_mode, and its modes are put back,
            also when the forward raises.
        seed: Of the noise.

    Returns:
        The shape, and how it was found, as ", guessed from 'conv1'".

    Raises:
        DataError: Where the first layer does not tell, several inputs are required, or no candidate runs.
    """
    assert intake.model is not None
    name, layer = _first_layer(intake.model)
    if len(intake.signature.required) > 1:
        raise asking.for_several_inputs(intake, layer)
    candidates = _candidates(layer)
    if not candidates:
        raise asking.for_what_no_layer_tells(intake, name, layer)
    with undisturbed(intake.model), torch.inference_mode():
        for shape in candidates:
            if _runs(intake, shape, seed):
                return shape, f", guessed from '{escaped(name)}'"
    raise DataError(
        f"the model runs on no input of a shape that its first layer '{escaped(name)}' suggests: "
        f"{', '.join('x'.join(map(str, shape)) for shape in candidates[:4])}, ...",
        "the shape of one sample, without the batch axis",
        f"--input-shape {_example(candidates[0])}, with the sizes that the model was trained on (or --data SPEC)",
    )


def _first_layer(model: nn.Module) -> tuple[str, nn.Module]:
    """The first module, in the order they were made, that has parameters of its own."""
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            return name or type(module).__name__, module
    return type(model).__name__, model


def _candidates(layer: nn.Module) -> list[Shape]:
    kind = asking.kind_of(layer)
    if kind == "Linear":
        features = _size(layer, "in_features", axis=1)
        return [(features,), (_STEPS, features)]
    if kind in asking.RECURRENT:
        # Without batch_first, axis 0 of the input is time: it cannot be told from outside which axis is the sample.
        return [(_STEPS, _size(layer, "input_size", axis=1))] if getattr(layer, "batch_first", False) else []
    if kind == "LayerNorm":
        return [tuple(_weight(layer).shape)]
    if kind.startswith("BatchNorm"):
        return _sized(_size(layer, "num_features", axis=0), axes=int(kind[-2]))
    if kind.startswith("Conv"):
        return _sized(_size(layer, "in_channels", axis=0 if "Transpose" in kind else 1), axes=int(kind[-2]))
    return []


def _size(layer: nn.Module, attribute: str, axis: int) -> int:
    """A size that the layer names; a traced one has nothing but its weight to tell it."""
    named = getattr(layer, attribute, None)
    return int(named) if isinstance(named, int) else _weight(layer).shape[axis]


def _weight(layer: nn.Module) -> Tensor:
    return next(layer.parameters(recurse=False))


def _sized(channels: int, axes: int) -> list[Shape]:
    preferred = 16 if axes == 3 else (32 if channels <= 1 else 64)
    sizes = {1: _SIZES_1D, 2: _SIZES_2D, 3: _SIZES_3D}[axes]
    ordered = dict.fromkeys((preferred, *sizes))
    flat = [(channels,)] if axes == 1 else []  # a BatchNorm1d in front may stand before a linear layer
    return [(channels, *(size,) * axes) for size in ordered] + flat


def _runs(intake: Intake, shape: Shape, seed: int) -> bool:
    assert intake.model is not None
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    try:
        intake.model(noise.to(device_of(intake.model), intake.float_type))
    except Exception:  # whatever the user's forward raises: this shape is not the one
        return False
    return True


def _example(shape: Shape) -> str:
    axes = ",".join("DHW"[-(len(shape) - 1) :]) if len(shape) > 1 else ""
    return f"{shape[0]},{axes}" if axes else str(shape[0])

"""The shape of one sample, told by the model's first layer and by what its forward accepts."""

from __future__ import annotations

import torch
from torch import nn

from prelu_doctor.data.model_types import model_float_type
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

_CONVOLUTIONS = {
    1: (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d),
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d),
}


def guessed_input_shape(model: nn.Module, *, seed: int = 0) -> tuple[Shape, str]:
    """The shape of one sample, found by running the model on two samples of noise.

    The first layer with parameters tells the number of features or channels: linear `(in,)`, else `(16, in)` as a
    sequence; recurrent and batch first `(16, in)`; a norm over the last axes its own shape. A convolution leaves the
    size open: the first size that the forward accepts is taken. 32 is tried first for one channel and 64 for more
    (3-d: 16), so that nets which take any size get a cheap one; then the sizes that data sets have. A linear layer
    behind a flatten accepts only the right one.

    Args:
        model: Run in eval mode under inference_mode; its modes are put back, also when the forward raises.
        seed: Of the noise.

    Returns:
        The shape, and how it was found, as ", guessed from 'conv1'".

    Raises:
        DataError: Where the first layer does not tell, or no candidate runs.
    """
    name, layer = _first_layer(model)
    candidates = _candidates(layer)
    if not candidates:
        raise DataError(
            f"the model's first layer '{escaped(name)}' ({type(layer).__name__}) does not tell the shape of an input",
            "samples, or the shape of one",
            "--data SPEC, or --input-shape with the shape of one sample, as --input-shape 3,224,224",
        )
    with undisturbed(model), torch.inference_mode():
        for shape in candidates:
            if _runs(model, shape, seed):
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
    if isinstance(layer, nn.Linear):
        return [(layer.in_features,), (_STEPS, layer.in_features)]
    if isinstance(layer, nn.RNNBase):
        # Without batch_first, axis 0 of the input is time: it cannot be told from outside which axis is the sample.
        return [(_STEPS, layer.input_size)] if layer.batch_first else []
    if isinstance(layer, nn.LayerNorm):
        return [tuple(layer.normalized_shape)]
    for axes, classes in _CONVOLUTIONS.items():
        if isinstance(layer, classes):
            return _sized(_channels(layer), axes)
    return []


def _channels(layer: nn.Module) -> int:
    found = getattr(layer, "in_channels", None) or getattr(layer, "num_features", None)
    return int(found or 1)


def _sized(channels: int, axes: int) -> list[Shape]:
    preferred = 16 if axes == 3 else (32 if channels <= 1 else 64)
    sizes = {1: _SIZES_1D, 2: _SIZES_2D, 3: _SIZES_3D}[axes]
    ordered = dict.fromkeys((preferred, *sizes))
    flat = [(channels,)] if axes == 1 else []  # a BatchNorm1d in front may stand before a linear layer
    return [(channels, *(size,) * axes) for size in ordered] + flat


def _runs(model: nn.Module, shape: Shape, seed: int) -> bool:
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    try:
        model(noise.to(device_of(model), model_float_type(model)))
    except Exception:  # whatever the user's forward raises: this shape is not the one
        return False
    return True


def _example(shape: Shape) -> str:
    axes = ",".join("DHW"[-(len(shape) - 1) :]) if len(shape) > 1 else ""
    return f"{shape[0]},{axes}" if axes else str(shape[0])

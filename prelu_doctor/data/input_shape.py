"""The shape of one sample, told by the model's first layer and by what its forward accepts."""

from __future__ import annotations

import torch

from prelu_doctor.data import asking
from prelu_doctor.data.first_layer import TIME_FIRST, FirstLayer, first_layer
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
_CONVOLUTIONS = {f"Conv{axes}d": axes for axes in (1, 2, 3)}
_TRANSPOSED = {f"ConvTranspose{axes}d": axes for axes in (1, 2, 3)}
_NORMS = {f"BatchNorm{axes}d": axes for axes in (1, 2, 3)}
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
    layer = first_layer(intake.model)
    if len(intake.signature.required) > 1:
        raise asking.for_several_inputs(intake, layer)
    candidates = _candidates(layer)
    if not candidates:
        raise asking.for_what_no_layer_tells(intake, layer)
    with undisturbed(intake.model), torch.inference_mode():
        for shape in candidates:
            if _runs(intake, shape, seed):
                return shape, f", guessed from '{escaped(layer.name)}'"
    raise DataError(
        f"the model runs on no input of a shape that its first layer '{escaped(layer.name)}' suggests: "
        f"{', '.join('x'.join(map(str, shape)) for shape in candidates[:4])}, ...",
        "the shape of one sample, without the batch axis",
        f"--input-shape {_example(layer, candidates[0])}, with the sizes it was trained on (or --data SPEC)",
    )


def _candidates(layer: FirstLayer) -> list[Shape]:
    kind = layer.kind
    if kind == "Linear":
        features = layer.size("in_features", axis=1)
        return [(features,), (_STEPS, features)]
    if kind in TIME_FIRST:
        # Without batch_first, axis 0 of the input is time: it cannot be told from outside which axis is the sample.
        return [(_STEPS, layer.features)] if layer.batch_first else []
    if kind == "LayerNorm":
        return [layer.weight_shape]
    if kind in _NORMS:
        return _sized(layer.size("num_features", axis=0), _NORMS[kind])
    if kind in _CONVOLUTIONS:
        return _sized(layer.size("in_channels", axis=1), _CONVOLUTIONS[kind])
    if kind in _TRANSPOSED:
        return _sized(layer.size("in_channels", axis=0), _TRANSPOSED[kind])
    return []


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


def _example(layer: FirstLayer, shape: Shape) -> str:
    """What to write for one sample, with letters for the sizes that the layer leaves open."""
    spatial = {**_CONVOLUTIONS, **_TRANSPOSED, **_NORMS}.get(layer.kind)
    if spatial:
        return ",".join([str(shape[0]), *"DHW"[-spatial:]])
    letters = ["T"] if layer.kind in TIME_FIRST else []
    return ",".join([*letters, *map(str, shape[len(letters) :])])

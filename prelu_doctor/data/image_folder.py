"""A folder of images, read a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prelu_doctor.data.batches import Batch, Dataset
from prelu_doctor.data.intake import Intake
from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class _Form:
    """How images are brought to the model: the mode of their channels, and (H, W), or None to leave their size."""

    mode: str
    size: tuple[int, int] | None
    float_type: torch.dtype


def image_dataset(
    folder: Path,
    *,
    intake: Intake,
    input_shapes: Sequence[tuple[int, ...]],
    batch_size: int,
    max_samples: int | None,
    seed: int,
) -> Dataset:
    """The images below a folder, in the order of their paths, as `[N, C, H, W]` in 0..1.

    Gray or RGB according to the input shape's channels, else to the first convolution's. Resized (bilinear, without
    keeping the ratio) to the input shape where one is given; nothing is normalised. Where every image lies in a
    subfolder, the sorted names of the subfolders are the labels.

    Args:
        folder: Searched with its subfolders; hidden files and files that are no images are left out.
        intake: What the model takes: type, channels and, where its file tells it, size.
        input_shapes: At most one, (C, H, W).
        batch_size: Images read at a time.
        max_samples: The first so many, in the order of their paths.
        seed: Passed on.

    Raises:
        DataError: Where there are no images, Pillow is not installed, or (while iterating) one cannot be read.
    """
    images, others = _listed_images(folder)
    labels = _labels(folder, images)
    form = _form(intake, input_shapes or intake.told_shapes)
    used = images[:max_samples]

    def batches() -> Iterator[Batch]:
        for start in range(0, len(used), batch_size):
            paths = used[start : start + batch_size]
            target = None if labels is None else torch.tensor([labels[path] for path in paths])
            yield intake.fitted(Batch(args=(_stacked(paths, form),), target=target), escaped(folder))

    first = next(batches()).args[0]
    count = f"{len(used)}" if len(used) == len(images) else f"{len(used)} of {len(images)}"
    skipped = f", {others} other files left out" if others else ""
    told = f"x: {count} x {'x'.join(map(str, first.shape[1:]))}{skipped}"
    return Dataset(str(folder), synthetic=False, seed=seed, scanned=batches, contents=told)


def _listed_images(folder: Path) -> tuple[list[Path], int]:
    try:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _hidden(path, folder)]
    except OSError as error:
        raise DataError(f"{escaped(folder)}: {error.strerror}", "a folder that can be read") from error
    images = [path for path in files if path.suffix.lower() in _SUFFIXES]
    if not images:
        raise DataError(
            f"{escaped(folder)}: a folder with {len(files)} files and no images",
            "images, or a file of arrays",
            "name the data file in it, if that is what you meant",
        )
    return images, len(files) - len(images)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _labels(folder: Path, images: list[Path]) -> dict[Path, int] | None:
    """The class of each image: the place of its subfolder among the sorted ones; None where one has no subfolder."""
    inner = {path: path.relative_to(folder).parts for path in images}
    if any(len(parts) == 1 for parts in inner.values()):
        return None
    classes = sorted({parts[0] for parts in inner.values()})
    return {path: classes.index(parts[0]) for path, parts in inner.items()}


def _form(intake: Intake, input_shapes: Sequence[tuple[int, ...]]) -> _Form:
    if len(input_shapes) > 1 or any(len(shape) != 3 for shape in input_shapes):
        raise DataError(f"input shapes {list(input_shapes)}", "one shape C,H,W for images", "--input-shape 3,224,224")
    channels = input_shapes[0][0] if input_shapes else _first_channels(intake)
    if channels not in _MODES:
        raise DataError(
            f"a model with {channels} input channels", "1 (gray) or 3 (RGB) for images", "--data with a file of arrays"
        )
    size = (input_shapes[0][1], input_shapes[0][2]) if input_shapes else None
    return _Form(_MODES[channels], size, intake.float_type)


def _first_channels(intake: Intake) -> int:
    told = [] if intake.expected is None else [each.shape[1] for each in intake.expected.inputs if len(each.shape) == 4]
    if told and told[0] is not None:
        return told[0]
    layers = [] if intake.model is None else list(intake.model.modules())
    return next((layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d)), 3)


def _stacked(paths: list[Path], form: _Form) -> Tensor:
    images = [_image(path, form) for path in paths]
    odd = next((k for k, image in enumerate(images) if image.shape != images[0].shape), None)
    if odd is not None:
        raise DataError(
            f"{escaped(paths[odd])}: {_size(images[odd])}, and {escaped(paths[0])}: {_size(images[0])}",
            "images of one size",
            f"--input-shape {images[0].shape[0]},H,W to resize them",
        )
    return torch.stack(images)


def _size(image: Tensor) -> str:
    return f"{image.shape[1]}x{image.shape[2]}"


def _image(path: Path, form: _Form) -> Tensor:
    pillow = _pillow()
    try:
        with pillow.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    f"{escaped(path)}: more than 8 bits a channel", "8-bit images", "--data with a file of arrays"
                )
            shown = image.convert(form.mode)
            if form.size is not None:
                shown = shown.resize((form.size[1], form.size[0]), pillow.Resampling.BILINEAR)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged and oversized files
        raise DataError(
            f"{escaped(path)}: not a readable image: {escaped(error, 200)}", "an image", "remove or replace it"
        ) from error
    values = np.atleast_3d(np.asarray(shown, dtype=np.float32)) / 255
    return torch.from_numpy(values).permute(2, 0, 1).to(form.float_type)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            "Pillow is not installed", "Pillow, to read images", "pip install 'prelu-doctor[vision]'"
        ) from error
    return Image

"""Which arrays of a data file are inputs, which are labels, and which are held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from prelu_doctor.data.batches import Batch
from prelu_doctor.data.forward_signature import ForwardSignature
from prelu_doctor.data.shapes import check_lengths
from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped, listed

_LABELS = "y"
_HELD_OUT = "_val"


def scanned_and_held_out(
    arrays: Mapping[str, Tensor], signature: ForwardSignature, name: str
) -> tuple[Batch, Batch | None]:
    """All samples to scan as one batch, and all held-out ones as another.

    The input is `x`, or the only array, or the arrays named like the forward's arguments; `y` are the labels, unless
    the forward requires an argument of that name; `x_val`, `y_val` (or `<argument>_val`) are held out.

    Args:
        arrays: As the file names them; axis 0 is the sample.
        signature: Of the model's forward.
        name: Of the file, for messages.

    Raises:
        DataError: Where names do not fit, an array has no place, or lengths differ or are 0.
    """
    labels = "" if _LABELS in signature.required else _LABELS
    held = {key for key in arrays if key.endswith(_HELD_OUT) and key not in signature.names}
    inputs = sorted((key for key in arrays if key not in held and key != labels), key=_place_in(signature))
    by_name = _by_name(inputs, signature, name)
    scanned = _part(arrays, inputs, labels, by_name, "")
    check_lengths(scanned, name)
    if not held:
        return scanned, None
    _check_held_out(held, inputs, labels, labels in arrays, name)
    held_out = _part(arrays, inputs, labels, by_name, _HELD_OUT)
    check_lengths(held_out, f"{name} (held-out part)")
    return scanned, held_out


def _place_in(signature: ForwardSignature) -> Callable[[str], int]:
    """The order of the forward's arguments, names that it does not have last."""
    places = {name: place for place, name in enumerate(signature.names)}
    return lambda key: places.get(key, len(places))


def _by_name(inputs: list[str], signature: ForwardSignature, name: str) -> bool:
    """Whether the inputs go to the forward by name; else the only one goes by position."""
    known = [key for key in inputs if key in signature.names]
    if len(inputs) == 1 and (not known or inputs == ["x"]):
        _check_enough(signature.required[:1], signature, name)
        return False
    if inputs and (len(known) == len(inputs) or (signature.any_name and "x" not in inputs)):
        _check_enough(inputs, signature, name)
        return True
    raise DataError(
        f"{name}: has the arrays {listed(inputs)}" if inputs else f"{name}: has no array of inputs",
        f"x, or one array, or the forward's arguments {listed(signature.names)}; y for labels; x_val and y_val",
        "rename or leave out the arrays that are something else",
    )


def _check_enough(given: list[str] | tuple[str, ...], signature: ForwardSignature, name: str) -> None:
    lacking = [key for key in signature.required if key not in given]
    if lacking:
        raise DataError(
            f"{name}: no array {listed(lacking)}",
            f"an array for each argument that the forward requires: {listed(signature.required)}",
            "add them to the file, named like the arguments",
        )


def _part(arrays: Mapping[str, Tensor], inputs: list[str], labels: str, by_name: bool, suffix: str) -> Batch:
    found = {key: arrays[key + suffix] for key in inputs}
    target = arrays.get(labels + suffix) if labels else None
    return Batch(kwargs=found, target=target) if by_name else Batch(args=tuple(found.values()), target=target)


def _check_held_out(held: set[str], inputs: list[str], labels: str, has_labels: bool, name: str) -> None:
    needed = {key + _HELD_OUT for key in inputs} | ({labels + _HELD_OUT} if has_labels else set())
    if held != needed:
        raise DataError(
            f"{name}: has the held-out arrays {listed(sorted(held))}",
            f"{listed(sorted(needed))}, one for each array that is scanned",
            f"add or rename them; a name that ends with {escaped(_HELD_OUT)} means held out",
        )

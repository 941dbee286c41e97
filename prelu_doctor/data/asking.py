"""Errors that ask for the input that a model does not reveal, with the option to add."""

from __future__ import annotations

from prelu_doctor.data.first_layer import TIME_FIRST, TOKENS, FirstLayer
from prelu_doctor.data.intake import Intake, described
from prelu_doctor.data.shapes import type_name
from prelu_doctor.errors import DataError
from prelu_doctor.escaping import escaped, listed
from prelu_doctor.expected_inputs import ExpectedInput, ExpectedInputs

_ONE_SHAPE = "--input-shape with the shape of one sample, without the batch axis, as --input-shape 3,224,224"


def for_several_inputs(intake: Intake, layer: FirstLayer) -> DataError:
    """The forward requires more than one argument.

    Args:
        intake: What the model takes.
        layer: Its first layer.
    """
    names = intake.signature.required
    if layer.kind in TOKENS:
        return DataError(
            f"the model's forward takes {listed(names)}, and its first layer '{escaped(layer.name)}' looks up whole "
            "numbers",
            "samples: they cannot be drawn as noise",
            f"--data tokens.npz with the arrays {listed(names)}, the tokens among them as int64{_below(layer)}",
        )
    shapes = " ".join(f"--input-shape <{escaped(name)}>" for name in names)
    return DataError(
        f"the model's forward takes {listed(names)}, and nothing tells their shapes",
        "samples, or the shape of one sample of each, without the batch axis",
        f"--data data.npz with the arrays {listed(names)}, or {shapes} (as --input-shape 3,32,32 --input-shape 10)",
    )


def for_what_no_layer_tells(intake: Intake, layer: FirstLayer) -> DataError:
    """The first layer tells no shape.

    Args:
        intake: What the model takes.
        layer: Its first layer; the model itself where none has parameters.
    """
    told = f"the model's first layer '{escaped(layer.name)}'{f' ({layer.kind})' if layer.kind else ''}"
    argument = next(iter((*intake.signature.required, *intake.signature.names)), "x")
    if layer.kind in TOKENS:
        return DataError(
            f"{told} looks up whole numbers",
            "samples: they cannot be drawn as noise",
            f"--data tokens.npz with an int64 array '{escaped(argument)}' [N, length]{_below(layer)}",
        )
    if layer.kind in TIME_FIRST:
        features = layer.features
        return DataError(
            f"{told} takes time on axis 0, which does not tell whether the model does",
            f"samples of '{escaped(argument)}', or the shape of one where the model's own axis 0 is the batch",
            f"--input-shape T,{features} with a number of steps where it is; else --data module:callable that yields "
            f"whole calls, prelu_doctor.Call(x) with x [T, N, {features}]",
        )
    return DataError(
        f"{told} does not tell the shape of an input",
        f"samples of '{escaped(argument)}', or the shape of one",
        f"--data SPEC, or {_ONE_SHAPE}",
    )


def for_numbers(given: ExpectedInput, expected: ExpectedInputs) -> DataError:
    """The file takes an input that noise cannot stand for.

    Args:
        given: That input.
        expected: All of them.
    """
    kind = type_name(given.dtype)
    others = [each.name for each in expected.inputs if each is not given]
    beside = f" beside {listed(others)}" if others else ""
    article = "an" if kind[0] in "aeiou" else "a"
    remedy = f"--data data.npz with {article} {kind} array '{escaped(given.name)}'{beside}"
    if not expected.batched:
        remedy = "--data module:callable that yields whole calls, prelu_doctor.Call(...)"
    return DataError(
        f"the model's file takes {described(expected)}, and '{escaped(given.name)}' holds {kind}",
        "samples: they cannot be drawn as noise",
        remedy,
    )


def for_open_sizes(expected: ExpectedInputs) -> DataError:
    """The file leaves sizes open that noise must have."""
    options = [
        f"--input-shape {','.join(_letter(size, axis) for axis, size in enumerate(each.shape[1:]))}"
        for each in expected.inputs
    ]
    remedy = f"{' '.join(options)} with numbers for the letters, or --data SPEC"
    if not expected.batched:
        remedy = "--data module:callable that yields whole calls, prelu_doctor.Call(...)"
    return DataError(f"the model's file takes {described(expected)}, and leaves sizes open (?)", "sizes", remedy)


def _letter(size: int | None, axis: int) -> str:
    return "ABCDEFGH"[axis % 8] if size is None else str(size)


def _below(layer: FirstLayer) -> str:
    return f", whole numbers below {layer.words}"

"""A model of a class of transformers, made from a plain configuration and weights that were read already."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from prelu_doctor.errors import CheckpointError
from prelu_doctor.escaping import escaped, listed, reason_of

_ARCH = "--arch module:callable"


def built_model(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> tuple[nn.Module, str]:
    """The model in eval mode, with the weights in it, of the floating type in which they are stored.

    It is built without memory for its weights first, and given up as soon as it is larger than the weights can be.

    Args:
        folder: For messages.
        config: Plain values: nothing in it may name code or another model.
        state: All weights; those that are tied may stand there once.

    Returns:
        The model, and a note of the weights that it has no use for.

    Raises:
        CheckpointError: Where transformers is missing or too old for the model, the class is not one of its models,
            or the weights do not fit it.
    """
    with _offline(), _quiet():
        made = _model_class(folder, config)
        try:
            settings = made.config_class.from_dict(config)
            with _no_larger_than(state):
                model, info = made.from_pretrained(
                    None,
                    config=settings,
                    state_dict=dict(state),
                    dtype=_float_type(state),
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except Exception as error:  # the configuration is a file: transformers raises whatever it likes over it
            raise _misfit(folder, f"{made.__name__}: {reason_of(error, 300)}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise _misfit(folder, f"{made.__name__} has {len(missing)} weights that are not there: {listed(missing, 5)}")
    module: nn.Module = model.eval()
    leftover = sorted(info["unexpected_keys"])
    return module, f"{len(leftover)} weights left over: {listed(leftover, 3)}" if leftover else ""


def _model_class(folder: Path, config: Mapping[str, Any]) -> Any:
    """The subclass of `transformers.PreTrainedModel` that the configuration names."""
    try:
        import transformers
        from transformers import PreTrainedModel
    except ImportError as error:
        raise CheckpointError(
            f"{escaped(folder)}: a folder of a Hugging Face model, and transformers is not installed",
            "transformers, which has the classes of such models",
            f"pip install transformers, or pass {_ARCH}",
        ) from error
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    if not isinstance(name, str):
        raise CheckpointError(
            f"{escaped(folder)}: its config.json names no architecture",
            '"architectures": ["NAME"] with a class of transformers',
            f"save it anew with save_pretrained, or pass {_ARCH}",
        )
    found = getattr(transformers, name, None) if name.isidentifier() and not name.startswith("_") else None
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)) or found.config_class is None:
        raise CheckpointError(
            f"{escaped(folder)}: its config.json names the architecture '{escaped(name)}'",
            f"a model of transformers {transformers.__version__}",
            f"pip install --upgrade transformers, if it is a new one; or pass {_ARCH}",
        )
    return found


def _float_type(state: Mapping[str, Tensor]) -> torch.dtype:
    """The floating type that most of the weights have."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in state.values():
        if tensor.is_floating_point():
            sizes[tensor.dtype] += tensor.numel()
    return sizes.most_common(1)[0][0] if sizes else torch.float32


@contextlib.contextmanager
def _no_larger_than(state: Mapping[str, Tensor]) -> Iterator[None]:
    """Give up on a model, while it is being built, once it has far more weights or modules than there are here.

    Weights that are tied in the end are made apart first, so that twice as many are sound; tables that a model
    computes for itself (masks, positions) are no weights.
    """
    size = sum(tensor.numel() for tensor in state.values())
    left = {"weights": 2 * size + 2**16, "values in tables": 16 * size + 2**26, "parts": 50 * len(state) + 1000}

    def spend(what: str, amount: int) -> None:
        left[what] -= amount
        if left[what] < 0:
            raise MemoryError(f"its config.json describes a model of far more {what} than the file has")

    def count_parameter(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        if parameter is not None and parameter.is_meta:
            spend("weights", parameter.numel())

    def count_buffer(module: nn.Module, name: str, buffer: Tensor | None) -> None:
        if buffer is not None:
            spend("values in tables", buffer.numel())

    def count_module(module: nn.Module, name: str, part: nn.Module | None) -> None:
        spend("parts", 1)

    watching = [
        registration.register_module_parameter_registration_hook(count_parameter),
        registration.register_module_buffer_registration_hook(count_buffer),
        registration.register_module_module_registration_hook(count_module),
    ]
    try:
        yield
    finally:
        for handle in watching:
            handle.remove()


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Within this block the library that talks to the hub refuses to."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and the notes of transformers: what matters comes as an error or as our note."""
    try:
        from transformers.utils import logging
    except ImportError:
        yield
        return
    notes: Any = logging
    level, bars = notes.get_verbosity(), notes.is_progress_bar_enabled()
    notes.set_verbosity(notes.CRITICAL)
    notes.disable_progress_bar()
    try:
        yield
    finally:
        notes.set_verbosity(level)
        if bars:
            notes.enable_progress_bar()


def _misfit(folder: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{escaped(folder)}: config.json and the weights do not make a model: {problem}",
        "the configuration and the weights of one model",
        f"copy or download the whole folder again, or pass {_ARCH}",
    )

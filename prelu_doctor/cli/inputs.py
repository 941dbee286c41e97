"""The input options, the same for every command, and what they open."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from prelu_doctor.cli import options
from prelu_doctor.errors import UsageError

if TYPE_CHECKING:
    from prelu_doctor.bare_weights import BareWeights
    from prelu_doctor.data.batches import Dataset
    from prelu_doctor.onnx_patient import OnnxPatient
    from prelu_doctor.patient import Patient


@dataclass(frozen=True)
class Inputs:
    """The input options as they were given; each field is one."""

    arch: options.Arch = None
    arch_args: options.ArchArgs = None
    data: options.Data = None
    input_shapes: options.InputShapes = None
    batch_size: options.BatchSize = 64
    max_samples: options.MaxSamples = None
    device: options.Device = "auto"
    seed: options.Seed = 0
    trust: options.Trust = False
    allow_classes: options.AllowClasses = None
    weights_key: options.WeightsKey = None
    method: options.Method = None

    def files(self, *checkpoints: Path) -> list[Path]:
        """Every file that a run on these checkpoints reads, as far as it can be told; none may be written."""
        from prelu_doctor.checkpoints.recipes import RECIPE_SUFFIX
        from prelu_doctor.checkpoints.sharded import shards_of

        recipes = [
            checkpoint.with_name(checkpoint.name + RECIPE_SUFFIX) for checkpoint in checkpoints if checkpoint.name
        ]
        specs = [Path(spec) for spec in (self.arch, self.data) if spec]
        code = [Path(str(spec).rpartition(":")[0]) for spec in specs if ":" in str(spec)]
        folders = [path for path in (*specs, *checkpoints) if path.is_dir()]
        shards = [shard for checkpoint in checkpoints if checkpoint.is_file() for shard in shards_of(checkpoint)]
        inside = [file for folder in folders for file in folder.rglob("*")]
        return [*checkpoints, *recipes, *specs, *code, *shards, *inside]

    def patient(self, checkpoint: Path) -> Patient:
        """The model in a checkpoint."""
        from prelu_doctor.patient import open_patient

        return open_patient(
            checkpoint,
            arch=self.arch,
            arch_args=self._arch_args(),
            trust=self.trust,
            allow_classes=self.allow_classes or (),
            weights_key=self.weights_key,
            method=self.method,
            device=self.device,
        )

    def examined(self, checkpoint: Path) -> Patient | BareWeights | OnnxPatient:
        """The model in a checkpoint, or its weights where it holds no more and `--arch` does not tell the rest."""
        from prelu_doctor.bare_weights import BareWeights
        from prelu_doctor.checkpoints.reading import Reading
        from prelu_doctor.patient import Opening, open_checkpoint

        reading = Reading(
            trust=self.trust,
            allow_classes=tuple(self.allow_classes or ()),
            weights_key=self.weights_key,
            method=self.method,
        )
        examined = open_checkpoint(checkpoint, Opening(self.arch, self._arch_args(), reading, self.device))
        if isinstance(examined, BareWeights):
            examined.check_nothing_to_run(self._for_a_forward())
        return examined

    def _arch_args(self) -> dict[str, object]:
        from prelu_doctor.checkpoints.architecture import parse_arch_args

        return parse_arch_args(self.arch_args or [])

    def _for_a_forward(self) -> list[str]:
        """The options that were given, and that say something about a forward."""
        given = {
            "--arch-arg": bool(self.arch_args),
            "--data": self.data is not None,
            "--input-shape": bool(self.input_shapes),
            "--max-samples": self.max_samples is not None,
            "--method": self.method is not None,
        }
        return [option for option, is_given in given.items() if is_given]

    def dataset(self, patient: Patient | OnnxPatient) -> Dataset:
        """The sample data for a model."""
        from prelu_doctor.data.sources import open_dataset

        if self.data == "":  # a path of no letters is the current folder, which nobody meant
            raise UsageError("--data ''", "a file, a folder or module:callable", "leave --data out for noise")
        return open_dataset(
            self.data,
            model=patient.module,
            expected=patient.expected,
            input_shapes=[parse_shape(text) for text in self.input_shapes or ()],
            batch_size=self.batch_size,
            max_samples=self.max_samples,
            seed=self.seed,
        )


def takes_inputs(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the input options, in the place of its argument `inputs`.

    Typer reads options off a function's signature, so that each of the commands would have to repeat all of them.

    Args:
        command: A function with an argument `inputs`, given by name.
    """
    hints = get_type_hints(command, include_extras=True)
    described = get_type_hints(Inputs, include_extras=True)
    shared = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=described[one.name])
        for one in fields(Inputs)
    ]
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        own = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        parameters += shared if parameter.name == "inputs" else [own]

    def run(**given: Any) -> None:
        inputs = Inputs(**{one.name: given.pop(one.name) for one in shared})
        command(**given, inputs=inputs)

    run.__doc__ = command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # where inspect looks first
    return run


def parse_shape(text: str) -> tuple[int, ...]:
    """The sizes in `3,224,224`.

    Raises:
        UsageError: The text is no list of positive whole numbers.
    """
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"--input-shape {text!r}", "positive sizes of one sample, as 3,224,224")
    return shape

"""`prelu-doctor demo`: the main job on a small model that comes with the program."""

from __future__ import annotations

import tempfile
from pathlib import Path

from prelu_doctor.cli import options
from prelu_doctor.cli.formats import ReportFormat
from prelu_doctor.cli.inputs import Inputs
from prelu_doctor.cli.terminal import deliver, exit_codes, live_progress
from prelu_doctor.errors import UsageError

NAME = "demo"


def run(quiet: options.Quiet = False, debug: options.Debug = False) -> None:
    """Scan, convert, export and prove parity on a small digits net with many dead units."""
    with exit_codes(debug=debug):
        from prelu_doctor.doctor import convert, scan
        from prelu_doctor.records import replace

        checkpoint, data = example("dying_cnn.pt"), example("digits.safetensors")
        inputs = Inputs(data=str(data))
        patient = inputs.patient(checkpoint)
        dataset = inputs.dataset(patient)
        with live_progress(quiet=quiet) as phase:
            report = scan(patient, dataset, phase=phase)
        deliver(report, ReportFormat.TEXT, None, force=False, quiet=quiet)
        with live_progress(quiet=quiet) as phase, tempfile.TemporaryDirectory() as folder:
            conversion = convert(patient, dataset, phase=phase)
            phase("exporting and proving", 0, None, None)
            converted = conversion.save(Path(folder) / "healed.safetensors", onnx=Path(folder) / "healed.onnx")
        gone = [f"{Path(file).name} (in a temporary folder, gone now)" for file in converted.files]
        deliver(replace(converted, files=gone), ReportFormat.TEXT, None, force=False, quiet=quiet)


def example(name: str) -> Path:
    """A file of the bundled examples: inside the installed package, or in the repository's `fixtures`.

    Raises:
        UsageError: The installation lacks it.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "fixtures", package.parent / "fixtures"):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"the example file {name} is missing", "an installation from the wheel or the repository")

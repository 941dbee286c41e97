"""The zoo run: what the doctor does with every model of the zoo, and what the usual recipe does with it.

    python -m benchmarks.zoo                       every model (an hour and a half on two cores)
    python -m benchmarks.zoo --only 'timm/*'       these rows alone, merged with the others
    python -m benchmarks.zoo --steps find,operate  these steps alone
    python -m benchmarks.zoo --table               the table again, from the JSON

Writes `benchmarks/results/zoo.json` and `zoo.md`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
STEPS = "find,operate,revive,reload,export,naive"
TIMEOUT = 900.0
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "onnx", "onnxscript", "onnxruntime")


def main() -> None:
    """Runs the models that were asked for, and writes both files."""
    options = _options()
    results = _stored(options.results / "zoo.json")
    if not options.table:
        _run(options, results)
    _write_table(options.results, results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The zoo run: every model, step by step.")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="names to run, as 'timm/res*'")
    parser.add_argument("--steps", default=STEPS, help=f"steps to take, of {STEPS}")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds after which a model is given up")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of zoo.json and zoo.md")
    parser.add_argument("--table", action="store_true", help="run nothing, write the table again")
    return parser.parse_args()


def _run(options: argparse.Namespace, results: dict[str, Any]) -> None:
    from benchmarks.zoo_models import zoo_models
    from benchmarks.zoo_run.processes import examine_all

    every = list(zoo_models())
    names = [name for name in every if not options.only or any(fnmatch.fnmatch(name, p) for p in options.only)]
    steps = options.steps.split(",")
    models = {name: row for name, row in results.get("models", {}).items() if name in every}
    results["models"] = models
    results["of"] = len(every)
    results["environment"] = _environment()
    began = time.monotonic()
    for done, row in enumerate(examine_all(names, steps, jobs=options.jobs, timeout=options.timeout), 1):
        models[row["name"]] = row
        results["models"] = {name: models[name] for name in every if name in models}
        print(f"{done:4} of {len(names)}  {time.monotonic() - began:6.0f} s  {_line(row)}", flush=True)
        _write(options.results / "zoo.json", json.dumps(results, indent=1) + "\n")


def _line(row: dict[str, Any]) -> str:
    steps = row["steps"]
    errors = "; ".join(f"{name}: {step['error']}" for name, step in steps.items() if "error" in step)
    seconds = sum(step.get("seconds", 0.0) for step in steps.values())
    calls = steps.get("count", {}).get("calls", "?")
    declined = len(steps.get("operate", {}).get("declined", {}))
    said = row.get("ended") or errors[:150]
    return f"{row['name']:52} calls {calls:>4} declined {declined:2} {seconds:6.1f} s  {said}"


def _environment() -> dict[str, str]:
    return {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}}


def _stored(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {"models": {}}


def _write_table(folder: Path, results: dict[str, Any]) -> None:
    from benchmarks.zoo_run.table import table

    _write(folder / "zoo.md", table(results))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(text)
    beside.replace(path)


if __name__ == "__main__":
    sys.exit(main())

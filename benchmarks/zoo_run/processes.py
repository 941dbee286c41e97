"""Every model in a process of its own: a crash or a hang is a result of that model, and memory is given back."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import resource
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

Row = dict[str, Any]
"""What was found out about one model: `name`, `source`, `family`, `steps` by name, `mib`, and `ended` if it did not
come to its own end. A step holds its figures and `seconds`, or an `error`."""

PRELOADED = [
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "onnxruntime",
    "prelu_doctor.doctor",
    "benchmarks.zoo_run.steps",
]


def examine_all(names: Sequence[str], steps: Sequence[str], *, jobs: int, timeout: float) -> Iterator[Row]:
    """Examines models, a few at a time.

    Args:
        names: Names in the zoo.
        steps: Names of the steps to take, after building and counting.
        jobs: Processes at a time.
        timeout: Seconds after which a model is given up; what it had reached by then is kept.

    Yields:
        A row for each model, as they end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    pending, running = list(names), []
    try:
        while pending or running:
            while pending and len(running) < jobs:
                running.append(_start(context, pending.pop(0), steps, timeout))
            wait([job.rows for job in running], timeout=1)
            for job in list(running):
                if job.ended():
                    running.remove(job)
                    yield job.row
    finally:
        for job in running:
            job.process.kill()


@dataclass
class _Job:
    process: BaseProcess
    rows: Connection
    row: Row
    deadline: float

    def ended(self) -> bool:
        """Takes the rows that have come, the last one being the fullest; True once there will be no other."""
        try:
            while self.rows.poll():
                self.row = self.rows.recv()
        except EOFError:
            self.process.join()
            if not self.row.pop("unfinished", None):
                return True
            self.row["ended"] = f"its process ended with exit code {self.process.exitcode}"
            return True
        if time.monotonic() < self.deadline:
            return False
        self.process.kill()
        self.process.join()
        taking = self.row.pop("unfinished", "build")
        self.row["ended"] = f"took too long: given up during the step {taking}"
        return True


def _start(context: Any, name: str, steps: Sequence[str], timeout: float) -> _Job:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_examine, args=(name, list(steps), sender))
    process.start()
    sender.close()
    row = {"name": name, "steps": {}, "unfinished": "build"}
    return _Job(process, receiver, row, time.monotonic() + timeout)


def _examine(name: str, steps: list[str], sender: Connection) -> None:
    """Runs in the child: takes the steps, and sends the row before and after each."""
    import torch

    from benchmarks.zoo_models import zoo_models
    from benchmarks.zoo_run.steps import NEEDS, STEPS, Examination, first_line

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    entry = zoo_models()[name]
    examined = Examination(entry)
    row: Row = {"name": name, "source": entry.source, "family": entry.family, "steps": {}}
    done = row["steps"]
    for step in [step for step in STEPS if step in ("build", "count") or step in steps]:
        needed = NEEDS.get(step)
        if done.get("count", {}).get("calls") == 0 or (needed and "error" in done.get(needed, {"error": ""})):
            continue
        sender.send(row | {"unfinished": step})
        began, worked = time.perf_counter(), time.process_time()
        try:
            done[step] = STEPS[step](examined)
        except Exception as error:
            done[step] = {"error": first_line(error), "traceback": traceback.format_exc()[-3000:]}
            if error.__cause__ is not None:
                done[step]["cause"] = first_line(error.__cause__)
            if step == "build":
                break
        done[step]["seconds"] = round(time.perf_counter() - began, 2)
        done[step]["cpu_seconds"] = round(time.process_time() - worked, 2)
    row["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with contextlib.suppress(BrokenPipeError):
        sender.send(row)
    sender.close()

"""Streams, colour, progress and exit codes: stdout carries the report and nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from prelu_doctor.errors import BrokenPromiseError, DoctorError, UsageError

if TYPE_CHECKING:
    from enum import StrEnum

    from prelu_doctor.records import CheckReport, ConvertReport, ParityReport, ScanReport

    Report = ScanReport | CheckReport | ConvertReport | ParityReport

FINDINGS = 1
UNDECIDED = 2
INTERRUPTED = 130


@contextlib.contextmanager
def exit_codes(*, debug: bool) -> Iterator[None]:
    """Turns errors into one message on stderr and the promised exit code."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does: nothing is wrong. Python must not flush into it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except DoctorError as error:
        _show(error, debug=debug)
        raise typer.Exit(FINDINGS if isinstance(error, BrokenPromiseError) else UNDECIDED) from None
    except KeyboardInterrupt:
        _say("interrupted: nothing was written")
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        _show(UsageError(f"{error.filename or 'output'}: {error.strerror or error}"), debug=debug)
        raise typer.Exit(UNDECIDED) from None
    except typer.Exit:
        raise
    except Exception as error:  # a bug of ours; a pipeline still gets one message and exit code 2
        _say(f"error: internal error: {type(error).__name__}: {error}")
        _say("  this is a bug in prelu-doctor; --debug shows the traceback, please report it")
        if debug:
            traceback.print_exc()
        raise typer.Exit(UNDECIDED) from None


def _show(error: DoctorError, *, debug: bool) -> None:
    lines = [("error", error.found), ("expected", error.expected), ("try", error.remedy)]
    for index, (word, text) in enumerate(lines):
        if text:
            _say(f"{'  ' if index else ''}{word}: {text}")
    if debug:
        traceback.print_exception(error)


def _say(text: str) -> None:
    """One message on stderr, with nothing in it that could steer a terminal."""
    from prelu_doctor.escaping import plain

    safe = "\n".join(plain(line) for line in text.split("\n"))
    with contextlib.suppress(OSError):
        print(safe, file=sys.stderr, flush=True)  # noqa: T201 - the command line may print


def note(text: str, *, quiet: bool) -> None:
    """A remark beside the report."""
    if not quiet:
        _say(f"note: {text}")


def deliver(report: Report, form: StrEnum, output: Path | None, *, force: bool) -> None:
    """Writes a report to stdout or, whole or not at all, to a file."""
    from prelu_doctor.outputs import write_together
    from prelu_doctor.records import CheckReport
    from prelu_doctor.reports.formats import CheckFormat, Format, written

    chosen = CheckFormat(form.value) if isinstance(report, CheckReport) else Format(form.value)
    if output is not None:
        text = written(report, chosen)
        write_together([(output, lambda path: path.write_text(text, encoding="utf-8"))], force=force)
        return
    text = written(
        report,
        chosen,
        width=shutil.get_terminal_size((80, 24)).columns,
        colour=_in_colour(),
        encoding=sys.stdout.encoding or "utf-8",
    )
    sys.stdout.write(text)


def _in_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


Phase = Callable[[str, int, int | None, float | None], None]


@contextlib.contextmanager
def live_progress(*, quiet: bool) -> Iterator[Phase]:
    """Progress bars on stderr; nothing where it is no terminal, with `NO_COLOR`, or with `--quiet`."""
    if quiet or not sys.stderr.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        yield lambda name, done, of, loss: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[figures]}"))
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:

        def show(name: str, done: int, of: int | None, loss: float | None) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=of, figures="")
            figures = f"{done}/{of}" if of else f"{done} samples" if done else ""
            if loss is not None:
                figures += f"  loss {loss:.4f}"
            progress.update(tasks[name], completed=done, total=of, figures=figures)

        yield show

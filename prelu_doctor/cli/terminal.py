"""Streams, colour, progress and exit codes: stdout carries the report and nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer

from prelu_doctor.errors import BrokenPromiseError, DoctorError, ForwardError, UsageError

if TYPE_CHECKING:
    from enum import StrEnum

    from prelu_doctor.records import CheckReport, ConvertReport, ParityReport, ScanReport

    Report = ScanReport | CheckReport | ConvertReport | ParityReport

FINDINGS = 1
UNDECIDED = 2
INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM


@contextlib.contextmanager
def exit_codes(*, debug: bool) -> Iterator[None]:
    """Turns errors into one message on stderr and the promised exit code."""
    try:
        yield
    except DoctorError as error:
        show(error, debug=debug)
        raise typer.Exit(FINDINGS if isinstance(error, BrokenPromiseError) else UNDECIDED) from None
    except KeyboardInterrupt:
        say("interrupted: no file was left half written")
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        show(UsageError(f"{error.filename or 'output'}: {error.strerror or error}"), debug=debug)
        raise typer.Exit(UNDECIDED) from None
    except SystemExit as error:
        if error.code == TERMINATED:
            raise
        # Else `sys.exit(0)` in a model's forward would pass the gate.
        show(ForwardError(f"the model's own code ended the program with sys.exit({error.code!r})"), debug=debug)
        raise typer.Exit(UNDECIDED) from None
    except typer.Exit:
        raise
    except Exception as error:
        _show_unexpected(error, debug=debug)
        raise typer.Exit(UNDECIDED) from None


def _show_unexpected(error: Exception, *, debug: bool) -> None:
    """Says that memory ran out, or else that this is a bug of ours; a pipeline still gets one message."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error).lower():
        remedy = "a smaller --batch-size, --max-samples or --input-shape"
        show(DoctorError(f"there is not enough memory: {error}".rstrip(": "), remedy=remedy), debug=debug)
        return
    say(f"error: internal error: {type(error).__name__}: {error}")
    say("  this is a bug in prelu-doctor; --debug shows the traceback, please report it")
    if debug:
        traceback.print_exc()


def show(error: DoctorError, *, debug: bool) -> None:
    """An error on stderr: what was found, what was expected, what to do."""
    lines = [("error", error.found), ("expected", error.expected), ("try", error.remedy)]
    for index, (word, text) in enumerate(lines):
        if text:
            say(f"{'  ' if index else ''}{word}: {text}")
    if debug:
        traceback.print_exception(error)


def say(text: str) -> None:
    """One message on stderr, with nothing in it that could steer a terminal."""
    from prelu_doctor.escaping import plain

    if sys.stderr is None:  # closed by the caller; print would go to stdout
        return
    safe = "\n".join(plain(line) for line in text.split("\n"))
    with contextlib.suppress(OSError):
        print(safe, file=sys.stderr, flush=True)  # noqa: T201 - the command line may print


def note(text: str, *, quiet: bool) -> None:
    """A remark beside the report."""
    if not quiet:
        say(f"note: {text}")


def deliver(report: Report, form: StrEnum, output: Path | None, *, force: bool, quiet: bool) -> None:
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
        colour=not quiet and _in_colour(sys.stdout),
        encoding=_encoding(),
    )
    put(text, unprintable="xmlcharrefreplace" if form.value == "junit" else "backslashreplace")


def put(text: str, *, unprintable: str = "backslashreplace") -> None:
    """Writes to stdout at once, so that what goes wrong is met here and not when the interpreter ends.

    Args:
        text: What to write.
        unprintable: What becomes of characters that stdout's encoding lacks.

    Raises:
        UsageError: stdout is closed.
        OSError: stdout cannot be written.
    """
    if sys.stdout is None:
        raise UsageError("stdout is closed", "a stream for the report", "redirect it, or write to a file with -o")
    try:
        sys.stdout.write(text.encode(_encoding(), unprintable).decode(_encoding()))
        sys.stdout.flush()
    except OSError as error:
        # Python must not flush into it again. A reader that has gone, as `head` goes, is no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def _in_colour(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that wants to be decorated; None is a closed one."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and stream is not None and stream.isatty()


Phase = Callable[[str, int, int | None, float | None], None]


@contextlib.contextmanager
def live_progress(*, quiet: bool) -> Iterator[Phase]:
    """Progress bars on stderr; nothing where it is no terminal, with `NO_COLOR`, or with `--quiet`.

    What the model's own code prints meanwhile goes to stderr: stdout carries the report alone.
    """
    with contextlib.redirect_stdout(sys.stderr):
        if quiet or not _in_colour(sys.stderr):
            yield lambda name, done, of, loss: None
        else:
            with _progress_bars() as phase:
                yield phase


@contextlib.contextmanager
def _progress_bars() -> Iterator[Phase]:
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

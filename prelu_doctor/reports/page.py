"""The parts that every report's page is made of."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from prelu_doctor.escaping import plain
from prelu_doctor.records import Data, Model, Tool, Verdict
from prelu_doctor.reports.figures import count

INDENT = 2

_VERDICT_STYLES: dict[Verdict, str] = {"healthy": "bold green", "findings": "bold red", "undecided": "bold yellow"}
_SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def title(tool: Tool, command: str) -> Text:
    """The first line: program, version, command."""
    return Text.assemble((plain(tool.name), "bold"), " ", plain(tool.version), "  ", (command, "bold"))


def heading(text: str) -> Text:
    """A section's name, with an empty line above."""
    return Text("\n" + text, style="bold")


def prose(text: str, style: str = "") -> Text:
    """A paragraph; what came from a file is escaped, and words too long for a line are folded."""
    return Text(plain(text), style=style, overflow="fold")


def facts(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Names and their values, one a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), value if isinstance(value, Text) else prose(value))
    return table


def model_facts(model: Model, data: Data | None = None, further: Iterable[tuple[str, str | Text]] = ()) -> Table:
    """What was examined, and on what."""
    about = [plain(model.kind), count(model.parameters, "parameter")]
    if model.sha256:
        about.append(f"sha256 {plain(model.sha256[:12])}")
    rows: list[tuple[str, str | Text]] = [("model", model.path), ("", ", ".join(about))]
    if data:
        rows.append(("data", data.source))
        figures = [count(data.samples, "sample"), *([data.contents] if data.contents else []), f"seed {data.seed}"]
        rows.append(("", ", ".join(figures)))
    return facts([*rows, *further])


def verdict_word(verdict: Verdict) -> Text:
    """The verdict, loud enough to be found without colour."""
    return Text(verdict.upper(), style=_VERDICT_STYLES[verdict])


def severity_word(severity: str) -> Text:
    """The severity in its colour."""
    return Text(severity, style=_SEVERITY_STYLES[severity])


def listing(rows: Iterable[Sequence[Text]], widths: Sequence[int | None] = ()) -> RenderableType:
    """Rows of short columns and a last one that wraps, indented."""
    table = Table.grid(padding=(0, 2))
    for index, row in enumerate(rows):
        if not index:
            for column in range(len(row)):
                last = column == len(row) - 1
                fixed = widths[column] if column < len(widths) else None
                table.add_column(no_wrap=not last, overflow="fold" if last else "ellipsis", min_width=fixed)
        table.add_row(*row)
    return Padding(table, (0, 0, 0, INDENT))


def synthetic_banner(message: str) -> Iterator[RenderableType]:
    """The warning that a report rests on noise."""
    yield Text("")
    yield Panel(Text(message), title=Text("SYNTHETIC INPUT", style="bold"), border_style="bold yellow")


def arch_words(model: Model) -> list[str]:
    """The options by which a model was opened, as `command_lines` takes them."""
    named = [f"--arch\0{model.arch}"] if model.arch else []
    named += [f"--method\0{model.method}"] if model.method else []
    named += [f"--weights-key\0{model.weights_key}"] if model.weights_key else []
    named += [f"--allow-class\0{name}" for name in model.allow_classes]
    named += ["--trust"] if model.trust else []
    return named + [f"--arch-arg\0{name}={json.dumps(value)}" for name, value in model.arch_args.items()]


def command_lines(parts: Sequence[str], width: int) -> Text:
    r"""A shell command, quoted, continued with a backslash where it would not fit; never broken inside a part.

    Args:
        parts: What must stay together on a line: the command, then each option with its value, words apart by NUL.
        width: Columns.
    """
    quoted = [" ".join(shlex.quote(plain(word)) for word in part.split("\0")) for part in parts]
    lines = [" " * INDENT + quoted[0]]
    for part in quoted[1:]:
        if len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += " " + part
        else:
            lines[-1] += " \\"
            lines.append(" " * (2 * INDENT + 2) + part)
    return Text("\n".join(lines), style="bold", no_wrap=True, overflow="ignore")


def more(total: int, shown: int, noun: str) -> list[Text]:
    """A line for what a list left out; none where it is whole."""
    if total <= shown:
        return []
    return [Text(f"{' ' * INDENT}and {count(total - shown, 'more ' + noun)} (--format json has them all)", style="dim")]

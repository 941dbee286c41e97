"""Records as JSON: keys in the order of the records, lists of figures on one line."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from prelu_doctor.records import Record


def to_json(record: Record) -> str:
    r"""The record as indented JSON in ASCII.

    Args:
        record: Any report.

    Returns:
        Valid JSON, ending with a newline: NaN and infinities, which JSON lacks, become null; whatever is not ASCII
        becomes `\uXXXX`, so that no name can steer a terminal.
    """
    return _written(msgspec.to_builtins(record), "") + "\n"


def _written(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{json.dumps(str(key))}: {_written(item, inner)}" for key, item in value.items()]
        return _bracketed("{", items, "}", indent)
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return _bracketed("[", [_written(item, inner) for item in value], "]", indent)
    if isinstance(value, list):
        return f"[{', '.join(_scalar(item) for item in value)}]"
    return _scalar(value)


def _bracketed(start: str, items: list[str], end: str, indent: str) -> str:
    separator = f",\n{indent}  "
    return f"{start}\n{indent}  {separator.join(items)}\n{indent}{end}"


def _scalar(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "null"
    return json.dumps(value, allow_nan=False)

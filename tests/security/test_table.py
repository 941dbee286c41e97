"""docs/security.md and the tests beside this one tell of the same attacks: no row without its test, and the reverse."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "docs" / "security.md"


def rows() -> list[str]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("|") and not re.match(r"\|\s*(way|-+)\s*\|", line)]


def functions_in(file: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_row_names_a_test_that_is_there():
    there = set().union(*(functions_in(file) for file in HERE.glob("test_*.py")))
    for row in rows():
        named = re.findall(r"\btest_\w+(?!\w*\.py)", row.rpartition("|")[0].rpartition("|")[2])
        tests = [name for name in named if not (HERE / f"{name}.py").exists()]
        assert tests, f"no test in: {row}"
        assert set(tests) <= there, f"no such test: {set(tests) - there}"


def test_every_test_of_an_attack_has_its_row():
    text = "\n".join(rows())
    for file in sorted(HERE.glob("test_*.py")):
        if file != Path(__file__):
            missing = sorted(name for name in functions_in(file) if not re.search(rf"\b{name}\b", text))
            assert not missing, f"{file.name}: {missing} in no row of docs/security.md"

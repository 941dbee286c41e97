"""The axes of an `einsum`, by name."""

from __future__ import annotations

from collections.abc import Sequence

from prelu_doctor.sites.graph import Call


def equation(call: Call, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The axes of an `einsum` by name.

    Args:
        call: The call.
        ranks: Number of axes of each operand.

    Returns:
        The names of the axes of each operand, and those of the output. Axes behind `...` are named by their place,
        counted from the right.
    """
    text = str(call.arguments["equation"]).replace(" ", "").replace("...", ".")
    left, arrow, right = text.partition("->")
    operands = [_axes(term, rank) for term, rank in zip(left.split(","), ranks, strict=True)]
    hidden = sorted({name for names in operands for name in names if name[0] == "."}, reverse=True)
    if not arrow:
        right = "." + "".join(sorted(letter for letter in set(left) - {",", "."} if left.count(letter) == 1))
    output = [name for letter in right for name in (hidden if letter == "." else [letter])]
    return operands, output


def _axes(term: str, rank: int) -> list[str]:
    more = rank - len(term.replace(".", ""))
    hidden = [f".{place:02}" for place in range(more, 0, -1)]
    return [name for letter in term for name in (hidden if letter == "." else [letter])]

"""Operators of torch that a program from elsewhere may not call, whatever kind of file it comes in."""

from __future__ import annotations

import re

_FORBIDDEN = frozenset(
    """
    from_file save load _print manual_seed seed set_grad_enabled set_data rpc_async rpc_sync rpc_remote PythonOp
    IgnoredPythonOp
    """.split()
)
"""They read or write files, talk past Python's streams, call other machines, run Python, change what is not theirs."""

_UNCHECKED = re.compile(r"_unsafe$|^_nested_view_from|^set_$")
"""They take indices and offsets on trust, and write where these point."""


def is_forbidden(name: str) -> bool:
    """True for an operator, named without namespace and overload, that does more than compute.

    Args:
        name: As `relu` or `from_file`.
    """
    return name in _FORBIDDEN or _UNCHECKED.search(name) is not None

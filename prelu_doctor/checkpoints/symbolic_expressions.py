"""Sizes in an exported program are expressions, which torch hands to sympy, which runs them as Python code.

Only plain arithmetic of symbols and known functions is let through.
"""

from __future__ import annotations

import ast
import re

LONGEST = 2000
"""Characters."""
LARGEST = 2**63
"""Of a number; sympy would compute on with whatever it is given."""
HIGHEST_POWER = 16

_SYMBOL = re.compile(r"[a-z]{1,4}\d{1,6}")
_NUMBER = re.compile(r"-?\d{1,20}(\.\d{0,40})?(e[+-]?\d{1,3})?")
_TEXT = re.compile(r"[A-Za-z0-9_ +\-*/%(),.<>=!&|~^']*")
_CONSTANTS = frozenset({"True", "False", "true", "false", "oo", "int_oo", "zoo", "nan"})
_FUNCTIONS = frozenset(
    """
    FloorDiv ModularIndexing Where PythonMod Mod CleanDiv CeilToInt FloorToInt CeilDiv FloatTrueDiv IntTrueDiv
    IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat Identity Max Min Abs
    Eq Ne Lt Le Gt Ge StrictGreaterThan GreaterThan StrictLessThan LessThan Equality Unequality And Or Not Piecewise
    floor ceiling Add Mul Rational Integer Float sqrt
    """.split()
)
_POWERS = frozenset({"PowByNatural", "FloatPow", "Pow", "LShift", "RShift"})
_ARITHMETIC = (
    ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Tuple, ast.Load,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.UAdd, ast.USub,
    ast.BitAnd, ast.BitOr, ast.Invert, ast.Not, ast.And, ast.Or,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip


def is_symbol(name: str) -> bool:
    """True for what torch calls a size that is left open, as `s0` or `u12`."""
    return _SYMBOL.fullmatch(name) is not None


def is_arithmetic(text: str) -> bool:
    """True where an expression does nothing but compute with symbols and numbers of a sane size.

    Args:
        text: As a program holds it, `Max(1, s0//2 + 1)`.
    """
    if len(text) > LONGEST or not _TEXT.fullmatch(text):
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return _harmless(tree.body)


def _harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and abs(node.value) <= LARGEST
    if isinstance(node, ast.Name):
        return is_symbol(node.id) or node.id in _CONSTANTS
    if isinstance(node, ast.Call):
        return _harmless_call(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _harmless_power(node.left, node.right)
    return isinstance(node, _ARITHMETIC) and all(_harmless(child) for child in ast.iter_child_nodes(node))


def _harmless_call(node: ast.Call) -> bool:
    if not isinstance(node.func, ast.Name):
        return False
    if node.func.id in ("Symbol", "Float") and len(node.args) == 1 and isinstance(node.args[0], ast.Constant):
        text, spelled = node.args[0].value, is_symbol if node.func.id == "Symbol" else _NUMBER.fullmatch
        assumed = all(
            isinstance(word.value, ast.Constant) and type(word.value.value) in (bool, int) for word in node.keywords
        )
        return isinstance(text, str) and bool(spelled(text)) and assumed
    if node.keywords:
        return False
    if node.func.id in _POWERS:
        return len(node.args) == 2 and _harmless_power(*node.args)
    return node.func.id in _FUNCTIONS and all(_harmless(argument) for argument in node.args)


def _harmless_power(base: ast.expr, exponent: ast.expr) -> bool:
    """A power of numbers is computed at once, and may have any number of digits."""
    if not _harmless(base) or not _harmless(exponent) or any(map(_is_power, ast.walk(base))):
        return False
    if _has_symbol(exponent):
        return (_has_symbol(base) or isinstance(base, ast.Constant)) and not any(map(_is_power, ast.walk(exponent)))
    number = exponent.operand if isinstance(exponent, ast.UnaryOp) else exponent
    if isinstance(number, ast.Call) and ast.unparse(number.func) == "Integer" and len(number.args) == 1:
        return _harmless_power(base, number.args[0])
    return isinstance(number, ast.Constant) and abs(number.value) <= HIGHEST_POWER  # type: ignore[arg-type]


def _is_power(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in _POWERS
    return isinstance(node, ast.Pow)


def _has_symbol(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Name) and (is_symbol(part.id) or part.id == "Symbol") for part in ast.walk(node))

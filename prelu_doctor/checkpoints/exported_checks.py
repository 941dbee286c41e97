"""Looks an exported program through before torch reads it.

torch turns what the file says into Python: names of values go into code that is compiled, targets are looked up in
`torch` by name, sizes are run by sympy, shape guards by `exec`, tree specs may import modules. So a program is taken
apart here: what is not known to be harmless is refused, and what is not needed is left out.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

from prelu_doctor.checkpoints.program_archives import UnsafeProgramError
from prelu_doctor.checkpoints.program_operators import is_forbidden
from prelu_doctor.checkpoints.symbolic_expressions import is_arithmetic, is_symbol


def without_code(program: Mapping[str, Any]) -> dict[str, Any]:
    """A program in which nothing can run but known operators on tensors.

    Its shape guards and all notes but module paths and source lines are left out.

    Args:
        program: `models/NAME.json`, decoded.

    Raises:
        UnsafeProgramError: It holds something that is not known to be harmless.
    """
    checked = _checked(program, "")
    checked["guards_code"] = []
    checked["graph_module"] = {**checked["graph_module"], "metadata": {}}
    return dict(checked)


def checked_payload(config: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Where a program's weights or constants lie, once it is sure that they are plain bytes of the right number.

    Args:
        config: `model_weights_config.json` or its twin for constants, decoded.
        sizes: Bytes of each record that lies beside it, by name.

    Raises:
        UnsafeProgramError: An entry is pickled, or claims more than its record holds.
    """
    checked = _checked(config, "")
    for name, entry in checked["config"].items():
        if entry.get("use_pickle") or entry.get("tensor_meta") is None:
            raise UnsafeProgramError(f"'{name}' is pickled, and reading a pickle may run any code")
        if not str(entry["path_name"]).startswith(("weight_", "tensor_")):
            raise UnsafeProgramError(f"'{name}' is an object, and reading it may run any code")
        _check_extent(name, entry["tensor_meta"], sizes.get(entry["path_name"], -1))
    return dict(checked)


def _check_extent(name: str, meta: Mapping[str, Any], stored: int) -> None:
    """Raises where a tensor claims more than its record holds: torch would make room for it."""
    if stored < 0:
        raise UnsafeProgramError(f"'{name}' has no data in the file")
    sizes, strides = ([part["as_int"] for part in meta[key]] for key in ("sizes", "strides"))
    offset = meta["storage_offset"]["as_int"]
    if min([offset, *sizes, *strides], default=0) < 0 or len(sizes) != len(strides):
        raise UnsafeProgramError(f"'{name}' has a shape that no tensor has")
    if 0 in sizes:
        return
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    count = 1
    for size in sizes:
        count *= size
    if max(last + 1, count) > stored:
        raise UnsafeProgramError(f"'{name}' claims {max(last + 1, count):,} numbers, its data is {stored:,} bytes")


def _checked(value: Any, key: str) -> Any:
    """The value with everything in it checked by the name under which it stands."""
    rule = _RULES.get(key)
    if rule:
        return rule(value)
    if isinstance(value, dict):
        return {_plain(inner): _checked(part, inner) for inner, part in value.items()}
    if isinstance(value, list):
        return [_checked(part, key) for part in value]
    return _plain(value) if isinstance(value, str) else value


def _plain(text: str) -> str:
    if not _PLAIN.fullmatch(text):
        raise UnsafeProgramError(f"it uses the name {text[:80]!r}, which torch would put into code")
    return text


def _identifier(text: Any) -> Any:
    if isinstance(text, str) and text and (not _IDENTIFIER.fullmatch(text) or keyword.iskeyword(text)):
        raise UnsafeProgramError(f"it calls a value {text[:80]!r}, which torch would put into code")
    return text if isinstance(text, str) or text is None else _checked(text, "")


def _named_values(values: Any) -> Any:
    if not isinstance(values, dict):
        raise UnsafeProgramError("its values have no names")
    return {_identifier(name): _checked(value, "") for name, value in values.items()}


def _expression(text: Any) -> Any:
    if not isinstance(text, str) or not is_arithmetic(text):
        raise UnsafeProgramError(f"a size in it is no plain arithmetic: {str(text)[:80]!r}")
    return text


def _operator(text: Any) -> Any:
    if not isinstance(text, str) or not is_allowed_operator(text):
        raise UnsafeProgramError(f"it calls {str(text)[:80]!r}")
    return text


def is_allowed_operator(target: str) -> bool:
    """True for an operator that computes with tensors and numbers and does nothing else."""
    parts = target.split(".")
    if any(part.startswith("__") for part in parts):
        return False
    if target.startswith("torch.ops.") and len(parts) >= 4 and all(map(_IDENTIFIER.fullmatch, parts)):
        space, name = parts[2], parts[3]
        if space == "higher_order":
            return name in _HIGHER_ORDER and len(parts) == 4
        return space in _NAMESPACES and name != "warn" and not is_forbidden(name) and len(parts) <= 5
    if len(parts) != 2 or not _IDENTIFIER.fullmatch(parts[1]):
        return False
    return {"_operator": _ARITHMETIC, "math": _MATH, "torch": _SYMBOLIC}.get(parts[0], frozenset()).__contains__(
        parts[1]
    )


def _tree(text: Any) -> Any:
    """A tree spec: torch would import the module that a `defaultdict` or an enum in it names."""
    decoded = _decoded(text)
    if not isinstance(decoded, list) or len(decoded) != 2:
        raise UnsafeProgramError("the form of its inputs or outputs cannot be read")
    _check_tree(decoded[1])
    return text


def _check_tree(node: Any) -> None:
    if not isinstance(node, dict) or not isinstance(node.get("children_spec"), list):
        raise UnsafeProgramError("the form of its inputs or outputs cannot be read")
    if node.get("type") == "collections.defaultdict":
        raise UnsafeProgramError("the form of its inputs or outputs names a function to import")
    context = node.get("context")
    if _names_enum(_decoded(context) if isinstance(context, str) else context):
        raise UnsafeProgramError("the form of its inputs or outputs names an enum to import")
    for child in node["children_spec"]:
        _check_tree(child)


def _names_enum(context: Any) -> bool:
    if isinstance(context, dict):
        return "__enum__" in context or any(map(_names_enum, context.values()))
    return isinstance(context, list) and any(map(_names_enum, context))


def _decoded(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnsafeProgramError("the form of its inputs or outputs cannot be read") from error


def _note(metadata: Any) -> Any:
    """What is known of a node's origin, which is text and stays text."""
    if not isinstance(metadata, dict):
        return {}
    return {key: str(metadata[key]) for key in ("stack_trace", "nn_module_stack") if metadata.get(key)}


def _ranges(ranges: Any) -> Any:
    if not isinstance(ranges, dict) or not all(is_symbol(name) for name in ranges):
        raise UnsafeProgramError("it has ranges of something that is no size")
    return _checked(ranges, "")


def _nothing_custom(values: Any) -> Any:
    if values:
        raise UnsafeProgramError(f"it uses an object of class {str(next(iter(values)))[:80]!r}")
    return values


def _as_it_is(value: Any) -> Any:
    return value


_PLAIN = re.compile(r"[\w.\-@]*", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_NAMESPACES = frozenset({"aten", "prims", "quantized", "quantized_decomposed", "torchvision"})
_HIGHER_ORDER = frozenset(
    """
    cond map map_impl while_loop scan associative_scan invoke_subgraph wrap_with_set_grad_enabled wrap_with_autocast
    tag_activation_checkpoint
    """.split()
)
_ARITHMETIC = frozenset(
    "eq ne le ge lt gt neg pos mul add sub floordiv mod pow truediv and_ or_ lshift rshift getitem not_".split()
)
_MATH = frozenset({"trunc", "ceil", "floor", "sqrt"})
_SYMBOLIC = frozenset("sym_not sym_int sym_float sym_ite sym_max sym_min sym_sqrt sym_sum".split())

_RULES: dict[str, Callable[[Any], Any]] = {
    "name": _identifier,
    "as_name": _identifier,
    "tensor_values": _named_values,
    "sym_int_values": _named_values,
    "sym_bool_values": _named_values,
    "sym_float_values": _named_values,
    "custom_obj_values": _nothing_custom,
    "as_custom_obj": _nothing_custom,
    "custom_obj": _nothing_custom,
    "expr_str": _expression,
    "target": _operator,
    "as_operator": _operator,
    "in_spec": _tree,
    "out_spec": _tree,
    "forward_arg_names": lambda names: names and [_identifier(name) for name in names],
    "metadata": _note,
    "range_constraints": _ranges,
    "guards_code": lambda _code: [],
    "treespec_namedtuple_fields": lambda _fields: {},
    "torch_version": str,
    "as_string": _as_it_is,
    "as_strings": _as_it_is,
}

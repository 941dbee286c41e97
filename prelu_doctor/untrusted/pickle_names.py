"""What a pickle may ask for by name, and what it gets for it."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from prelu_doctor.untrusted.stand_ins import DictStandIn, ListStandIn, StandIn


class Role(StrEnum):
    """What a name stands for, and so what a pickle may do with it."""

    VALUE = "a type or constant of torch: may be named"
    CALL = "one of the few functions that build tensors and collections: may be called, its arguments checked"
    MODULE = "a class of torch.nn: may be named, and made empty"
    FUNCTION = "a function of torch.nn.functional: may be named"
    INERT = "a harmless class, of which a stand-in is made"
    ALLOWED = "a class that the user allowed: may be named, and made without its constructor"
    FOREIGN = "anything else"


STORAGE_BYTES = {
    "UntypedStorage": 1, "ByteStorage": 1, "CharStorage": 1, "BoolStorage": 1, "QInt8Storage": 1, "QUInt8Storage": 1,
    "QUInt4x2Storage": 1, "QUInt2x4Storage": 1, "ShortStorage": 2, "HalfStorage": 2, "BFloat16Storage": 2,
    "IntStorage": 4, "FloatStorage": 4, "QInt32Storage": 4, "LongStorage": 8, "DoubleStorage": 8,
    "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16,
}  # fmt: skip
"""Bytes an element, by the last part of the storage type's name."""

CALLS = frozenset(
    """
    collections.OrderedDict collections.Counter builtins.set builtins.complex builtins.bytearray _codecs.encode
    torch.Size torch.device torch.serialization._get_layout torch.nn.parameter.Parameter
    torch._tensor._rebuild_from_type_v2 torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2
    torch._utils._rebuild_tensor_v3 torch._utils._rebuild_qtensor torch._utils._rebuild_sparse_tensor
    torch._utils._rebuild_meta_tensor_no_storage torch._utils._rebuild_device_tensor_from_cpu_tensor
    torch._utils._rebuild_parameter torch._utils._rebuild_parameter_with_state
    """.split()
)

_FUNCTION_NAMES = """
    relu relu6 elu selu celu leaky_relu prelu rrelu glu gelu silu mish hardtanh hardswish hardsigmoid softplus softsign
    tanh tanhshrink sigmoid logsigmoid softmax log_softmax
""".split()
_FUNCTIONS: dict[str, Any] = {
    f"{function.__module__}.{function.__name__}": function
    for function in (getattr(F, name) for name in _FUNCTION_NAMES)
}
"""Activation functions, as a TransformerEncoderLayer keeps one among its attributes."""

_MODULES_ELSEWHERE = frozenset({"torch.nn.parallel.data_parallel.DataParallel", "torch.optim.swa_utils.AveragedModel"})
"""Modules around a module, which torch keeps outside of torch.nn.modules."""

_DICTS = re.compile(
    r"collections\.defaultdict|(pytorch_lightning|lightning\.pytorch)\.utilities\.parsing\.AttributeDict|"
    r"lightning(_fabric|\.fabric)\.utilities\.data\.AttributeDict|yacs\.config\.CfgNode|easydict\.EasyDict|"
    r"addict(\.addict)?\.Dict"
)
_LISTS = re.compile(r"collections\.deque")
_OBJECTS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|functools\.partial|uuid\.(UUID|SafeUUID)|decimal\.Decimal|"
    r"fractions\.Fraction|datetime\.(date|datetime|time|timedelta|timezone)|collections\.(UserDict|UserList)|"
    r"pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path|typing\.(Any|Union|Optional)|omegaconf(\.\w+)+|"
    r"builtins\.(int|float|str|bool|bytes|list|dict|tuple|frozenset|object|range|slice)|"
    r"numpy\.(dtype|ndarray|bool_?|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)|dtypes\.\w+DType|"
    r"_?core\.multiarray\.(scalar|_reconstruct))|"
    r"torch\.torch_version\.TorchVersion|torch\.optim(\.\w+)+"
)


def role_of(name: str, allowed: Mapping[str, type]) -> Role:
    """What a name stands for.

    Args:
        name: As `module.name`, Python 2's names already translated.
        allowed: The user's classes, by the names that a file may call them.
    """
    if name in allowed:
        return Role.ALLOWED
    if name in CALLS:
        return Role.CALL
    if _is_value(name):
        return Role.VALUE
    if name in _FUNCTIONS:
        return Role.FUNCTION
    if _is_module_name(name) and module_class(name) is not None:
        return Role.MODULE
    return Role.INERT if stand_in(name) is not None else Role.FOREIGN


def granted(name: str, role: Role, allowed: Mapping[str, type]) -> Any:
    """What torch's weights-only reader gets for the name; None where it knows the name itself.

    Nothing outside of torch is imported for it.
    """
    if role is Role.ALLOWED:
        return allowed[name]
    if role is Role.MODULE:
        return module_class(name)
    if role is Role.FUNCTION:
        return _FUNCTIONS[name]
    return stand_in(name) if role is Role.INERT else None


def activation_functions() -> frozenset[Any]:
    """The functions that a module may keep among its attributes."""
    return frozenset(_FUNCTIONS.values())


def stand_in(name: str) -> type | None:
    """The inert class that is made in place of a harmless one; None where the name is not one of those."""
    if _DICTS.fullmatch(name):
        return DictStandIn
    if _LISTS.fullmatch(name):
        return ListStandIn
    return StandIn if _OBJECTS.fullmatch(name) else None


def module_class(name: str) -> type[nn.Module] | None:
    """The class of torch.nn that goes by exactly this name; None where the name is anything else.

    Allowing a class lets its `__new__` and `__setstate__` run; nothing outside of torch is imported to find it.
    """
    if not _is_module_name(name):
        return None
    module_name, _, class_name = name.rpartition(".")
    try:
        module = sys.modules.get(module_name) or importlib.import_module(module_name)
    except ImportError:
        return None
    found = vars(module).get(class_name)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        return None
    return found if f"{found.__module__}.{found.__qualname__}" == name else None


def is_enum(cls: type | None) -> bool:
    """Whether calling the class with a value only looks up a member."""
    return cls is not None and issubclass(cls, Enum)


def may_be_class(name: str) -> bool:
    """Whether `--allow-class` with this name is worth proposing: a class of somebody's, by the look of its name."""
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return False
    foreign = parts[0] == "__main__" or parts[0] not in {"torch", "builtins", *sys.stdlib_module_names}
    return foreign and parts[-1][:1].isupper()


def element_bytes(dtype: str) -> int | None:
    """Bytes an element of `torch.float32` and the like; None where it is no data type."""
    found = vars(torch).get(dtype.removeprefix("torch."))
    return found.itemsize if isinstance(found, torch.dtype) and dtype.startswith("torch.") else None


def _is_value(name: str) -> bool:
    module, _, last = name.rpartition(".")
    if last in STORAGE_BYTES:
        return module in ("torch", "torch.cuda", "torch.storage")
    return module == "torch" and (last == "Tensor" or isinstance(vars(torch).get(last), torch.dtype | torch.qscheme))


def _is_module_name(name: str) -> bool:
    in_modules = re.fullmatch(r"torch\.nn\.modules\.\w+\.\w+", name, re.ASCII)
    return in_modules is not None or name in _MODULES_ELSEWHERE

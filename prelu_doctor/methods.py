"""A model whose call runs another method than `forward`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from prelu_doctor.errors import UsageError
from prelu_doctor.escaping import escaped, listed


def run_method(module: nn.Module, name: str) -> None:
    """Makes a method the module's `forward`, so that everything that is done to the forward is done to it.

    The module gets a subclass of its own class; the method goes on under its own name too.

    Args:
        module: Changed in place.
        name: Of the method.

    Raises:
        UsageError: There is no such method; its public ones are listed.
    """
    if name == "forward":
        return
    plain = type(module)
    method = getattr(plain, name, None)
    if name.startswith("_") or not _runs(plain, name) or isinstance(module, fx.GraphModule):
        raise _unknown(module, name)
    assert method is not None

    @functools.wraps(method)
    def by_its_name(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    members: dict[str, Any] = {"forward": method, name: by_its_name, "__module__": plain.__module__}
    module.__class__ = type(plain.__name__, (plain,), members)


def _runs(plain: type[nn.Module], name: str) -> bool:
    found: Callable[..., Any] | None = getattr(plain, name, None)
    return callable(found) and not hasattr(nn.Module, name)


def _unknown(module: nn.Module, name: str) -> UsageError:
    plain = type(module)
    public = [other for other in dir(plain) if not other.startswith("_") and _runs(plain, other)]
    others = [other for other in public if not isinstance(module, fx.GraphModule) or other == "forward"]
    return UsageError(
        f"--method {escaped(name)}: {plain.__name__} has no such method",
        f"one of {listed(['forward', *others])}",
        "leave --method out to run forward",
    )

"""A slow, obviously right list of a forward's activation calls, at the level of Python functions.

It shares nothing with the package: a `TorchFunctionMode` sees the functions as they were written (`F.relu`,
`x.clamp`, ...), and wrapped forwards say which module is running. It merges nothing and knows no producers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from .odd import Odd

ACTIVATION_MODULES = (nn.ReLU, nn.ReLU6, nn.Threshold, nn.Hardtanh, nn.LeakyReLU, nn.PReLU)


@dataclass(frozen=True)
class Call:
    """One activation call: its id without any merging, its function, its ceiling, and the pre-activation `A`."""

    id: str
    function: str
    ceiling: float
    values: Tensor


@dataclass
class _Run:
    """One run of one module's forward."""

    path: str
    module: nn.Module
    # Calls so far: of a child under its path, of a function under a colon and its name.
    made: Counter[str] = field(default_factory=Counter)


class CallRecorder(TorchFunctionMode):
    """Records the activation calls of a model's forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.stack: list[_Run] = []
        self.raw: list[tuple[_Run, str, int, str, float, Tensor]] = []

    def record(self, *inputs: Tensor, **keywords: Tensor) -> list[Call]:
        """The calls of one forward, in order."""
        hooks = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            with torch.no_grad(), self:
                self.model(*inputs, **keywords)
        finally:
            for hook in hooks:
                hook.remove()
        return [self._named(*entry) for entry in self.raw]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        function, ceiling = _activation(func.__name__, args[1:], kwargs)
        if function:
            self._note(function, ceiling, args[0].clone())
        return func(*args, **kwargs)

    def _note(self, function: str, ceiling: float, values: Tensor) -> None:
        run = self.stack[-1]
        if isinstance(run.module, ACTIVATION_MODULES) and len(self.stack) > 1:
            caller = self.stack[-2]
            self.raw.append((caller, run.path, caller.made[run.path], function, ceiling, values))
            return
        run.made[f":{function}"] += 1
        self.raw.append((run, f"{run.path}:{function}", run.made[f":{function}"], function, ceiling, values))

    def _enter(self, module: nn.Module, args: Any) -> None:
        if not self.stack:
            self.stack.append(_Run("", module))
            return
        caller = self.stack[-1]
        path = self._path(caller, module)
        caller.made[path] += 1
        self.stack.append(_Run(path, module))

    def _path(self, caller: _Run, module: nn.Module) -> str:
        """As a child of its caller, else where the model has it, else by its class."""
        prefix = f"{caller.path}." if caller.path else ""
        inside = (prefix + name for name, child in caller.module._modules.items() if child is module)
        elsewhere = (path for path, other in self.model.named_modules() if other is module)
        return next(inside, None) or next(elsewhere, None) or f"<unregistered {type(module).__name__}>"

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()

    @staticmethod
    def _named(caller: _Run, name: str, ordinal: int, function: str, ceiling: float, values: Tensor) -> Call:
        numbered = ":" in name or caller.made[name] > 1
        return Call(f"{name}#{ordinal}" if numbered else name, function, ceiling, values)


def _activation(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, float]:
    """The canonical name of the activation, or nothing, and where it ends."""
    name = name.strip("_")
    if name in ("relu", "leaky_relu", "rrelu", "prelu"):
        return name, inf
    if name == "relu6":
        return name, 6
    if name == "threshold":
        return "relu" if (*args, *kwargs.values())[:2] == (0, 0) else "", inf
    if name not in ("clamp", "clip", "clamp_min", "hardtanh"):
        return "", inf
    bounds = [*args, None, None]
    low = kwargs.get("min", kwargs.get("min_val", bounds[0]))
    high = kwargs.get("max", kwargs.get("max_val", bounds[1]))
    low = float(low) if isinstance(low, Tensor) else low
    if low != 0 or high in (None, 6):
        return {(0, None): "relu", (0, 6): "relu6"}.get((low, high), ""), high or inf
    return "clamp" if name == "hardtanh" or isinstance(high, float) else "", high


def calls_by_site(kind: type[Odd], calls: list[Call]) -> dict[str, list[Call]]:
    """The calls of each site of a zoo model, out of all calls of one forward."""
    order = kind.call_order or [site for site, _ in kind.expected_sites for _ in range(kind.merged_calls.get(site, 1))]
    calls = [call for call in calls if call.id not in kind.unresolved]
    assert len(calls) == len(order), [call.id for call in calls]
    groups: dict[str, list[Call]] = {site: [] for site, _ in kind.expected_sites}
    for site, call in zip(order, calls, strict=True):
        groups[site].append(call)
    assert all(own[0].id == site for site, own in groups.items()), [call.id for call in calls]
    return groups

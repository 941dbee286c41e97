"""The ways by which a forward comes to its rectifier: names, arguments, wrappers, inheritance."""

# ruff: noqa: RUF012 - the answers are ClassVars of Odd, and an override stays one.
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import relu as rectify

from .odd import Odd

Act = Callable[[Tensor], Tensor]


class _TwoLayers(Odd):
    """A linear layer, a rectifier that the subclass writes, a head."""

    expected_sites = [(":relu#1", 5)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.head = nn.Linear(5, 2)


class ImportedByName(_TwoLayers):
    """`from torch.nn.functional import relu as rectify`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(rectify(self.fc(x)))


class FetchedByName(_TwoLayers):
    """The function's name is a string of the configuration."""

    def __init__(self, activation: str = "relu") -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.head(getattr(torch, self.activation)(self.fc(x)))


class ReluMethods(Odd):
    """The methods of a tensor: relu, clip, clamp_min_, clamp_ and the clip of the namespace."""

    expected_sites = [(":relu#1", 3), (":relu#2", 4), (":relu#3", 5), (":relu#4", 6), (":relu#5", 7)]
    input_shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width + 1) for width in range(2, 7)])
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x).relu()
        x = self.layers[1](x).clip(min=0)
        x = self.layers[2](x).clamp_min_(0)
        x = self.layers[3](x).clamp_(0, None)
        return self.head(torch.clip(self.layers[4](x), 0.0))


class ReluFromTable(_TwoLayers):
    """A dict of functions, as ACT2FN is one."""

    table = {"relu": F.relu, "tanh": torch.tanh}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table["relu"](self.fc(x)))


class PartialActivation(_TwoLayers):
    """A functools.partial in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.act = functools.partial(F.relu, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(x)))


class LambdaActivation(_TwoLayers):
    """A lambda in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.act = lambda x: F.relu(x)  # noqa: PLW0108 - the lambda is the oddity

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(x)))


class FunctionAsArgument(Odd):
    """A block is handed the function to apply with every call."""

    expected_sites = [("block:relu#1", 5)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.block = _GivenAct(4, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x, F.relu))


class ModuleAsArgument(Odd):
    """A block is handed the parent's nn.ReLU with every call."""

    expected_sites = [("act", 5)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.block = _GivenAct(4, 5)
        self.act = nn.ReLU()
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x, self.act))


class _GivenAct(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width_in, width_out)

    def forward(self, x: Tensor, act: Act) -> Tensor:
        return act(self.fc(x))


class InnerFunction(_TwoLayers):
    """A function defined within the forward, called for two layers."""

    expected_sites = [(":relu#1", 5), (":relu#2", 6)]

    def __init__(self) -> None:
        super().__init__()
        self.fc2 = nn.Linear(5, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        def step(layer: nn.Module, x: Tensor) -> Tensor:
            return F.relu(layer(x))

        return self.head(step(self.fc2, step(self.fc, x)))


class HelperBehindBranch(Odd):
    """A helper that looks at its argument before it rectifies; called for two layers."""

    expected_sites = [(":relu#1", 5), (":relu#2", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 5)
        self.fc2 = nn.Linear(5, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(_rectified_if_wide(self.fc2(_rectified_if_wide(self.fc1(x)))))


def _rectified_if_wide(x: Tensor) -> Tensor:
    return F.relu(x) if x.shape[1] > 3 else x


def _doubled(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(forward)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return 2 * forward(self, *args, **kwargs)

    return run


class DecoratedForward(_TwoLayers):
    """A decorator wraps the forward, its arguments as *args and **kwargs."""

    @_doubled
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(x)))


class RectifyingDecorator(_TwoLayers):
    """The F.relu is the decorator's: it rectifies what the forward of a block returns."""

    expected_sites = [("block:relu#1", 5)]

    def __init__(self) -> None:
        super().__init__()
        self.block = _WrappedBlock(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x))


def _rectifying(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(forward)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return F.relu(forward(self, *args, **kwargs))

    return run


class _WrappedBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width_in, width_out)

    @_rectifying
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class _Base(_TwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x))


class SuperForward(_Base):
    """The forward of the base class is called with super()."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(super().forward(x))


class InheritedForward(_Base):
    """The forward is the base class's alone, and it returns its units."""

    protected = [":relu#1"]


class ForwardCalledDirectly(Odd):
    """`block.forward(x)` instead of `block(x)`: no hook sees the block run, so its call is the parent's."""

    expected_sites = [(":relu#1", 5), ("act", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.block = _WrappedBlock(4, 5)
        self.fc = nn.Linear(5, 6)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(self.block.forward(x))))


class AnotherMethodOfAChild(Odd):
    """`encoder.encode(x)`: the child's forward never runs, and would do something else."""

    expected_sites = [(":relu#1", 5)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Encoder()
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder.encode(x))


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.decoder = nn.Linear(5, 4)

    def encode(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encode(x))


class FreshRelu(_TwoLayers):
    """`nn.ReLU()(x)`: a module that is made anew at every run."""

    expected_sites = [("<unregistered ReLU>", 5)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.ReLU()(self.fc(x)))


class BlocksInAList(Odd):
    """Blocks in a plain list are no part of the model: no parameters, nothing in the state dict, no path."""

    expected_sites = [("<unregistered _PlainBlock>:relu#1", 5), ("act", 6)]
    input_shape = (4,)
    declines = {"<unregistered _PlainBlock>:relu#1": "not registered"}

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [_PlainBlock()]
        nn.init.constant_(self.blocks[0].fc.weight, 0.3)  # no file holds them: another instance must have the same
        nn.init.constant_(self.blocks[0].fc.bias, 0.1)
        self.fc = nn.Linear(5, 6)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.act(self.fc(x)))


class _PlainBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x))


class PassesAttributesOn(Odd):
    """A wrapper whose __getattr__ hands on what it does not know to the module inside."""

    expected_sites = [("wrapped:relu#1", 5)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.wrapped = _Wrapper(_PlainBlock())
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wrapped(x))


class _Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x))  # the inner module's layer


class InventsAttributes(_TwoLayers):
    """A __getattr__ that has an answer to every name."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
            return 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(x))) * self.temperature


class GuardedCall(_TwoLayers):
    """Tries a faster way first, which always raises, and falls back."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        try:
            x = self._fast(x)
        except NotImplementedError:
            x = F.relu(x)
        return self.head(x)

    @staticmethod
    def _fast(x: Tensor) -> Tensor:
        raise NotImplementedError


class ActivationInHook(Odd):
    """The rectifier is a forward hook on the linear layer: there is no forward to rewrite."""

    expected_sites = [(":relu#1", 5)]
    input_shape = (4,)
    declines = {":relu#1": "made by a hook"}

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.head = nn.Linear(5, 2)
        self.fc.register_forward_hook(_rectify_output)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(x))


def _rectify_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return F.relu(output)


class HooksThatChangeThings(Odd):
    """Hooks of the model's own, before and after, that change what passes."""

    expected_sites = [("block:relu#1", 5), ("act", 6)]
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.block = _PlainBlock()
        self.fc = nn.Linear(5, 6)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 2)
        self.block.register_forward_pre_hook(_scale_input)
        self.block.register_forward_hook(_scale_output)
        self.act.register_forward_hook(_scale_output)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(self.block(x))))


def _scale_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(3 * arg for arg in args)


def _scale_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 0.5 * output

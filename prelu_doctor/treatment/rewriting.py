"""Replaces single activation calls inside a module's forward.

The owning module alone is traced with `torch.fx`, every child as a leaf, so that dynamic control flow elsewhere does
not matter. Its forward is then the traced graph with those calls replaced; class, hooks, children and names stay.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from prelu_doctor.escaping import escaped, is_plain_name
from prelu_doctor.records import Function
from prelu_doctor.sites.activations import RECOGNISED, Activation, is_activation_module
from prelu_doctor.treatment.function_calls import rectifier_of


class CannotRewriteError(Exception):
    """The owner's forward cannot be rewritten; the message says why."""


def check_python(owner: nn.Module) -> None:
    """Raises where a module's forward is not the Python code of its class.

    Raises:
        CannotRewriteError: The message says what it is.
    """
    if isinstance(owner, torch.jit.ScriptModule):
        raise CannotRewriteError("it is TorchScript, compiled code: convert the model made from its Python class")
    if "forward" in vars(owner):
        raise CannotRewriteError("its forward was replaced on the instance")
    _subclass(type(owner), {})


def rewrite_forward(
    owner: nn.Module,
    replacements: Mapping[int, tuple[str, nn.Module]],
    *,
    of: int,
    none_arguments: Sequence[str] = (),
    functions: Collection[Function] = RECOGNISED,
) -> None:
    """Replaces activation calls that a module's own forward makes.

    Args:
        owner: The module; it gets the new children and a new forward, in place.
        replacements: By rank of the activation call in one run of the forward: name and module to put there.
        of: How many activation calls one run of the forward makes.
        none_arguments: Arguments of the forward that are None whenever the model runs.
        functions: What counts as an activation.

    Raises:
        CannotRewriteError: `torch.fx` cannot trace the forward, or shows other calls than the forward makes. The owner
            is unchanged.
    """
    graph, nodes = traced_activations(owner, of=of, none_arguments=none_arguments, functions=functions)
    for rank, (name, module) in replacements.items():
        add_child(owner, name, module)
        _replace(owner, graph, nodes[rank], name, functions)
    graph.lint()
    _set_forward(owner, graph)


def traced_activations(
    owner: nn.Module,
    *,
    of: int,
    none_arguments: Sequence[str] = (),
    functions: Collection[Function] = RECOGNISED,
) -> tuple[fx.Graph, list[fx.Node]]:
    """A module's own forward as a graph, and the activation calls in it, in the order they run.

    Args:
        owner: The module; it is left as it is.
        of: How many activation calls one run of the forward makes.
        none_arguments: Arguments of the forward that are None whenever the model runs.
        functions: What counts as an activation.

    Raises:
        CannotRewriteError: The forward cannot be traced faithfully.
    """
    check_python(owner)
    if isinstance(owner, fx.GraphModule):  # as torch.export makes one: its forward is a graph already
        graph = copy.deepcopy(owner.graph)
    else:
        with _left_alone(owner):
            graph = _trace(owner, none_arguments)
    odd = [node.target for node in graph.nodes if isinstance(node.target, str) and not is_plain_name(node.target)]
    if odd:
        raise CannotRewriteError(f"a name in it is not fit for code: {escaped(odd[0])}")
    nodes = [node for node in graph.nodes if _is_activation(owner, node, functions)]
    if len(nodes) != of:
        raise CannotRewriteError(f"its traced forward shows {len(nodes)} activation calls, its run made {of}")
    return graph, nodes


@contextmanager
def _left_alone(owner: nn.Module) -> Iterator[None]:
    """Undoes what a forward does to its module while it is traced, and declines it: a graph would not do it again.

    `torch.fx` too leaves tensors on the module that the forward makes out of nothing; a graph would freeze them.
    """
    contents: tuple[dict[str, Any], ...] = (vars(owner), owner._parameters, owner._buffers, owner._modules)
    before = [dict(content) for content in contents]
    try:
        yield
    finally:
        changed = [name for now, then in zip(contents, before, strict=True) for name in _changed(now, then)]
        for now, then in zip(contents, before, strict=True):
            now.clear()
            now.update(then)
    if any(name.startswith("_tensor_constant") for name in changed):
        raise CannotRewriteError("its forward makes tensors that a trace would freeze")
    if changed:
        raise CannotRewriteError(f"its forward sets {', '.join(changed)}, which a trace does not repeat")


def _changed(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    return [name for name in {**then, **now} if name not in then or name not in now or now[name] is not then[name]]


def _trace(owner: nn.Module, none_arguments: Sequence[str]) -> fx.Graph:
    """The forward as a graph in which `self.training` is read anew at every run."""
    nones = {name: None for name in none_arguments if name in inspect.signature(owner.forward).parameters}
    try:
        try:
            graph = _trace_with_flag(owner, nones)
        except fx.proxy.TraceError:
            graph = _trace_in_both_modes(owner, nones)
    except CannotRewriteError:
        raise
    except Exception as error:  # tracing runs the user's forward, which may raise anything
        raise CannotRewriteError(
            f"torch.fx cannot trace its forward ({type(error).__name__}: {_first_line(error)})"
        ) from error
    _name_as_before(graph, nones)
    return graph


def _name_as_before(graph: fx.Graph, nones: Mapping[str, None]) -> None:
    """Gives arguments that were traced as None their names back: `torch.fx` numbers them."""
    placeholders = {str(node.target): node for node in graph.nodes if node.op == "placeholder"}
    for target, node in placeholders.items():
        stem, _, number = target.rpartition("_")
        if stem in nones and number.isdigit() and stem not in placeholders:
            node.target = stem


def _trace_with_flag(owner: nn.Module, nones: dict[str, Any]) -> fx.Graph:
    """Traces with the training flag as a value of the graph, so that a functional dropout keeps following it.

    Other values that the forward finds on its module would be frozen, and random numbers drawn once for all.
    """
    tracer = _ChildrenAreLeaves()
    plain = type(owner)
    read: dict[str, None] = {}

    def training(_self: nn.Module) -> fx.Proxy:
        return tracer.create_proxy("get_attr", "training", (), {})

    def note(self: nn.Module, name: str) -> Any:
        value = plain.__getattribute__(self, name)
        if not name.startswith("_") and isinstance(value, _FROZEN):
            read[name] = None
        return value

    drawn = _random_states()
    specialise(owner, training=property(training), __getattribute__=note)
    try:
        graph = tracer.trace(owner, nones)
    finally:
        owner.__class__ = plain
    if read:
        raise CannotRewriteError(f"its forward reads {', '.join(read)}, which a graph would freeze")
    if drawn != _random_states():
        raise CannotRewriteError("its forward draws random numbers, which a graph would freeze")
    return graph


def _random_states() -> tuple[object, ...]:
    numpy = np.random.get_state(legacy=False)["state"]
    return random.getstate(), numpy["pos"], numpy["key"].tobytes(), torch.get_rng_state().numpy().tobytes()


_FROZEN = (bool, int, float, str, bytes, list, dict, set, tuple)
"""Types of attributes that somebody may set anew, or that a forward keeps things in."""


def _trace_in_both_modes(owner: nn.Module, nones: dict[str, Any]) -> fx.Graph:
    was_training = owner.training
    graphs = []
    try:
        for flag in (True, False):
            owner.training = flag
            graphs.append(_ChildrenAreLeaves().trace(owner, nones))
    finally:
        owner.training = was_training
    first, second = ([(node.op, node.target, node.args, node.kwargs) for node in graph.nodes] for graph in graphs)
    if repr(first) != repr(second):
        raise CannotRewriteError("its forward branches on self.training, of which a trace keeps one side only")
    return graphs[1]


class _ChildrenAreLeaves(fx.Tracer):
    proxy_buffer_attributes = True  # what is computed from a buffer is computed anew at every run

    def __init__(self) -> None:
        super().__init__()
        self._modes = _modes()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _modes() != self._modes:
            raise CannotRewriteError("its forward switches gradients or autocast, of which a graph knows nothing")
        return super().create_node(*args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _modes() -> tuple[object, ...]:
    """What a `with` block or a decorator may switch for the operations inside it."""
    grad = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return (*grad, *((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")))


def _is_activation(owner: nn.Module, node: fx.Node, functions: Collection[Function]) -> bool:
    if node.op == "call_module":
        return is_activation_module(owner.get_submodule(str(node.target)), functions)
    return _called(node, functions) is not None


def _called(node: fx.Node, functions: Collection[Function]) -> Activation | None:
    """The activation that a call of a function or method is, or None."""
    if node.op not in ("call_function", "call_method"):
        return None
    return rectifier_of(node.target, node.args, node.kwargs, functions)


def _replace(owner: nn.Module, graph: fx.Graph, node: fx.Node, name: str, functions: Collection[Function]) -> None:
    source = next(argument for argument in (*node.args, *node.kwargs.values()) if isinstance(argument, fx.Node))
    with graph.inserting_after(node):
        prelu = graph.call_module(name, (source,))
    prelu.meta = dict(node.meta)
    node.replace_all_uses_with(prelu)
    if _works_in_place(owner, node, functions):
        # Whoever reads the input after an in-place call reads the activation's output.
        later = _nodes_after(graph, prelu)
        source.replace_all_uses_with(prelu, delete_user_cb=lambda user: user in later)
    graph.erase_node(node)


def _works_in_place(owner: nn.Module, node: fx.Node, functions: Collection[Function]) -> bool:
    if node.op == "call_module":
        return bool(getattr(owner.get_submodule(str(node.target)), "inplace", False))
    called = _called(node, functions)
    return called is not None and called.in_place


def _nodes_after(graph: fx.Graph, node: fx.Node) -> set[fx.Node]:
    nodes = list(graph.nodes)
    return set(nodes[nodes.index(node) + 1 :])


def _set_forward(owner: nn.Module, graph: fx.Graph) -> None:
    """Gives the owner a subclass of its own class whose forward is the graph: everything else stays what it was."""
    if isinstance(owner, fx.GraphModule):
        owner.graph = graph
        return
    specialise(owner, forward=type(fx.GraphModule(owner, graph)).forward)


def specialise(owner: nn.Module, **members: Any) -> None:
    """Gives a module a subclass of its own class, of the same name, with other members.

    Raises:
        CannotRewriteError: The class does not let itself be subclassed so.
    """
    owner.__class__ = _subclass(type(owner), members)


def _subclass(plain: type[nn.Module], members: Mapping[str, Any]) -> type[nn.Module]:
    try:
        return type(plain.__name__, (plain,), {**members, "__module__": plain.__module__})
    except TypeError as error:  # an __init_subclass__ or a metaclass of the user's that wants more
        raise CannotRewriteError(f"its class cannot be subclassed ({_first_line(error)})") from error


def names_taken(owner: nn.Module) -> set[str]:
    """Names that a new child of a module must not have."""
    return {*dir(type(owner)), *vars(owner), *owner._modules, *owner._parameters, *owner._buffers}


def add_child(owner: nn.Module, name: str, child: nn.Module) -> None:
    """Adds a child, unless it is there already.

    Raises:
        CannotRewriteError: Something else has this name.
    """
    if owner._modules.get(name) is child:
        return
    if name in names_taken(owner):
        raise CannotRewriteError(f"it has a {name} already")
    setattr(owner, name, child)  # add_module asks hasattr, which a __getattr__ may answer for any name


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]

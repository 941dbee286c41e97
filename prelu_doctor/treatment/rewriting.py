"""Replaces single activation calls inside a module's forward.

The owning module alone is traced with `torch.fx`, every child as a leaf, so that dynamic control flow elsewhere does
not matter. Its forward is then the traced graph with those calls replaced; class, hooks, children and names stay.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx, nn

from prelu_doctor.sites.activations import activation_of
from prelu_doctor.sites.trace import ACTIVATION_MODULES


class CannotRewriteError(Exception):
    """The owner's forward cannot be rewritten; the message says why."""


def rewrite_forward(
    owner: nn.Module, replacements: Mapping[int, tuple[str, nn.Module]], *, of: int, none_arguments: Sequence[str] = ()
) -> None:
    """Replaces activation calls that a module's own forward makes.

    Args:
        owner: The module; it gets the new children and a new forward, in place.
        replacements: By rank of the activation call in one run of the forward: name and module to put there.
        of: How many activation calls one run of the forward makes.
        none_arguments: Arguments of the forward that are None whenever the model runs.

    Raises:
        CannotRewriteError: `torch.fx` cannot trace the forward, or shows other calls than the forward makes. The owner
            is unchanged.
    """
    graph = _trace(owner, none_arguments)
    nodes = [node for node in graph.nodes if _is_activation(owner, node)]
    if len(nodes) != of:
        raise CannotRewriteError(f"its traced forward shows {len(nodes)} activation calls, its run made {of}")
    for rank, (name, module) in replacements.items():
        owner.add_module(name, module)
        _replace(owner, graph, nodes[rank], name)
    graph.lint()
    _set_forward(owner, graph)


def _trace(owner: nn.Module, none_arguments: Sequence[str]) -> fx.Graph:
    """The forward as a graph in which `self.training` is read anew at every run."""
    nones = {name: None for name in none_arguments if name in inspect.signature(owner.forward).parameters}
    try:
        try:
            return _trace_with_flag(owner, nones)
        except fx.proxy.TraceError:
            return _trace_in_both_modes(owner, nones)
    except CannotRewriteError:
        raise
    except Exception as error:  # tracing runs the user's forward, which may raise anything
        raise CannotRewriteError(
            f"torch.fx cannot trace its forward ({type(error).__name__}: {_first_line(error)})"
        ) from error


def _trace_with_flag(owner: nn.Module, nones: dict[str, Any]) -> fx.Graph:
    """Traces with the training flag as a value of the graph, so that a functional dropout keeps following it."""
    tracer = _ChildrenAreLeaves()
    plain = type(owner)

    def training(_self: nn.Module) -> fx.Proxy:
        return tracer.create_proxy("get_attr", "training", (), {})

    owner.__class__ = type(plain.__name__, (plain,), {"training": property(training)})
    try:
        return tracer.trace(owner, nones)
    finally:
        owner.__class__ = plain


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
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _is_activation(owner: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(owner.get_submodule(str(node.target)), ACTIVATION_MODULES)
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function":
        name = getattr(node.target, "__name__", "").removeprefix("_")
        name = "_prelu_kernel" if name == "prelu_kernel" else name
    else:
        return False
    return activation_of(name, node.args, node.kwargs) is not None


def _replace(owner: nn.Module, graph: fx.Graph, node: fx.Node, name: str) -> None:
    source = next(iter((*node.args, *node.kwargs.values())))
    assert isinstance(source, fx.Node)
    with graph.inserting_after(node):
        prelu = graph.call_module(name, (source,))
    node.replace_all_uses_with(prelu)
    if _works_in_place(owner, node):
        # Whoever reads the input after an in-place call reads the activation's output.
        later = _nodes_after(graph, prelu)
        source.replace_all_uses_with(prelu, delete_user_cb=lambda user: user in later)
    graph.erase_node(node)


def _works_in_place(owner: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(owner.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.endswith("_") or node.kwargs.get("inplace") is True


def _nodes_after(graph: fx.Graph, node: fx.Node) -> set[fx.Node]:
    nodes = list(graph.nodes)
    return set(nodes[nodes.index(node) + 1 :])


def _set_forward(owner: nn.Module, graph: fx.Graph) -> None:
    """Gives the owner a subclass of its own class whose forward is the graph: everything else stays what it was."""
    forward: Callable[..., Any] = type(fx.GraphModule(owner, graph)).forward
    plain = type(owner)
    owner.__class__ = type(plain.__name__, (plain,), {"forward": forward, "__module__": plain.__module__})


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]

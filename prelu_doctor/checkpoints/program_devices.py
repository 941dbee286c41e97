"""Programs on another device: their graphs name the device of what they make, and are told the new one."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from prelu_doctor.checkpoints.torchscript_checks import nodes_of


def move(module: nn.Module, device: torch.device) -> nn.Module:
    """A module on another device; one whose forward is a graph, with what the graph holds.

    Args:
        module: Changed in place.
        device: Where it is to lie.
    """
    if isinstance(module, fx.GraphModule):
        _rename_in_graph(module, device)
    if isinstance(module, torch.jit.ScriptModule):
        rename_device(module, device)
    return module.to(device)


def _rename_in_graph(module: fx.GraphModule, device: torch.device) -> None:
    def renamed(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in module.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, renamed)
        node.kwargs = fx.node.map_aggregate(node.kwargs, renamed)
    module.recompile()


def rename_device(module: torch.jit.ScriptModule, device: torch.device) -> None:
    """Changes the device that TorchScript names for what it makes: a trace keeps that on which it was traced.

    Args:
        module: Changed in place; constants of a frozen one are moved.
        device: Where what it makes is to lie.
    """
    parts: list[Any] = list(module.modules())
    graphs = [part._c._get_method(method).graph for part in parts for method in part._c._method_names()]
    for node in (node for graph in graphs for node in nodes_of(graph) if node.kind() == "prim::Constant"):
        if not node.hasAttribute("value"):
            continue
        if node.output().type().kind() == "DeviceObjType" and node.s("value") != str(device):
            node.s_("value", str(device))
        elif node.kindOf("value") == "t" and node.t("value").dim() and node.t("value").device != device:
            node.t_("value", node.t("value").to(device))

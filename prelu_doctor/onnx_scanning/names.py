"""Where in a PyTorch model a node comes from, told by what its exporter wrote down.

The exporter of `torch.onnx.export(dynamo=True)` puts the path of modules into the metadata of each node; the older one
puts it into the node's name (`/layer1/layer1.0/relu/Relu`); this program names PRelu nodes `layer1.0.relu/PRelu`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from prelu_doctor.escaping import escaped
from prelu_doctor.sites.find import FoundSite
from prelu_doctor.sites.graph import Graph, Position

_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_REPEATED = re.compile(r"@\d+")
_ACTIVATION_CLASSES = frozenset({"ReLU", "ReLU6", "Hardtanh", "Threshold", "LeakyReLU", "RReLU", "PReLU"})
_TORCH_NAME = re.compile(r"\w+(\.\w+)+")


@dataclass(frozen=True)
class Origin:
    """The modules whose forward made a node.

    Attributes:
        path: Path of the innermost one.
        calls: The paths of all of them, from the root, repeated calls told apart.
        is_activation: True where the innermost one is an activation module.
        tells_apart: True where two calls of one module are sure to have one path.
    """

    path: str
    calls: tuple[str, ...]
    is_activation: bool
    tells_apart: bool = False


class Origins:
    """Tells the origins of a model's nodes.

    Args:
        nodes: All its nodes.
    """

    def __init__(self, nodes: Iterable[NodeProto]) -> None:
        scopes = [node.name.rpartition("/")[0] for node in nodes if "/" in node.name and node.op_type != "Constant"]
        self._in_scope: Counter[str] = Counter(scopes)
        self._around = {scope.rpartition("/")[0] for scope in scopes}

    def of(self, node: NodeProto) -> Origin | None:
        """The origin of a node; None where the file does not tell."""
        told = {entry.key: entry.value for entry in node.metadata_props}
        if _SCOPES in told:
            return _from_metadata(_strings(told[_SCOPES]), _strings(told.get(_CLASSES, "")))
        scope, slash, _ = node.name.rpartition("/")
        if not slash:
            return None
        if not scope.startswith("/"):
            return Origin(scope, (scope,), bool(scope)) if scope else Origin("", ("",), False)
        return self._from_name(scope)

    def _from_name(self, scope: str) -> Origin:
        """`/layer1/layer1.0/relu`: a module in a container repeats the container's name.

        A module is taken for the activation itself where its scope holds this node alone, and no other scope.
        """
        steps = scope.strip("/").split("/")
        kept: list[str] = []
        for step in steps:
            if kept and step.startswith(f"{kept[-1]}."):
                kept.pop()
            kept.append(step)
        alone = self._in_scope[scope] == 1 and scope not in self._around
        name = kept[-1]
        first = re.fullmatch(r"(.+)_\d+", name)
        if alone and first and f"{scope.rpartition('/')[0]}/{first[1]}" in self._in_scope:
            name = first[1]  # `relu_1` beside `relu` is its second call
        repeated = any(re.fullmatch(r".+_\d+", step) for step in steps)  # `encoder_1` may be a second call of `encoder`
        calls = tuple(steps[:-1] if alone else steps)
        return Origin(".".join([*kept[:-1], name]), calls, alone, tells_apart=not repeated)


def _from_metadata(scopes: Sequence[str], classes: Sequence[str]) -> Origin:
    """`['', 'layer1', 'layer1.0', 'layer1.0.relu', 'relu_1']`: the last one is the operation."""
    modules = scopes[:-1] or [""]
    of_torch = len(classes) > 1 and classes[-2].startswith("torch.nn.modules.")
    activation = of_torch and classes[-2].rpartition(".")[2] in _ACTIVATION_CLASSES
    return Origin(_REPEATED.sub("", modules[-1]), tuple(modules), activation and len(modules) > 1, tells_apart=True)


def _strings(text: str) -> list[str]:
    return [one or other for one, other in _QUOTED.findall(text)]


class Positions:
    """Gives every activation the place that scanning the PyTorch model would give it."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        self._calls: Counter[tuple[object, ...]] = Counter()

    def next(self, node: NodeProto, function: str, place: str) -> Position:
        """The position of the next activation.

        Args:
            node: The activation.
            function: What it is called.
            place: What the report calls a node that has no name.
        """
        origin = self._origins.of(node)
        source = escaped(node.name or place, 200)
        if origin is None:
            return Position((source,), "", None, 1, 0, source, "")
        path = escaped(origin.path, 200)
        if not origin.is_activation:
            name = f":{function}"
            ordinal = self._next(origin.calls, name)
            return Position((*origin.calls, f"{name}#{ordinal}"), path, None, ordinal, 0, source, path)
        owner = origin.calls[:-1] if len(origin.calls) > 1 else origin.calls
        ordinal = self._next(owner, path)
        return Position((*owner, f"{path}#{ordinal}"), path.rpartition(".")[0], path, ordinal, 0, source, "")

    def _next(self, calls: tuple[str, ...], name: str) -> int:
        self._calls[calls, name] += 1
        return self._calls[calls, name]


def shorten_ids(sites: Sequence[FoundSite], graph: Graph) -> None:
    """Takes `#1` off new sites to which all calls of their module went.

    A file does not tell the runs of a block apart. Calls of one activation that share their producers are taken for
    one call in each run, unless the root module makes them, which runs once.
    """
    calls = Counter(call.position.module for call in graph.activations() if call.position)
    for site in sites:
        module = site.position.module
        if module and site.position.owner and site.id == f"{module}#1" and len(site.calls) == calls[module]:
            site.id = module


def is_torch_name(name: str) -> bool:
    """Whether a tensor is called as PyTorch calls one: `layer1.0.conv1.weight`."""
    return bool(_TORCH_NAME.fullmatch(name))

"""Where a call stands in its owner's code: the same from every depth inside torch, another for another line."""

from __future__ import annotations

import sys
from types import CodeType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prelu_doctor.data.batches import Batch
from prelu_doctor.sites.graph import Position
from prelu_doctor.sites.locations import functions_of, located, names_of
from prelu_doctor.sites.trace import trace


def helper(x: Tensor) -> Tensor:
    return F.relu(x)


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.rnn = nn.RNN(4, 4, 2, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = helper(x) + helper(x - 1)
        for layer in self.layers:
            x = self.act(layer(x))
        x = sum([torch.relu(layer(x)) for layer in self.layers])
        x = F.relu6(x).clamp(min=0) + F.hardtanh(x, 0.0, 6.0)
        return self.rnn(self.block(x)[None])[0]


def positions() -> list[Position]:
    torch.manual_seed(0)
    graph = trace(Many().eval(), Batch(args=(torch.randn(3, 4),)))
    return [call.position for call in graph.activations() if call.position]


def test_a_step_is_a_function_a_digest_of_its_source_a_line_and_a_column() -> None:
    first = positions()[0].location
    assert names_of(first) == ["Many.forward", "helper"]
    forward, rectified = first.split(">")
    assert forward.partition("+")[2] == "1:12"
    assert rectified.partition("+")[2] == "1:11"
    assert len(functions_of(first)[0].partition("@")[2]) == 8


def test_two_calls_on_one_line_stand_at_two_places_and_a_loop_at_one() -> None:
    first, second, third, fourth = (position.location for position in positions()[:4])
    assert first != second
    assert third == fourth
    assert positions()[2].module == "act"


def test_a_comprehension_is_a_line_of_its_function() -> None:
    places = {position.location for position in positions()[4:6]}
    assert [names_of(place) for place in places] == [["Many.forward"]]


def test_a_container_of_torch_is_an_owner_like_any_other() -> None:
    assert [names_of(p.location) for p in positions() if p.owner == "block"] == [["Sequential.forward"]]


def test_a_fused_rnn_is_the_last_step() -> None:
    assert {p.location.rpartition(">")[2] for p in positions() if p.owner == "rnn"} == {"rnn_relu"}


class Seen(TorchFunctionMode):
    """Notes the places of rectifier calls as a function mode sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in ("relu", "relu6", "clamp", "hardtanh", "rnn_relu"):
            self.places.append(located(sys._getframe(1))[1])
        return func(*args, **(kwargs or {}))


def test_a_function_mode_sees_the_places_that_the_dispatcher_sees() -> None:
    torch.manual_seed(0)
    model = Many().eval()
    with torch.no_grad(), Seen() as seen:
        model(torch.randn(3, 4))
    expected = [position.location.removesuffix(">rnn_relu") for position in positions()]
    assert [place for place in seen.places if "RNN" not in place] == [place for place in expected if "RNN" not in place]
    assert {place for place in seen.places if "RNN" in place} == {place for place in expected if "RNN" in place}


def test_a_hook_is_no_part_of_a_forward() -> None:
    model = Many().eval()
    model.layers[0].register_forward_hook(lambda _module, _args, output: F.relu(output))
    graph = trace(model, Batch(args=(torch.randn(3, 4),)))
    hooked = [call.position for call in graph.activations() if call.position and "lambda" in call.position.source]
    places = [call.position.location for call in graph.activations() if call.position]
    assert hooked == []
    assert places.count("") == 2  # the hooked layer runs twice


def compiled(source: str) -> CodeType:
    scope: dict[str, object] = {}
    exec(source, scope)  # noqa: S102 - our own text
    return scope["f"].__code__  # type: ignore[attr-defined]


def test_outside_of_a_model_there_is_no_place() -> None:
    assert located(sys._getframe()) == (None, "")


def test_code_without_a_source_file_has_a_digest_of_what_it_does() -> None:
    from prelu_doctor.sites.locations import _digest

    source = "def f(x):\n    return x.relu()\n"
    assert _digest(compiled(source)) == _digest(compiled("\n\n" + source))
    assert _digest(compiled(source)) != _digest(compiled(source.replace("relu()", "relu() + x")))

"""Calls sent to a PReLU while the forward runs as it was written: loops, branches, helpers, views, fused RNNs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from treated import dataset_of, equal, gaussian, operated, output_of, untrained

from prelu_doctor.doctor import convert
from prelu_doctor.scanning.scan import scan_model
from prelu_doctor.treatment.conversion import Treatment
from prelu_doctor.treatment.converted_file import load
from prelu_doctor.treatment.fine_tuning import Training
from prelu_doctor.treatment.surgery import Surgery

X = gaussian(8, 5, 4)


class Loop(nn.Module):
    """Two layers take turns in a loop over time, and a third one comes after it: nothing that a graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 6)
        for step in x.unbind(1):
            state = state + self.rectified(self.rectified(step, self.a), self.b)
        return self.rectified(state, self.c) if x.shape[1] < 100 else state

    def rectified(self, x: Tensor, layer: nn.Linear) -> Tensor:
        return F.relu(layer(x))


class LoopByHand(Loop):
    """The same with a PReLU for each layer, as somebody would write it who knows what should come out."""

    def __init__(self) -> None:
        super().__init__()
        self.prelus = nn.ModuleDict({name: nn.PReLU(6) for name in "abc"})

    def rectified(self, x: Tensor, layer: nn.Linear) -> Tensor:
        name = next(name for name in "abc" if getattr(self, name) is layer)
        return self.prelus[name](layer(x))


def converted_loop() -> tuple[Loop, Surgery]:
    torch.manual_seed(0)
    model = Loop().eval()
    return model, operated(model, X)[0]


def randomised(surgery: Surgery) -> dict[str, Tensor]:
    """Gives every slope another value; returns them by site."""
    with torch.no_grad():
        for number, recipe in enumerate(surgery.done):
            weight = surgery.prelu(recipe.site).weight
            weight.copy_(gaussian(*weight.shape, seed=number + 1))
    return {recipe.site: surgery.prelu(recipe.site).weight.detach() for recipe in surgery.done}


def test_each_layer_of_a_loop_gets_its_own_prelu_and_no_other() -> None:
    model, surgery = converted_loop()
    assert not surgery.declined
    slopes = randomised(surgery)
    by_hand = LoopByHand()
    by_hand.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for prelu, slope in zip(by_hand.prelus.values(), slopes.values(), strict=True):
            prelu.weight.copy_(slope)
    for steps in (1, 3, 5, 9):
        x = gaussian(3, steps, 4, seed=steps)
        assert torch.equal(surgery.model(x), by_hand(x))


def test_the_gradients_are_those_of_the_code_written_by_hand() -> None:
    model, surgery = converted_loop()
    by_hand = LoopByHand()
    by_hand.load_state_dict(model.state_dict(), strict=False)
    for prelu in by_hand.prelus.values():
        torch.nn.init.zeros_(prelu.weight)
    for net in (surgery.model, by_hand):
        net(X).square().sum().backward()
    assert torch.equal(surgery.model.a.weight.grad, by_hand.a.weight.grad)
    for recipe, prelu in zip(surgery.done, by_hand.prelus.values(), strict=True):
        assert torch.equal(surgery.prelu(recipe.site).weight.grad, prelu.weight.grad)


def test_a_loop_longer_than_any_that_was_seen_goes_on_in_turns() -> None:
    model, surgery = converted_loop()
    x = gaussian(2, 40, 4)
    assert torch.equal(surgery.model(x), model(x))
    sites = scan_model(surgery.model, dataset_of(x).scanned()).sites
    assert [site.function for site in sites] == ["prelu"] * 3


def test_the_signature_the_class_and_the_copy_are_what_they_were() -> None:
    model, surgery = converted_loop()
    assert inspect.signature(surgery.model.forward) == inspect.signature(model.forward)
    assert isinstance(surgery.model, Loop)
    twin = copy.deepcopy(surgery.model)
    randomised(surgery)
    assert torch.equal(twin(X), model(X))


def test_a_converted_loop_is_loaded_from_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Loop().eval()
    conversion = convert(model, X, Treatment(training=Training(steps=0), alpha=0.3))
    conversion.save(tmp_path / "loop.safetensors")
    assert torch.equal(load(Loop, tmp_path / "loop.safetensors").eval()(X), conversion.model(X))
    assert not torch.equal(conversion.model(X), model(X))


def version(body: str, folder: Path) -> type[nn.Module]:
    """A class from a source file of its own."""
    source = (
        "import torch\nfrom torch import nn\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(4, 6)\n\n"
        f"    def forward(self, x):\n{body}"
    )
    folder.mkdir()
    (folder / "net.py").write_text(source)
    scope: dict[str, object] = {"__name__": "net"}
    exec(compile(source, str(folder / "net.py"), "exec"), scope)  # noqa: S102 - our own text
    return scope["Net"]  # type: ignore[return-value]


def test_code_that_was_changed_since_raises_and_never_computes_a_relu_in_silence(tmp_path: Path) -> None:
    x = gaussian(8, 4)
    body = "        if len(x) > 99:\n            x = -x\n        return torch.relu(self.fc(x))\n"
    old = version(body, tmp_path / "old")
    moved_down = version("        # a comment\n" + body, tmp_path / "new")
    convert(old().eval(), x, Treatment(training=Training(steps=0))).save(tmp_path / "net.safetensors")
    load(old, tmp_path / "net.safetensors")(x)
    with pytest.raises(RuntimeError, match=r"source of Net\.forward is not what it was"):
        load(moved_down, tmp_path / "net.safetensors")(x)


class Branches(nn.Module):
    """Another ReLU for every sign of the first number."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0] > 0:
            return F.relu(self.left(x))
        return F.relu(self.right(x))


def test_a_branch_that_later_batches_take_is_converted_too() -> None:
    torch.manual_seed(0)
    x = gaussian(192, 4)
    x[0, 0], x[64, 0], x[128, 0] = 1.0, -1.0, 1.0
    treated = untrained(Branches(), x, alpha=0.5)
    assert [change.declined for change in treated.changes] == ["", ""]
    for part in (x[:64], x[64:128]):
        layer = treated.model.left if part[0, 0] > 0 else treated.model.right
        assert torch.equal(treated.model(part), F.leaky_relu(layer(part), 0.5))


def test_a_branch_that_no_batch_took_goes_on_as_a_relu() -> None:
    torch.manual_seed(0)
    x = gaussian(16, 4)
    x[0, 0] = 1.0
    treated = untrained(Branches(), x, alpha=0.5)
    assert [change.site for change in treated.changes] == [":relu#1"]
    assert torch.equal(treated.model(-x), F.relu(treated.model.right(-x)))


class OrderByData(nn.Module):
    """One line serves two layers, in an order that the data tells."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.b) if x[0, 0] > 0 else (self.b, self.a):
            x = F.relu(layer(x))
        return x


def test_calls_that_cannot_be_told_apart_are_declined() -> None:
    x = gaussian(128, 4)
    x[0, 0], x[64, 0] = 1.0, -1.0
    treated = untrained(OrderByData(), x)
    assert len(treated.changes) >= 2
    assert all("an order that differs between runs" in change.declined for change in treated.changes)
    assert treated.preservation.equal


class InPlaceOnAView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc(x)
        if len(x) > 0:
            hidden.view(-1, 2, 3)[:, 1].relu_()
        return hidden


def test_a_call_in_place_stays_in_place() -> None:
    x = gaussian(8, 4)
    treated = untrained(InPlaceOnAView(), x, alpha=0.5)
    assert not treated.changes[0].declined
    hidden = treated.model.fc(x)
    expected = torch.cat([hidden[:, :3], F.leaky_relu(hidden[:, 3:], 0.5)], 1)
    assert torch.allclose(treated.model(x), expected)
    treated.model(x).sum().backward()


class UnderAutocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.head(F.relu(self.fc(x))).float()


class PartlyFrozen(UnderAutocast):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = F.relu(self.fc(x))
        return self.head(x)


@pytest.mark.parametrize("kind", [UnderAutocast, PartlyFrozen])
def test_a_block_that_a_graph_would_forget_is_kept(kind: type[nn.Module]) -> None:
    x = gaussian(8, 4)
    model = kind().eval()
    surgery, _ = operated(model, x)
    assert not surgery.declined
    assert torch.equal(surgery.model(x), model(x))
    surgery.model(x).sum().backward()
    assert (surgery.model.fc.weight.grad is None) == (kind is PartlyFrozen)


class Nested(nn.Module):
    """A routed module inside a routed module, at lines of the same class."""

    def __init__(self, inner: nn.Module | None) -> None:
        super().__init__()
        self.fc, self.inner = nn.Linear(4, 4), inner or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(self.fc(x))) if len(x) < 99 else x


def test_an_inner_forward_has_turns_of_its_own() -> None:
    torch.manual_seed(0)
    model = Nested(Nested(Nested(None))).eval()
    x = gaussian(8, 4)
    surgery, _ = operated(model, x)
    assert [place.owner for recipe in surgery.done for place in recipe.places] == ["inner.inner", "inner", ""]
    assert torch.equal(surgery.model(x), model(x))
    assert {site.function for site in scan_model(surgery.model, dataset_of(x).scanned()).sites} == {"prelu"}


def test_it_exports_as_any_model_does() -> None:
    _, surgery = converted_loop()
    slopes = randomised(surgery)
    program = torch.export.export(surgery.model, (X,))
    assert torch.equal(program.module()(X), surgery.model(X))
    called = [node for node in program.graph.nodes if "prelu" in str(node.target) and node.op == "call_function"]
    assert len(called) == 11
    assert not [node for node in program.graph.nodes if "relu.default" in str(node.target).replace("prelu", "")]
    assert len(slopes) == 3


@pytest.mark.parametrize("wrap", [lambda model: model, nn.Sequential], ids=["root", "inside"])
def test_compiled_it_computes_the_same(wrap: Callable[[nn.Module], nn.Module]) -> None:
    _, surgery = converted_loop()
    randomised(surgery)
    torch.compiler.reset()
    compiled = torch.compile(wrap(surgery.model), backend="eager")
    for x in (X, gaussian(3, 7, 4)):
        assert torch.equal(compiled(x), surgery.model(x))


RNNS: dict[str, Callable[[], nn.RNN]] = {
    "one layer": lambda: nn.RNN(4, 6, nonlinearity="relu"),
    "two layers": lambda: nn.RNN(4, 6, 2, nonlinearity="relu", batch_first=True),
    "both ways": lambda: nn.RNN(4, 6, 2, nonlinearity="relu", bidirectional=True, batch_first=True),
    "no bias": lambda: nn.RNN(4, 6, 2, nonlinearity="relu", bias=False, batch_first=True),
    "dropout": lambda: nn.RNN(4, 6, 3, nonlinearity="relu", dropout=0.5, batch_first=True),
}


class OverRnn(nn.Module):
    def __init__(self, rnn: nn.RNN, *, packed: bool = False) -> None:
        super().__init__()
        self.rnn, self.packed = rnn, packed

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.packed:
            return self.rnn(x)
        lengths = torch.arange(len(x)) % x.shape[1] + 1
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, state = self.rnn(packed)
        return nn.utils.rnn.pad_packed_sequence(output, batch_first=True)[0], state


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", RNNS)
def test_an_rnn_gets_a_prelu_for_each_layer_and_direction(name: str, packed: bool) -> None:
    torch.manual_seed(0)
    rnn = RNNS[name]()
    model = OverRnn(rnn, packed=packed and rnn.batch_first).eval()
    surgery, before = operated(model, X)
    assert not surgery.declined
    assert len(before.sites) == len(surgery.done) == rnn.num_layers * (2 if rnn.bidirectional else 1)
    other = gaussian(5, 7, 4, seed=3)
    assert equal(output_of(model, other), output_of(surgery.model, other))
    model.train()
    surgery.model.train()
    assert equal(output_of(model, other), output_of(surgery.model, other))
    surgery.model.eval()
    randomised(surgery)
    assert {site.function for site in scan_model(surgery.model, dataset_of(X).scanned()).sites} == {"prelu"}


def test_the_slopes_of_an_rnn_act_at_their_own_layer() -> None:
    torch.manual_seed(0)
    model = OverRnn(RNNS["two layers"]()).eval()
    surgery, _ = operated(model, X)
    first, second = (surgery.prelu(recipe.site).weight for recipe in surgery.done)
    torch.nn.init.constant_(first, 1.0)
    torch.nn.init.constant_(second, 0.5)
    rnn = model.rnn
    states = [torch.zeros(len(X), 6)] * 2
    for step in X.unbind(1):
        inside = F.linear(step, rnn.weight_ih_l0, rnn.bias_ih_l0) + F.linear(
            states[0], rnn.weight_hh_l0, rnn.bias_hh_l0
        )
        above = F.linear(inside, rnn.weight_ih_l1, rnn.bias_ih_l1) + F.linear(
            states[1], rnn.weight_hh_l1, rnn.bias_hh_l1
        )
        states = [inside, F.leaky_relu(above, 0.5)]
    assert torch.allclose(surgery.model(X)[1], torch.stack(states), atol=1e-5)


class OverCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(4, 6, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


def test_a_cell_gets_a_prelu() -> None:
    torch.manual_seed(0)
    model = OverCell().eval()
    surgery, _ = operated(model, X)
    assert not surgery.declined
    assert torch.equal(surgery.model(X), model(X))
    randomised(surgery)
    assert not torch.equal(surgery.model(X), model(X))


class FirstStepApart(nn.Module):
    """One line serves the first step of a loop, which has no state yet, and then all others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other = nn.Linear(4, 6), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            inside = self.first(step) if state is None else self.other(torch.cat([step, state], 1))
            state = F.relu(inside)
        return state


def test_a_loop_whose_first_step_is_another_goes_on_as_long_as_it_likes() -> None:
    torch.manual_seed(0)
    model = FirstStepApart().eval()
    surgery, before = operated(model, X)
    assert len(before.sites) == len(surgery.done) == 2
    assert sum(len(recipe.places) for recipe in surgery.done) == 2
    sites = scan_model(surgery.model, dataset_of(gaussian(2, 30, 4)).scanned()).sites
    assert [site.function for site in sites] == ["prelu", "prelu"]
    assert [site.calls for site in sites] == [1, 29]


class CallsForward(nn.Module):
    """Somebody's wrapper, which calls the forward itself and so passes by all hooks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward(x)


def test_a_forward_that_is_called_by_name_is_routed_too() -> None:
    _, surgery = converted_loop()
    randomised(surgery)
    expected = surgery.model(X)
    assert torch.equal(surgery.model.forward(X), expected)
    assert torch.equal(CallsForward(surgery.model)(X), expected)


class CallsItself(nn.Module):
    """A forward that calls itself, by name or through its module, once for every level."""

    def __init__(self, *, by_name: bool) -> None:
        super().__init__()
        self.fc, self.by_name = nn.Linear(6, 6), by_name

    def forward(self, x: Tensor, levels: int = 3) -> Tensor:
        if levels == 0:
            return x
        x = F.relu(self.fc(x))
        return self.forward(x, levels - 1) if self.by_name else self(x, levels - 1)


@pytest.mark.parametrize("by_name", [False, True])
def test_recursion_rectifies_once_a_level(by_name: bool) -> None:
    torch.manual_seed(0)
    x = gaussian(5, 6, 6)
    treated = untrained(CallsItself(by_name=by_name), x, alpha=0.3)
    assert not treated.changes[0].declined
    expected = x
    for _ in range(3):
        expected = F.leaky_relu(treated.model.fc(expected), 0.3)
    assert torch.allclose(treated.model(x), expected, atol=1e-6)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def rectified(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.utils.checkpoint.checkpoint(self.rectified, x, use_reentrant=False))


class OwnGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return F.relu(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class WithOwnGradient(Checkpointed):
    def rectified(self, x: Tensor) -> Tensor:
        return OwnGradient.apply(self.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rectified(x))


class Mapped(Checkpointed):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.vmap(self.rectified)(x))


@pytest.mark.parametrize("kind", [Checkpointed, WithOwnGradient, Mapped])
def test_a_call_that_torch_makes_in_a_way_of_its_own_is_declined(kind: type[nn.Module]) -> None:
    x = gaussian(8, 4)
    treated = untrained(kind(), x)
    assert [bool(change.declined) for change in treated.changes] == [True]
    assert "under checkpoint, vmap or an autograd.Function" in treated.changes[0].declined


class ActivationInHookAndForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_forward_pre_hook(lambda module, args: (F.relu(module.fc(args[0])),))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x))


def test_a_site_that_a_hook_serves_too_is_declined_as_a_whole() -> None:
    treated = untrained(ActivationInHookAndForward(), gaussian(8, 4))
    assert all("made by a hook" in change.declined for change in treated.changes)


class Configured(nn.Module):
    """Looks at plain attributes, counts in a list, draws a random number: what a graph would freeze."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(4, 6), nn.Linear(6, 2)
        self.temperature, self.features, self.seen = 1.0, False, []

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.fc(x))
        self.seen.append(len(x.shape))
        if self.training and torch.rand([]) < 0.5:
            hidden = hidden * 2
        return hidden if self.features else self.head(hidden) / self.temperature


def test_attributes_that_are_set_later_are_heeded() -> None:
    torch.manual_seed(0)
    model, x = Configured().eval(), gaussian(8, 4)
    surgery, _ = operated(model, x)
    assert not surgery.declined
    for net in (model, surgery.model):
        net.temperature = 3.0
    assert torch.equal(surgery.model(x), model(x))
    assert len(surgery.model.seen) > len(model.seen) - len(surgery.model.seen)
    surgery.model.features = True
    assert surgery.model(x).shape == (8, 6)
    surgery.model.train()
    assert len({float(surgery.model(x).sum().detach()) for _ in range(50)}) == 2


class SharedBlock(nn.Module):
    """One block under two names, behind two layers: one line and one module, two sites."""

    def __init__(self) -> None:
        super().__init__()
        block = PreActivation()
        self.left, self.right = nn.Sequential(nn.Linear(4, 6), block), nn.Sequential(nn.Linear(4, 6), block)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


class PreActivation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


def test_two_sites_of_one_shared_block_never_share_a_prelu_in_silence() -> None:
    treated = untrained(SharedBlock(), gaussian(8, 4))
    assert len(treated.changes) == 2
    assert all("for other sites too" in change.declined for change in treated.changes)


def test_one_layer_of_an_rnn_can_keep_its_relu() -> None:
    torch.manual_seed(0)
    model = OverRnn(RNNS["two layers"]()).eval()
    with torch.no_grad():
        model.rnn.bias_ih_l1[2] = float("-inf")
    surgery, _ = operated(model, X)
    assert len(surgery.done) == len(surgery.declined) == 1
    assert equal(output_of(model, X), output_of(surgery.model, X))


class TwoArguments(nn.Module):
    """Holds a function in an attribute, and gives it more than a module would take."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.head = nn.Linear(4, 6), F.relu, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(x), True))


class WantsAName(TwoArguments):
    """A class that wants to be told something when it is subclassed."""

    def __init_subclass__(cls, *, name: str) -> None:
        super().__init_subclass__()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(x)))


@pytest.mark.parametrize(("kind", "declined"), [(TwoArguments, False), (WantsAName, True)])
def test_what_stands_in_the_way_of_a_prelu_is_met_or_told(kind: type[nn.Module], declined: bool) -> None:
    model, x = kind(), gaussian(8, 4)
    surgery, _ = operated(model, x)
    assert bool(surgery.declined) is declined
    assert torch.equal(surgery.model(x), model(x))


def test_a_callers_tensor_that_is_overwritten_stays_free_of_gradients() -> None:
    class OverwritesItsInput(TwoArguments):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.fc(F.relu_(x)) if len(x) else x)

    x = gaussian(8, 4)
    surgery, _ = operated(OverwritesItsInput(), x)
    given = x.clone()
    for _ in range(2):
        surgery.model(given).sum().backward()
    assert not given.requires_grad
    assert torch.equal(given, x.relu())


class CellsOnOneLine(nn.Module):
    """One line calls the fused cell for two sets of weights: nothing tells whose turn it is."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.RNNCell(6, 6, nonlinearity="relu") for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            x = torch.rnn_relu_cell(x, x, cell.weight_ih, cell.weight_hh, b_ih=cell.bias_ih, b_hh=cell.bias_hh)
        return x


def test_a_fused_cell_that_serves_two_layers_on_one_line_keeps_its_relus() -> None:
    torch.manual_seed(0)
    model, x = CellsOnOneLine().eval(), gaussian(5, 6)
    surgery, before = operated(model, x)
    assert len(before.sites) == len(surgery.declined) == 2
    assert not surgery.done
    assert torch.equal(surgery.model(x), model(x))

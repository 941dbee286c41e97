from collections import OrderedDict

import pytest
import torch
from torch import nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.checkpoints.finiteness import non_finite_names
from prelu_doctor.checkpoints.keys import load_weights
from prelu_doctor.errors import CheckpointError


def mismatch(module, state):
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(module, state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    return str(caught.value)


def changed(net):
    return {name: tensor + 1 for name, tensor in net.state_dict().items()}


def test_weights_that_fit_are_loaded(net):
    state = changed(net)
    load_weights(net, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_a_class_that_asks_for_the_version_of_its_weights_gets_its_own():
    class Versioned(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state, prefix, metadata, *rest):
            if metadata.get("version") != 2:
                raise ValueError("version should be set")
            super()._load_from_state_dict(state, prefix, metadata, *rest)

    model = Versioned(2, 2)
    state = changed(model)
    load_weights(model, state)
    assert torch.equal(model.weight, state["weight"])


def test_all_that_differs_is_listed_at_once_and_nothing_is_loaded(net):
    state = changed(net)
    state["2.weigth"] = state.pop("2.weight")
    state["0.bias"] = torch.zeros(7)
    state["far.away"] = torch.zeros(1)
    message = mismatch(net, state)
    assert "1 missing, 2 unexpected, 1 that do not fit" in message
    assert "missing '2.weight' (nearest in the file: '2.weigth')" in message
    assert "unexpected '2.weigth' (nearest missing: '2.weight')" in message
    assert "unexpected 'far.away'\n" in message
    assert "'0.bias' is 7 in the file and 3 in the architecture" in message


def test_long_lists_are_cut_with_a_count(net):
    message = mismatch(net, {f"stray{k}.w": torch.zeros(1) for k in range(13)})
    assert "... and 3 more" in message
    assert message.count("unexpected 'stray") == 10


def test_a_common_prefix_to_add_is_told(net):
    message = mismatch(nn.ModuleDict({"backbone": net}), net.state_dict())
    assert "with the prefix 'backbone.' added: then every name would match" in message


def below(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["model.", "net.encoder.", "model.module."])
def test_the_architecture_may_be_a_part_of_what_was_trained(net, prefix):
    state = changed(net)
    note = load_weights(net, below(prefix, state) | {"criterion.weight": torch.ones(3), "f1.total": torch.ones(1)})
    assert torch.equal(net[0].weight, state["0.weight"])
    assert note == f"prefix '{prefix}' removed, left out: 'criterion.weight', 'f1.total'"


def test_weights_that_fit_as_they_are_need_no_note(net):
    assert load_weights(net, changed(net)) == ""


def test_a_part_that_lacks_a_weight_is_not_taken(net):
    state = below("model.", net.state_dict()) | {"criterion.weight": torch.ones(3)}
    del state["model.2.bias"]
    assert "5 missing" not in mismatch(net, state)
    assert "missing '2.bias'" in mismatch(net, state)


def test_a_part_that_has_more_than_the_architecture_is_not_taken(net):
    assert "unexpected 'model.3.weight'" in mismatch(
        net, below("model.", net.state_dict()) | {"model.3.weight": torch.ones(3), "other": torch.ones(1)}
    )


def test_extra_names_beside_names_that_fit_stay_an_error(net):
    assert "unexpected 'criterion.weight'" in mismatch(net, net.state_dict() | {"criterion.weight": torch.ones(3)})


def test_two_parts_that_would_fit_must_be_told_apart(net):
    message = mismatch(net, below("student.", net.state_dict()) | below("teacher.", net.state_dict()))
    assert "holds the architecture's weights 2 times: below 'student', 'teacher'" in message
    assert "--weights-key student" in message


def test_a_part_with_tied_weights_may_lack_one_of_their_names():
    for name in ("embed", "head"):
        model = tied()
        load_weights(model, {f"model.{name}.weight": torch.full((3, 3), 2.0)})
        assert (model["embed"].weight == 2).all()


def norm():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def test_an_old_batch_norm_that_counted_no_batches_is_loaded():
    model, state = norm(), changed(norm())
    del state["1.num_batches_tracked"]
    note = load_weights(model, state)
    assert torch.equal(model[1].running_mean, state["1.running_mean"])
    assert model[1].num_batches_tracked == 0
    assert note == "num_batches_tracked of 1 norms is not in the file and stays as the architecture has it"


def test_an_old_batch_norm_may_be_a_part_of_what_was_trained():
    model, state = norm(), below("model.", changed(norm()))
    del state["model.1.num_batches_tracked"]
    assert load_weights(model, state).startswith("prefix 'model.' removed")
    assert torch.equal(model[1].running_mean, state["model.1.running_mean"])


def test_a_count_of_something_else_is_missed():
    class Counts(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("num_batches_tracked", torch.zeros(1))

    assert "missing 'num_batches_tracked'" in mismatch(Counts(), nn.Linear(2, 2).state_dict())


class Versioned(nn.Linear):
    """Remembers the version that came with its weights."""

    _version = 3
    seen = None

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        self.seen = metadata.get("version")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize(
    ("prefix", "rename"),
    [
        ("", "fc"),
        ("module.", "module.fc"),
        ("model.", "model.fc"),
        ("model._orig_mod.", "model._orig_mod.fc"),
    ],
)
def test_weights_come_with_the_versions_that_their_file_gives_them(tmp_path, prefix, rename):
    model = nn.ModuleDict({"fc": Versioned(2, 2)})
    state = OrderedDict(below(prefix, changed(model)))
    if prefix.startswith("model"):
        state["criterion.weight"] = torch.ones(1)
    state._metadata = {"": {"version": 1}, rename: {"version": 2}, "criterion": {"version": 9}}
    torch.save({"state_dict": state}, tmp_path / "m.pt")
    load_weights(model, read_checkpoint(tmp_path / "m.pt").state)
    assert model["fc"].seen == 2


@pytest.mark.parametrize("metadata", [{}, {"fc": {}}, {"fc": {"version": "x"}}, {"fc": 3}, [], {3: {"version": 2}}])
def test_weights_without_a_version_of_their_own_get_the_architectures(tmp_path, metadata):
    model = nn.ModuleDict({"fc": Versioned(2, 2)})
    state = OrderedDict(changed(model))
    state._metadata = metadata
    torch.save(state, tmp_path / "m.pt")
    load_weights(model, read_checkpoint(tmp_path / "m.pt").state)
    assert model["fc"].seen == 3


def test_names_are_escaped(net):
    assert "\x1b" not in mismatch(net, {"\x1b[31m": torch.zeros(1)})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_of_the_architecture_do_not_matter(net, prefix):
    wrapped = net
    for part in reversed(prefix.rstrip(".").split(".")):
        wrapped = nn.ModuleDict({part: wrapped})
    state = changed(net)
    load_weights(wrapped, state)
    assert torch.equal(net[0].weight, state["0.weight"])


def test_a_part_that_only_the_architecture_compiles_does_not_matter(net):
    model = nn.ModuleDict({"a": nn.ModuleDict({"_orig_mod": net}), "b": nn.Linear(1, 1)})
    state = {name.replace("_orig_mod.", ""): tensor + 1 for name, tensor in model.state_dict().items()}
    load_weights(model, state)
    assert torch.equal(net[0].weight, state["a.0.weight"])


def tied():
    model = nn.ModuleDict({"embed": nn.Linear(3, 3, bias=False), "head": nn.Linear(3, 3, bias=False)})
    model["head"].weight = model["embed"].weight
    return model


def test_one_name_of_a_tied_weight_is_enough():
    model = tied()
    load_weights(model, {"embed.weight": torch.full((3, 3), 2.0)})
    assert (model["head"].weight == 2).all()


def test_both_names_of_a_tied_weight_must_agree():
    nan = torch.full((3, 3), float("nan"))
    load_weights(tied(), {"embed.weight": nan, "head.weight": nan.clone()})
    message = mismatch(tied(), {"embed.weight": torch.zeros(3, 3), "head.weight": torch.ones(3, 3)})
    assert "'head.weight' and 'embed.weight' are one in the architecture and differ in the file" in message


def test_types_that_would_lose_their_meaning_do_not_fit(net):
    load_weights(net, {name: tensor.double() for name, tensor in net.state_dict().items()})
    state = net.state_dict() | {"0.bias": torch.zeros(3, dtype=torch.complex64)}
    assert "'0.bias' is torch.complex64 in the file and torch.float32" in mismatch(net, state)


def test_tensors_without_data_do_not_fit(net):
    assert "'0.bias' is a meta tensor" in mismatch(net, net.state_dict() | {"0.bias": torch.zeros(3, device="meta")})


def test_tensors_that_are_not_dense_are_an_error(net):
    state = net.state_dict() | {"0.weight": torch.eye(3, 4).to_sparse()}
    with pytest.raises(CheckpointError):
        load_weights(net, state)


def test_a_lazy_architecture_is_told():
    with pytest.raises(CheckpointError, match=r"'0\.weight' is lazy"):
        load_weights(nn.Sequential(nn.LazyLinear(3)), {"0.weight": torch.zeros(3, 3), "0.bias": torch.zeros(3)})


def test_nothing_is_not_finite_in_a_fresh_net(net):
    assert non_finite_names(net) == []


def test_parameters_and_buffers_with_nan_or_infinity_are_named(net):
    net.append(nn.BatchNorm1d(2))
    net.register_buffer("scratch", torch.tensor([float("-inf"), 1.0]), persistent=False)
    with torch.no_grad():
        net[0].bias[1] = float("nan")
        net[3].running_var[0] = float("inf")
    assert non_finite_names(net) == ["0.bias", "scratch", "3.running_var"]


def test_an_attention_mask_is_meant_to_be_infinite(net):
    net.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))
    assert non_finite_names(net) == []


def test_one_byte_floats_are_looked_at():
    module = nn.Module()
    module.register_buffer("scale", torch.tensor([float("nan")]).to(torch.float8_e4m3fn))
    assert non_finite_names(module) == ["scale"]

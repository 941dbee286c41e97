import random
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from prelu_doctor.data.sources import open_dataset
from prelu_doctor.errors import DataError

CODE = """
    import random
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
    X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10)
    calls = []

    def pairs():
        calls.append(1)
        return [(X[:6], Y[:6]), (X[6:], Y[6:])]
    def tensors():
        return [X[:6], X[6:]]
    def generator():
        calls.append(1)
        from late_neighbour import scale
        yield X[:6] * scale, Y[:6]
        yield X[6:] * scale, Y[6:]
    def dataset():
        return TensorDataset(X, Y)
    class Squares(Dataset):
        reads = []
        def __len__(self):
            return 10
        def __getitem__(self, k):
            self.reads.append(k)
            return X[k] ** 2
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(X)
    def shuffled():
        return DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True)
    def own_generator():
        return DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(5))
    def noisy():
        for _ in range(3):
            yield torch.randn(2, 2) + random.random() + float(np.random.rand())
    def numpy_pairs():
        return [(X.double().numpy(), Y.int().numpy())]
    def named():
        return [{"ids": X, "mask": X, "labels": Y}]
    def single_named():
        return [{"image": X, "target": Y}]
    def nested():
        return [((X, X), Y)]
    def nested_named():
        return [({"ids": X}, Y)]
    def triple():
        return [(X, X, Y)]
    loader = shuffled()
    stream = iter([X])
    number = 3

    def none(): return None
    def tensor(): return X
    def tensor_pair(): return (X, Y)
    def dictionary(): return {"x": X}
    def empty(): return []
    def strings(): return ["a"]
    def empty_batch(): return [X[:0]]
    def uneven(): return [(X, Y[:3])]
    def empty_tuple(): return [()]
    def odd_dictionary(): return [{"x": 3}]
    def unknown_names(): return [{"a": X, "b": X}]
    def mixed(): return [(X, "label")]
    def raises():
        yield X
        yield inner()
    def raises_at_once():
        return inner()
    def inner():
        raise KeyError("lost")
    def argument(path): return []
"""


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, ids, mask=None):
        return self.layer(ids)


class NeedsTwo(nn.Module):
    def forward(self, ids, mask):
        return ids + mask


class Labelled(nn.Module):
    def forward(self, ids, mask=None, labels=None):
        return ids


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feed.py").write_text(textwrap.dedent(CODE))
    (tmp_path / "late_neighbour.py").write_text("scale = 1\n")
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def feed():
    return next(module for name, module in sys.modules.items() if name.startswith("feed_"))


def opened(name, model=None, **options):
    return open_dataset(f"feed.py:{name}", model=model, **options)


def failure(name, model=None):
    with pytest.raises(DataError) as caught:
        opened(name, model)
    return str(caught.value)


X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10)


@pytest.mark.parametrize("name", ["pairs", "generator", "dataset"])
def test_pairs_are_inputs_and_labels(batches_of, name):
    x, y = batches_of(opened(name).scanned)
    assert torch.equal(x, X)
    assert torch.equal(y, Y)


@pytest.mark.parametrize("name", ["tensors", "Stream"])
def test_tensors_are_inputs_alone(batches_of, name):
    x, y = batches_of(opened(name).scanned)
    assert torch.equal(x, X)
    assert y is None


def test_a_module_in_the_current_directory_serves(batches_of):
    assert torch.equal(batches_of(open_dataset("feed:pairs", model=None).scanned)[0], X)


def test_the_source_names_the_code_and_the_first_batch():
    data = opened("pairs", seed=3)
    assert (data.source, data.contents) == ("feed.py:pairs", "first batch x: 6x2")
    assert (data.synthetic, data.seed, data.held_out) == (False, 3, None)


def test_a_dataset_is_batched_and_others_keep_their_batches():
    assert [batch.size for batch in opened("dataset", batch_size=4).scanned()] == [4, 4, 2]
    assert [batch.size for batch in opened("pairs", batch_size=4).scanned()] == [6, 4]


def test_a_dataset_is_not_read_further_than_needed():
    list(opened("Squares", batch_size=2, max_samples=3).scanned())
    assert max(feed().Squares.reads) == 3


def test_max_samples_cuts_the_last_batch(batches_of):
    assert torch.equal(batches_of(opened("pairs", max_samples=7).scanned)[0], X[:7])
    assert [batch.size for batch in opened("pairs", max_samples=6).scanned()] == [6]


def test_a_generator_is_called_anew_for_each_pass(batches_of):
    data = opened("generator")
    before = len(feed().calls)
    assert torch.equal(batches_of(data.scanned)[0], batches_of(data.scanned)[0])
    assert len(feed().calls) == before + 2


def test_an_iterable_is_asked_for_once():
    data = opened("pairs")
    list(data.scanned())
    assert len(feed().calls) == 1


@pytest.mark.parametrize("name", ["shuffled", "own_generator", "noisy", "loader"])
def test_what_is_random_repeats_itself_and_follows_the_seed(batches_of, name):
    data = opened(name, seed=1)
    first = batches_of(data.scanned)[0]
    torch.rand(3)  # what was drawn in between does not matter
    np.random.rand(3)
    random.seed(11)
    assert torch.equal(batches_of(data.scanned)[0], first)
    assert torch.equal(batches_of(opened(name, seed=1).scanned)[0], first)
    if name != "own_generator":
        assert not torch.equal(batches_of(opened(name, seed=2).scanned)[0], first)


def test_the_callers_random_state_is_not_touched():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    list(opened("noisy").scanned())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_what_is_random_differs_from_batch_to_batch():
    one, other, _ = (batch.args[0] for batch in opened("noisy").scanned())
    assert not torch.equal(one, other)


def test_passes_may_be_interleaved():
    data = opened("noisy")
    assert all(torch.equal(a.args[0], b.args[0]) for a, b in zip(data.scanned(), data.scanned(), strict=True))


def test_numpy_arrays_serve_and_take_the_models_type():
    batch = opened("numpy_pairs", nn.Linear(2, 2)).first()
    assert (batch.args[0].dtype, batch.target.dtype) == (torch.float32, torch.int64)


def test_dictionaries_go_by_the_forwards_names():
    batch = opened("named", TwoInputs()).first()
    assert list(batch.kwargs) == ["ids", "mask"]
    assert torch.equal(batch.target, Y)
    assert list(opened("named", Labelled()).first().kwargs) == ["ids", "mask"]


def test_a_lone_input_in_a_dictionary_needs_no_known_name():
    batch = opened("single_named", nn.Linear(2, 2)).first()
    assert torch.equal(batch.args[0], X)
    assert torch.equal(batch.target, Y)


@pytest.mark.parametrize(
    ("name", "model", "inputs", "labelled"),
    [
        ("pairs", None, 1, True),
        ("pairs", nn.Linear(2, 2), 1, True),
        ("pairs", TwoInputs(), 1, True),  # mask is optional: a pair is (x, y)
        ("pairs", NeedsTwo(), 2, False),
        ("triple", NeedsTwo(), 2, True),
        ("triple", TwoInputs(), 2, True),
        ("nested", NeedsTwo(), 2, True),
        ("nested", None, 2, True),
    ],
)
def test_a_tuple_is_read_by_what_the_forward_requires(name, model, inputs, labelled):
    batch = opened(name, model).first()
    assert (len(batch.args), batch.target is not None) == (inputs, labelled)


def test_named_inputs_beside_a_target():
    batch = opened("nested_named", TwoInputs()).first()
    assert list(batch.kwargs) == ["ids"]
    assert torch.equal(batch.target, Y)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none", "returned a NoneType"),
        ("number", "returned a int"),
        ("tensor", "returned a Tensor"),
        ("tensor_pair", "TensorDataset(x, y), or [(x, y)]"),
        ("dictionary", "returned a dict"),
        ("empty", "yielded no batches"),
        ("strings", "yielded a str"),
        ("empty_batch", "no samples"),
        ("uneven", "different numbers of samples (x: 10, y: 3)"),
        ("empty_tuple", "yielded a tuple"),
        ("odd_dictionary", "'x' is no tensor"),
        ("mixed", "yielded (Tensor, str)"),
        ("stream", "can be read only once"),
        ("argument", "missing a required argument: 'path'"),
        ("pears", "(nearest: pairs)"),
        ("triple", "yielded 3 tensors"),
    ],
)
def test_code_that_yields_something_else_is_told(name, told):
    assert told in failure(name, nn.Linear(2, 2))


def test_names_that_the_forward_does_not_have_are_told():
    assert "keys 'a', 'b'" in failure("unknown_names", TwoInputs())


def test_an_error_in_the_users_code_shows_its_lines():
    message = failure("raises_at_once")
    assert 'raise KeyError("lost")' in message
    assert "prelu_doctor" not in message


def test_an_error_during_a_pass_shows_its_lines_and_restores_everything():
    data = opened("raises")
    path, state = list(sys.path), torch.get_rng_state()
    with pytest.raises(DataError, match="KeyError: 'lost'"):
        list(data.scanned())
    assert sys.path == path
    assert torch.equal(torch.get_rng_state(), state)


def test_the_input_shape_must_fit_where_it_is_given():
    with pytest.raises(DataError, match="samples of shape 2"):
        opened("pairs", input_shapes=[(3,)])

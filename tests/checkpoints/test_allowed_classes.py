"""`--allow-class`: that class is imported from where the user's code lies; nothing from the file runs."""

import sys
import textwrap
import zipfile

import pytest
import torch
from crafted_pickles import call, dict_of, made, number, pickle_of, saved_zip, tensor
from torch import nn

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.errors import CheckpointError, UsageError
from prelu_doctor.patient import open_patient


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, Reading(**options))
    return caught.value


NET = """
    from torch import nn
    import enum
    print("imported")
    class Kind(enum.Enum):
        SMALL = 1
    class Config:
        def __init__(self, *values):
            raise RuntimeError("its constructor ran")
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.norm_layer = nn.BatchNorm2d
            self.activation = nn.functional.gelu
            self.kind = Kind.SMALL
        def forward(self, x):
            return self.activation(self.fc(x))
    def build():
        return Net()
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A class in a module that lies in the current directory, which nobody has imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_net.py").write_text(textwrap.dedent(NET))
    monkeypatch.syspath_prepend(tmp_path)
    import users_net

    module = users_net.Net()
    torch.save(module, tmp_path / "net.pt")
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "users_net")
    yield module
    sys.modules.pop("users_net", None)


ALLOWED = ("users_net.Net", "users_net.Kind")


def test_a_users_class_is_refused_with_the_option_that_allows_it(net):
    error = refusal("net.pt")
    assert "'users_net.Net', 'users_net.Kind'" in error.found
    assert "--allow-class users_net.Net --allow-class users_net.Kind, which imports them" in error.remedy
    assert "users_net" not in sys.modules


def test_an_allowed_class_is_imported_and_the_module_computes_as_before(net):
    stored = read_checkpoint("net.pt", Reading(allow_classes=ALLOWED))
    x = torch.randn(3, 2)
    assert (stored.kind, stored.note) == ("torch-module", "")
    assert torch.equal(stored.module(x), net(x))


def test_allowing_reaches_the_file_that_is_given_as_the_architecture(net):
    with pytest.raises(CheckpointError, match="--allow-class"):
        open_patient("weights.pt", arch="net.pt", device="cpu")
    x = torch.randn(3, 2)
    allowed = open_patient("weights.pt", arch="net.pt", allow_classes=ALLOWED, device="cpu")
    trusted = open_patient("weights.pt", arch="net.pt", trust=True, device="cpu")
    assert torch.equal(allowed.module(x), net(x))
    assert allowed.note == ""
    assert torch.equal(trusted.module(x), net(x))


def test_one_class_of_two_is_not_enough(net):
    assert "run the code of 'users_net.Kind'" in refusal("net.pt", allow_classes=ALLOWED[:1]).found


def test_a_class_that_the_file_does_not_ask_for_is_told(net):
    stored = read_checkpoint("weights.pt", Reading(allow_classes=ALLOWED[:1]))
    assert stored.note == "allowed, but not asked for: 'users_net.Net'"


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ("os.system", "--allow-class os.system: a function"),
        ("users_net.build", "a function"),
        ("users_net.Nett", "'Nett' is not there (nearest: Net)"),
        ("no_such_module.Net", "there is no module 'no_such_module'"),
        ("math.pi", "a float"),
    ],
)
def test_what_is_no_class_cannot_be_allowed(net, wish, told):
    assert told in refusal("net.pt", allow_classes=(wish,)).found


@pytest.mark.parametrize("wish", ["Net", "", ".Net", "__main__.Net"])
def test_a_class_needs_its_full_name(net, wish):
    with pytest.raises(UsageError, match=r"--allow-class __main__\.Class=path/to/file\.py:Class"):
        read_checkpoint("net.pt", Reading(allow_classes=(wish,)))


def test_a_class_may_be_found_under_another_name(net, tmp_path):
    body = dict_of(model=pickle_body(tmp_path / "net.pt").replace(b"users_net", b"__main__"))
    with zipfile.ZipFile("net.pt") as old:
        storages = {name.rpartition("/")[2]: old.read(name) for name in old.namelist() if "/data/" in name}
    saved_zip(tmp_path / "script.pt", pickle_of(body), storages)
    error = refusal("script.pt")
    assert "--allow-class __main__.Net=path/to/file.py:Net" in error.remedy
    wishes = ("__main__.Net=users_net.py:Net", "__main__.Kind=users_net:Kind")
    assert type(read_checkpoint("script.pt", Reading(allow_classes=wishes)).module).__name__ == "Net"


def pickle_body(path):
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return archive.read(name)[2:-1]


def test_the_constructor_of_an_allowed_class_does_not_run(net, tmp_path):
    body = dict_of(w=tensor(), c=call("users_net.Config", number(3)))
    error = refusal(saved_zip(tmp_path / "m.pt", pickle_of(body)), allow_classes=("users_net.Config",))
    assert "it calls 'users_net.Config'" in error.found
    saved_zip(tmp_path / "m.pt", pickle_of(dict_of(state_dict=dict_of(w=tensor()), c=made("users_net.Config"))))
    assert list(read_checkpoint("m.pt", Reading(allow_classes=("users_net.Config",))).state) == ["w"]


def test_an_allowed_module_may_not_carry_a_forward_or_hooks(net):
    net = read_checkpoint("net.pt", Reading(allow_classes=ALLOWED)).module
    net.forward = nn.functional.relu
    torch.save(net, "own_forward.pt")
    assert "carries code: 'forward'" in refusal("own_forward.pt", allow_classes=ALLOWED).found
    del net.forward
    net._forward_hooks[0] = nn.functional.relu
    torch.save(net, "hooked.pt")
    assert "carries code: '_forward_hooks'" in refusal("hooked.pt", allow_classes=ALLOWED).found

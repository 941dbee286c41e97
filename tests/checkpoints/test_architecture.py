import sys
import textwrap

import pytest
import torch
from torch import nn

from prelu_doctor.checkpoints.architecture import build_architecture, parse_arch_args
from prelu_doctor.errors import CheckpointError, UsageError


def built(*arguments):
    return build_architecture(*arguments).module


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Write modules into the current directory; each test has its own."""
    monkeypatch.chdir(tmp_path)
    known = dict(sys.modules)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(textwrap.dedent(text))

    yield write
    for name, module in list(sys.modules.items()):
        if str(tmp_path) in str(getattr(module, "__file__", "")):
            del sys.modules[name]
            sys.modules.update({name: known[name]} if name in known else {})


def failure(spec, error=CheckpointError, **arguments):
    with pytest.raises(error) as caught:
        built(spec, arguments)
    return str(caught.value)


NET = """
    from torch import nn
    class Net(nn.Sequential):
        def __init__(self, width=2, bias=True):
            super().__init__(nn.Linear(width, 3, bias=bias))
    class models:
        @staticmethod
        def tiny():
            return Net(1)
    ready = Net(5)
    number = 3
    def none():
        return None
    def broken(x=None):
        return helper()
    def helper():
        raise KeyError("no such size")
    def stops():
        raise SystemExit(3)
    def wrong_layer():
        return nn.Linear("a", "b")
"""


def test_a_module_of_the_current_directory_is_found(here):
    here("near_arch.py", NET)
    assert built("near_arch:Net", {"width": 7, "bias": False})[0].weight.shape == (3, 7)


@pytest.mark.parametrize("folder", ["", "models/"])
def test_a_file_is_imported_by_its_path(here, folder):
    here(f"{folder}arch.py", NET)
    assert built(f"{folder}arch.py:Net", {})[0].weight.shape == (3, 2)


def test_the_attribute_may_be_dotted(here):
    here("arch.py", NET)
    assert built("arch.py:models.tiny", {})[0].weight.shape == (3, 1)


def test_a_module_that_stands_there_ready_is_taken(here):
    here("arch.py", NET)
    assert built("arch.py:ready", {})[0].weight.shape == (3, 5)
    assert "no --arch-arg" in failure("arch.py:ready", UsageError, width=3)


def test_a_file_may_import_its_neighbours_and_the_current_directory(here):
    here("models/arch.py", "import beside, above\nfrom torch import nn\ndef build(): return nn.ReLU()")
    here("models/beside.py", "")
    here("above.py", "")
    assert isinstance(built("models/arch.py:build", {}), nn.ReLU)


def test_the_current_directory_comes_first(here):
    here("colorsys.py", NET)  # a name that the standard library has too
    sys.modules.pop("colorsys", None)
    assert built("colorsys:Net", {})[0].weight.shape == (3, 2)


def test_the_search_path_is_put_back_also_after_an_error(here):
    here("arch.py", NET)
    before = list(sys.path)
    built("arch.py:Net", {})
    failure("arch.py:broken")
    failure("nowhere_at_all:Net")
    assert sys.path == before


def test_what_the_users_code_prints_goes_to_stderr(here, capsys):
    here("arch.py", "print('loading')\nfrom torch import nn\ndef build():\n    print('building')\n    return nn.ReLU()")
    built("arch.py:build", {})
    out, err = capsys.readouterr()
    assert (out, err) == ("", "loading\nbuilding\n")


def test_an_error_in_the_users_code_shows_the_users_lines_alone(here):
    here("arch.py", NET)
    message = failure("arch.py:broken")
    assert "return helper()" in message
    assert "KeyError: 'no such size'" in message
    assert "prelu_doctor" not in message
    assert "importlib" not in message
    assert message.count("File ") == 2


def test_lines_of_torch_are_left_out(here):
    here("arch.py", NET)
    message = failure("arch.py:wrong_layer")
    assert 'nn.Linear("a", "b")' in message
    assert message.count("File ") == 1


def test_an_error_while_importing_shows_the_users_line(here):
    here("arch.py", "x = 1\ny = x.no_attribute\n")
    message = failure("arch.py:Net")
    assert "y = x.no_attribute" in message
    assert message.count("File ") == 1


def test_a_syntax_error_is_told(here):
    here("arch.py", "def build(:\n")
    message = failure("arch.py:build")
    assert "SyntaxError" in message
    assert "arch.py" in message


def test_a_module_that_fails_is_tried_anew_the_next_time(here):
    here("arch.py", "raise ValueError('not yet')")
    failure("arch.py:Net")
    here("arch.py", NET + "    # longer, so that no stale bytecode is taken for it\n")
    assert built("arch.py:Net", {})[0].weight.shape == (3, 2)


def test_code_that_exits_is_an_error(here):
    here("arch.py", NET)
    assert "SystemExit: 3" in failure("arch.py:stops")


def test_wrong_arguments_are_told_with_the_signature(here):
    here("arch.py", NET)
    message = failure("arch.py:Net", widht=3)
    assert "unexpected keyword argument 'widht'" in message
    assert "Net(width=2, bias=True)" in message


def test_what_is_not_a_module_is_told(here):
    here("arch.py", NET)
    assert "returned a NoneType" in failure("arch.py:none")
    assert "a int" in failure("arch.py:number")


def test_a_missing_attribute_comes_with_the_nearest(here):
    here("arch.py", NET)
    assert "'Nett' is not there (nearest: Net)" in failure("arch.py:Nett")


def test_a_missing_module_comes_with_the_nearest(here):
    here("resnet_small.py", NET)
    here("menagerie/__init__.py", "")
    here("menagerie/vgg.py", "")
    assert "no module 'resnet_smal' (nearest: resnet_small)" in failure("resnet_smal:Net")
    assert "no module 'menagerie.vg' (nearest: vgg)" in failure("menagerie.vg:Net")


def test_a_missing_file_comes_with_the_nearest(here):
    here("models/resnet.py", NET)
    message = failure("models/resnte.py:Net")
    assert "no such file (nearest: resnet.py)" in message


def test_a_dependency_that_is_missing_is_the_modules_own_error(here):
    here("near_dependent.py", "import not_installed_anywhere\n")
    message = failure("near_dependent:Net")
    assert "import not_installed_anywhere" in message
    assert "near_dependent raised an error" in message


@pytest.mark.parametrize("spec", ["net", "arch.py", "arch.py:", ":Net", "a..b:Net", "a b:Net", ""])
def test_other_specs_are_told_what_is_expected(here, spec):
    here("arch.py", NET)
    assert "module:callable or path/to/file.py:callable" in failure(spec)


def test_a_checkpoint_with_a_module_serves_as_the_architecture(saved, net):
    path = str(saved(net))
    assert torch.equal(built(path, {})[0].weight, net[0].weight)
    assert "no --arch-arg" in failure(path, UsageError, width=3)


def test_a_checkpoint_with_weights_alone_does_not(saved, net):
    assert "holds weights, but no module" in failure(str(saved(net.state_dict())))


def test_installed_packages_serve(here):
    assert isinstance(built("torch.nn:Linear", {"in_features": 2, "out_features": 3}), nn.Linear)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false", False),
        ("True", True),
        ("None", None),
        ("null", None),
        ("10", 10),
        ("1e-3", 1e-3),
        ("[1, 2]", [1, 2]),
        ('"10"', "10"),
        ("resnet", "resnet"),
        ("a=b", "a=b"),
        ("", ""),
        ("NaN", "NaN"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_values_are_json_where_they_parse_else_strings(text, value):
    assert parse_arch_args([f"key={text}"]) == {"key": value}


def test_several_arguments():
    assert parse_arch_args(["pretrained=false", "num_classes=10"]) == {"pretrained": False, "num_classes": 10}
    assert parse_arch_args([]) == {}


@pytest.mark.parametrize("pairs", [["width"], ["=3"], ["a b=3"], ["a=1", "a=2"]])
def test_other_pairs_are_usage_errors(pairs):
    with pytest.raises(UsageError, match="--arch-arg"):
        parse_arch_args(pairs)

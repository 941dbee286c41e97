"""Names out of a file: classes, keys, parts of archives. They reach the terminal and reports, and never as they are."""

import pytest
import torch
from crafted_pickles import dict_of, made, named, number, pickle_of, saved_zip, tensor, text, tuple_of
from torch import nn
from typer.testing import CliRunner

from prelu_doctor.checkpoints.checkpoint import read_checkpoint
from prelu_doctor.checkpoints.keys import load_weights
from prelu_doctor.checkpoints.reading import Reading
from prelu_doctor.cli.app import app
from prelu_doctor.errors import CheckpointError

NAMES = {
    "clears the screen": ("\x1b[2Jx", "\\x1b[2Jx"),
    "sets the title": ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
    "one byte steers": ("\x9b31m", "\\x9b31m"),
    "writes over the line": ("a\rb\x08", "a\\x0db\\x08"),
    "goes backwards": ("a\u202etp.exe", "a\\u202etp.exe"),
    "half a character": ("a\udcff", "a\\udcff"),
}


@pytest.fixture(params=NAMES)
def name(request):
    return NAMES[request.param]


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, Reading(**options))
    message = str(caught.value)
    assert all(char.isprintable() or char == "\n" for char in message)
    return message


def test_the_name_of_a_class_is_shown_escaped(tmp_path, name):
    raw, shown = name
    if "\udcff" in raw or "\r" in raw:
        raw, shown = raw.replace("\udcff", "").replace("\r", ""), shown.replace("\\udcff", "").replace("\\x0d", "")
    body = dict_of(w=tensor(), x=f"cevil{raw}\nCl{raw}\n".encode())
    assert f"evil{shown}.Cl{shown}" in refusal(saved_zip(tmp_path / "m.pt", pickle_of(body)))


def test_a_class_with_such_a_name_is_not_proposed_as_an_option(tmp_path, name):
    raw = name[0].replace("\udcff", "\x1b").replace("\r", "\x1b")
    message = refusal(saved_zip(tmp_path / "m.pt", pickle_of(f"cevil\nA{raw}\n".encode())))
    assert "--allow-class" not in message
    assert "--allow-class evil.A" in refusal(saved_zip(tmp_path / "m.pt", pickle_of(b"cevil\nA\n")))


def test_a_name_of_bytes_that_are_no_text_is_damage(tmp_path):
    message = refusal(saved_zip(tmp_path / "m.pt", pickle_of(b"c\xff\xfe\nX\n")))
    assert "cannot be read: its pickle is damaged (UnicodeDecodeError): 'utf-8' codec can't decode byte 0xff" in message


def test_the_key_of_a_dictionary_is_shown_escaped(tmp_path, name):
    raw, shown = name
    body = b"}(" + text(raw) + number(1) + text("epoch") + number(2) + b"u"
    assert shown in refusal(saved_zip(tmp_path / "m.pt", pickle_of(body)))


def test_a_key_under_which_weights_stand_is_shown_escaped(tmp_path, name):
    raw, shown = name
    both = b"}(" + text(raw) + dict_of(w=tensor()) + text("b") + dict_of(w=tensor()) + b"u"
    path = saved_zip(tmp_path / "m.pt", pickle_of(both))
    assert f"--weights-key {shown}" in refusal(path)
    assert shown in refusal(path, weights_key="c")
    assert read_checkpoint(path, Reading(weights_key=raw)).note == f"taken from key '{shown}'"


def test_the_name_of_a_weight_is_shown_escaped(tmp_path, name):
    raw, shown = name
    stored = read_checkpoint(saved_zip(tmp_path / "m.pt", pickle_of(b"}" + text(raw) + tensor() + b"s")))
    with pytest.raises(CheckpointError) as caught:
        load_weights(nn.Linear(1, 1), stored.state)
    assert f"unexpected '{shown}'" in str(caught.value)
    assert all(char.isprintable() or char == "\n" for char in str(caught.value))


def test_what_is_left_out_is_named_escaped(tmp_path, name):
    raw, shown = name
    state = {"net.weight": torch.zeros(1, 1), "net.bias": torch.zeros(1), raw: torch.zeros(1)}
    assert shown in load_weights(nn.Linear(1, 1), state)
    body = b"}(" + text("w") + tensor() + text("v") + tensor() + text(raw) + number(3) + b"u"
    assert shown in read_checkpoint(saved_zip(tmp_path / "m.pt", pickle_of(body))).note


def test_a_module_with_such_a_name_for_a_part_is_refused(tmp_path, name):
    raw, _ = name
    modules = b"}" + text(raw) + made("torch.nn.modules.linear.Identity") + b"s"
    state = dict_of(training=b"\x88", _parameters=b"}", _buffers=b"}", _modules=modules)
    body = made("torch.nn.modules.container.Sequential") + state + b"b"
    assert "the _modules of a Sequential in it are not what they should be" in refusal(
        saved_zip(tmp_path / "m.pt", pickle_of(body))
    )


def test_the_name_of_a_storage_is_shown_escaped(tmp_path, name):
    raw, shown = name
    place = tuple_of(text("storage"), named("torch.FloatStorage"), text(raw), text("cpu"), number(4)) + b"Q"
    assert f"'{shown}'" in refusal(saved_zip(tmp_path / "m.pt", pickle_of(place)))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "[red]x[/red]", "[link=file:///etc]x[/link]"])
def test_markup_stays_text(tmp_path, name):
    path = saved_zip(tmp_path / "m.pt", pickle_of(b"}" + text(name) + number(1) + b"s"))
    result = CliRunner().invoke(app, ["scan", str(path)])
    assert result.exit_code == 2
    assert name in "".join(result.stderr.split())
    assert result.stdout == ""

"""No string from a file steers a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelu_doctor.escaping import plain


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("layer1.0.relu#2", "layer1.0.relu#2"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\rd", "a\\x0ab\\x09c\\x0dd"),
        ("\x7f\x9b31m", "\\x7f\\x9b31m"),
        ("evil\u202etxt.pt", "evil\\u202etxt.pt"),
        ("\u2066\u2069\u200b\ufeff", "\\u2066\\u2069\\u200b\\ufeff"),
        ("line\u2028break", "line\\u2028break"),
        ("\udcff", "\\udcff"),
        ("\uffff\U000e0041", "\\uffff\\U000e0041"),
        ("[red]модель 日本語 é[/]", "[red]модель 日本語 é[/]"),
    ],
)
def test_what_does_not_print_becomes_a_visible_escape(raw, shown):
    assert plain(raw) == shown


@given(st.text(st.characters(), max_size=40))
def test_nothing_that_steers_is_left_and_the_rest_is_kept(raw):
    shown = plain(raw)
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in shown)
    assert plain(shown) == shown
    assert shown.encode().decode() == shown

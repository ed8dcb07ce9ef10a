"""What may be shown of any text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popgpt.text import printable


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("12.5+7.3=19.8 äß 日本語", "12.5+7.3=19.8 äß 日本語"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\r\n\tb\x7f\x9b1m\x85", r"a\r\n\tb\x7f\x9b1m\x85"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("\udcff", r"\udcff"),
        ("\u2028", r"\u2028"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("\u3000\xa0", "\u3000\xa0"),
    ],
)
def test_what_acts_on_a_terminal_is_escaped(given: str, shown: str) -> None:
    assert printable.printable(given) == shown


def test_what_is_to_be_kept_stays() -> None:
    assert printable.printable("a\tb\x1b", keep="\t") == "a\tb\\x1b"


@given(st.text(st.characters()))
def test_any_line_is_short_and_can_be_written(given: str) -> None:
    shown = printable.line(given * 40)
    assert len(shown) <= printable.LONGEST
    seen = shown.replace("\u200c", "").replace("\u200d", "")
    assert not {unicodedata.category(one) for one in seen} & printable.ESCAPED
    shown.encode()


def test_a_long_text_loses_its_middle() -> None:
    assert printable.cut("a" * 10, 10) == "a" * 10
    assert printable.cut("abcdefghijklmnop", 11) == "abc ... nop"

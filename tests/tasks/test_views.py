"""Lines as they are, and with their answers backwards: what a model is asked, reads and writes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from popgpt.lines.text import Text
from popgpt.tasks.views import Plain, Reversed, View
from popgpt.text.errors import UserError

ALPHABET = "abcé=\U0001f600"


def text_of(lines: list[str]) -> Text:
    joined = "".join(line + "\n" for line in lines)
    codes = np.frombuffer(joined.encode("utf-32-le"), "<u4").astype(np.uint32)
    return Text(codes, np.cumsum([0, *(len(line) + 1 for line in lines)]))


def lines_of(text: Text) -> list[str]:
    read = text.codes[text.offsets[0] : text.offsets[-1]].astype("<u4").tobytes().decode("utf-32-le")
    return read.split("\n")[:-1]


@pytest.mark.parametrize("kind", [Plain, Reversed])
@given(lines=st.lists(st.tuples(st.text(ALPHABET.replace("=", "")), st.text(ALPHABET)), max_size=8))
def test_each_answer_comes_back(kind: type[Plain], lines: list[tuple[str, str]]) -> None:
    text = text_of([f"{prompt}={answer}" for prompt, answer in lines])
    view: View = kind(ALPHABET, "=", int(text.lengths.max(initial=0)) + 1)
    reading = view.read(text, np.arange(len(lines)), 1, 0)
    assert (view.lengths(text) == reading.text.lengths).all()
    assert not reading.origins.any()
    read = lines_of(reading.text)
    assert len(read) == len(lines)
    for line, end, start, (prompt, answer) in zip(read, reading.ends, reading.text.offsets[:-1], lines, strict=True):
        question = view.ask(prompt)
        assert line.startswith(question.prompt)
        assert end == start + len(question.prompt) - 1
        written = line[len(question.prompt) :]
        assert len(written) <= question.longest <= view.longest_answer
        assert view.answer(prompt, written) == answer


def test_a_reversed_answer_by_example() -> None:
    view = Reversed("0123456789+=", "=", 9)
    reading = view.read(text_of(["12+7=19", "1+1=2", "99+1=100"]), np.arange(3), 1, 0)
    assert lines_of(reading.text) == ["12+7=91", "1+1=2", "99+1=001"]
    assert view.answer("12+7", "91") == "19"


def test_a_part_of_a_text_is_read_as_the_whole_is() -> None:
    text = text_of(["ab=abc", "a=bca", "=ab"])
    part = Text(text.codes, text.offsets[1:])
    assert lines_of(Reversed(ALPHABET, "=", 8).read(part, np.arange(2), 1, 0).text) == ["a=acb", "=ba"]


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("aaaaaaa", "prompt 'aaaaaaa' has 7 characters; this model reads at most 6"),
        ("ax", "prompt 'ax' holds 'x', which no prompt of this dataset does"),
        ("a=", "prompt 'a=' holds '=', which no prompt of this dataset does"),
    ],
)
def test_what_it_cannot_hold_is_told(prompt: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        Plain(ALPHABET, "=", 7).ask(prompt)
    assert str(error.value) == told

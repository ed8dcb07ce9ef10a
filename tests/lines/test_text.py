"""Lines in bulk agree with lines one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from popgpt.lines.text import hash_spans, kind_of, kinds, prompt_ends, split_line, take_lines
from tests.reference import text_of

LINE = st.text(st.sampled_from("01=+-é→😀 "), max_size=12)


def string(codes: np.ndarray) -> str:
    return "".join(map(chr, codes))


def test_the_first_separator_counts() -> None:
    assert split_line("1+1=2=2", "=") == ("1+1", "2=2")
    assert split_line("1+1", "=") == ("1+1", "")


def test_the_kind_of_a_prompt_is_its_first_symbol_after_its_first_character() -> None:
    assert kind_of("-1+2-3", "+-*/") == "+"
    assert kind_of("-1", "+-") == ""
    assert kind_of("5--3", "+-") == "-"


@given(st.lists(LINE), st.sampled_from("=→"))
def test_prompts_kinds_and_lengths_in_bulk(lines: list[str], separator: str) -> None:
    text = text_of(lines)
    ends = prompt_ends(text, separator)
    assert text.lengths.tolist() == [len(line) for line in lines]
    for number, line in enumerate(lines):
        prompt, _ = split_line(line, separator)
        found = string(text.codes[text.offsets[number] : ends[number]])
        assert found == (prompt if separator in line else line + "\n")
        kind = kinds(text, ends, "+-")[number]
        assert ("" if kind < 0 else "+-"[kind]) == kind_of(prompt, "+-")


@given(st.lists(LINE, min_size=1), st.data())
def test_lines_are_taken_in_any_order(lines: list[str], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(lines) - 1)))
    taken = take_lines(text_of(lines), np.array(numbers, np.int64))
    assert string(taken.codes) == "".join(lines[number] + "\n" for number in numbers)
    assert np.diff(taken.offsets).tolist() == [len(lines[number]) + 1 for number in numbers]


@given(st.lists(LINE))
def test_spans_hash_alike_exactly_if_they_are_alike(lines: list[str]) -> None:
    text = text_of(lines)
    hashes = hash_spans(text.codes, text.offsets[:-1], text.offsets[1:])
    for hash_a, a in zip(hashes, lines, strict=True):
        for hash_b, b in zip(hashes, lines, strict=True):
            assert (hash_a == hash_b) == (a == b)

"""Tasks whose prompts have numbers: every prompt once, kinds in equal shares, any part alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from popgpt.lines.text import decode
from popgpt.tasks.base import NumberedTask, Source
from popgpt.tasks.dates import Dates
from popgpt.tasks.numbered import share_out
from popgpt.tasks.reverse import Reverse
from popgpt.text.errors import UserError


def lines_of(source: Source) -> list[str]:
    return bytes(source.text(np.arange(len(source))).codes).decode().splitlines()


@pytest.mark.parametrize(
    "task", [Reverse(length=3, alphabet="aé😀b"), Dates(first_year=2019, last_year=2020)], ids=lambda task: task.name
)
def test_every_prompt_is_there_once_with_its_answer(task: NumberedTask) -> None:
    count = task.count_prompts()
    assert count == sum(task.sizes())
    source = task.source(count, 3)
    prompts = [task.prompt(number) for number in range(count)]
    assert len(set(prompts)) == count
    assert sorted(lines_of(source)) == sorted(f"{prompt}={task.answer(prompt)}" for prompt in prompts)
    assert len(set(source.keys(np.arange(count)).tolist())) == count
    assert lines_of(source) != lines_of(task.source(count, 4))
    with pytest.raises(UserError, match=f"= {count + 1}, but these options make only {count} different prompts"):
        task.source(count + 1, 3)


@given(st.lists(st.integers(0, 499), max_size=30), st.integers(0, 10))
def test_any_part_of_the_lines_can_be_had_alone(numbers: list[int], seed: int) -> None:
    source = Reverse(length=5).source(500, seed)
    whole, part = source.text(np.arange(500)), source.text(np.array(numbers, np.int64))
    lines = decode(whole.codes).splitlines()
    assert decode(part.codes).splitlines() == [lines[number] for number in numbers]
    assert np.array_equal(source.keys(np.arange(500))[numbers], source.keys(np.array(numbers, np.int64)))


def test_strings_of_each_length_have_equal_shares() -> None:
    lengths = Counter(len(line.partition("=")[0]) for line in lines_of(Reverse(length=20).source(2026, 1)))
    assert lengths.pop(1) == 26
    assert (len(lengths), min(lengths.values()), max(lengths.values())) == (19, 105, 106)


def test_lines_never_change() -> None:
    assert lines_of(Reverse().source(3, 1)) == ["rudwcete=etecwdur", "bbkmrz=zrmkbb", "zukdmiq=qimdkuz"]
    assert lines_of(Dates().source(3, 1)) == [
        "18 March 2731=2731-03-18",
        "1 December 1533=1533-12-01",
        "30 September 2795=2795-09-30",
    ]


def test_answers_are_known_without_lines() -> None:
    assert Dates().answer("29 February 2020") == "2020-02-29"
    assert Dates().answer("31 December 999") == "0999-12-31"
    for prompt in ("29 February 2021", "03 March 2021", "3 march 2021", "", "3 March 20210"):
        assert Dates().answer(prompt) is None
    assert Reverse().answer("abcdefghijkl") == "lkjihgfedcba"
    assert Reverse().answer("Abc") is Reverse().answer("") is None


class Sums(NumberedTask):
    """A task with a canonical form: 1+2 asks what 2+1 asks."""

    name: str = "sums"

    def sizes(self) -> list[int]:
        return [100]

    def prompt(self, number: int) -> str:
        return f"{number // 10}+{number % 10}"

    def canonical(self, prompt: str) -> str:
        return "+".join(sorted(prompt.split("+")))

    def answer(self, prompt: str) -> str:
        return str(sum(map(int, prompt.split("+"))))


def test_prompts_of_one_canonical_form_have_one_key() -> None:
    source = Sums().source(100, 1)
    keys = dict(zip(lines_of(source), source.keys(np.arange(100)).tolist(), strict=True))
    assert keys["1+2=3"] == keys["2+1=3"] != keys["1+3=4"]
    assert len(set(keys.values())) == 55


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 5)), min_size=1, max_size=12), st.integers(0, 100))
def test_sharing_out_gives_all_and_no_more_than_there_is(cells: list[tuple[int, int]], percent: int) -> None:
    sizes, weights = [size for size, _ in cells], [weight for _, weight in cells]
    total = sum(sizes) * percent // 100
    shares = share_out(total, sizes, weights)
    assert sum(shares) == total
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    full = [share / weight for share, size, weight in zip(shares, sizes, weights, strict=True) if share < size]
    for share, size, weight in zip(shares, sizes, weights, strict=True):
        if share == size:
            assert all(share / weight <= other + 1 for other in full)


def test_sharing_out() -> None:
    assert share_out(100, [10, 1000, 1000], [1, 1, 1]) == [10, 45, 45]
    assert share_out(100, [1000, 1000], [3, 1]) == [75, 25]
    assert share_out(7, [1, 2, 4], [1, 1, 1]) == [1, 2, 4]

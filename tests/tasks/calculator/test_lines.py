"""The generator's lines against decimal arithmetic and a parser of their own; its grammar against literals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from popgpt.tasks.calculator import Calculator
from popgpt.tasks.calculator.arithmetic import divide_half_even
from popgpt.tasks.calculator.grammar import forms
from popgpt.tasks.calculator.operands import shapes
from popgpt.text.errors import UserError

EXACT = Context(prec=300)


def lines_of(count: int, seed: int = 1, **options: Any) -> list[str]:
    source = Calculator(**options).source(count, seed)
    return bytes(source.text(np.arange(count)).codes).decode().splitlines()


class Parser:
    """A recursive-descent evaluation of a prompt, as an exact quotient of two decimals."""

    def __init__(self, prompt: str) -> None:
        self.rest = prompt
        self.operands: list[str] = []

    def value(self) -> tuple[Decimal, Decimal]:
        result = self.sum()
        assert self.rest == ""
        return result

    def take(self, characters: str) -> str:
        taken = self.rest[:1] if self.rest[:1] and self.rest[:1] in characters else ""
        self.rest = self.rest[len(taken) :]
        return taken

    def sum(self) -> tuple[Decimal, Decimal]:
        top, bottom = self.product()
        while sign := self.take("+-"):
            a, b = self.product()
            a = EXACT.multiply(a, bottom)
            top = EXACT.multiply(top, b)
            top = EXACT.add(top, a) if sign == "+" else EXACT.subtract(top, a)
            bottom = EXACT.multiply(bottom, b)
        return top, bottom

    def product(self) -> tuple[Decimal, Decimal]:
        top, bottom = self.factor()
        while sign := self.take("*/"):
            a, b = self.factor()
            a, b = (a, b) if sign == "*" else (b, a)
            top, bottom = EXACT.multiply(top, a), EXACT.multiply(bottom, b)
        return top, bottom

    def factor(self) -> tuple[Decimal, Decimal]:
        if self.take("("):
            inner = self.sum()
            assert self.take(")")
            return inner
        number = re.match(r"-?(0|[1-9]\d*)(\.\d*[1-9])?", self.rest)
        assert number
        assert number[0] != "-0"
        self.rest = self.rest[number.end() :]
        self.operands.append(number[0])
        return Decimal(number[0]), Decimal(1)


def expected_answer(prompt: str, result_decimals: int) -> str:
    top, bottom = Parser(prompt).value()
    value = top
    if "/" in prompt:
        value = EXACT.divide(top, bottom).quantize(Decimal(1).scaleb(-result_decimals), ROUND_HALF_EVEN, EXACT)
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "integers": {"integer_digits": 3, "decimals": 0, "result_decimals": 0},
    "wide": {"integer_digits": 5, "decimals": 3, "result_decimals": 4, "operations": "+-/"},
    "widest": {"integer_digits": 9, "decimals": 9, "operations": "+-"},
    "signed": {"signed": True},
    "weighted": {"operation_weights": {"*": 7}},
    "by operation": {"integer_digits": {"+": 4, "/": 1}, "decimals": {"+": 0, "/": 3}, "operations": "+/"},
    "three terms": {"terms": 3, "parentheses": True},
    "three signed terms": {"terms": 3, "signed": True, "result_decimals": 3, "parentheses": True},
    "four terms": {"terms": 4, "integer_digits": 1, "parentheses": True},
    "exact quotients": {"quotients": "exact"},
    "exact signed quotients": {"quotients": "exact", "signed": True, "integer_digits": 3, "operations": "/"},
    "carries": {"balance": "carries"},
    "wide carries": {"balance": "carries", "integer_digits": 6, "decimals": 2, "operations": "+-"},
}


def check(options: dict[str, Any], count: int, seed: int) -> None:
    task = Calculator(**options)
    lines = lines_of(count, seed, **options)
    prompts = [line.partition("=")[0] for line in lines]
    assert len(set(prompts)) == len(lines) == count
    for line, prompt in zip(lines, prompts, strict=True):
        assert line == f"{prompt}={expected_answer(prompt, task.result_decimals)}"
        assert task.answer(prompt) == line.partition("=")[2]
        parser = Parser(prompt)
        top, bottom = parser.value()
        assert len(parser.operands) == task.terms
        if task.quotients == "exact" and "/" in prompt:
            assert EXACT.multiply(Decimal(line.partition("=")[2]), bottom) == top


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_lines_are_right(options: dict[str, Any]) -> None:
    check(options, 2000, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_hundred_thousand_lines_are_right(options: dict[str, Any]) -> None:
    check(options, 100_000, seed=2)


@st.composite
def any_options(draw: st.DrawFn) -> dict[str, Any]:
    operations = "".join(draw(st.permutations("+-*/")))[: draw(st.integers(1, 4))]
    terms = draw(st.sampled_from([2, 2, 3]))
    digits = st.integers(1, 4)
    options: dict[str, Any] = {
        "operations": operations,
        "operation_weights": draw(st.dictionaries(st.sampled_from(operations), st.integers(1, 9))),
        "integer_digits": draw(digits | st.fixed_dictionaries(dict.fromkeys(operations, digits))),
        "decimals": draw(st.integers(0, 2)),
        "result_decimals": draw(st.integers(0, 4)),
        "terms": terms,
        "signed": draw(st.booleans()),
        "parentheses": terms > 2 and draw(st.booleans()),
    }
    if terms == 2 and "/" in operations and draw(st.booleans()):
        options["quotients"] = "exact"
    if terms == 2 and not options["signed"] and set("+-") & set(operations) and draw(st.booleans()):
        options["balance"] = "carries"
    return options


@settings(max_examples=30, deadline=None)
@given(any_options(), st.integers(0, 2**40))
def test_lines_of_any_options_are_right(options: dict[str, Any], seed: int) -> None:
    try:
        Calculator(**options).source(40, seed)
    except UserError:
        assume(False)
    check(options, 40, seed)


SMALL: dict[str, dict[str, Any]] = {
    "all": {"integer_digits": 1},
    "whole": {"integer_digits": 2, "decimals": 0, "result_decimals": 0},
    "signed": {"integer_digits": 1, "decimals": 1, "signed": True},
    "weighted": {"integer_digits": 1, "operation_weights": {"*": 7}, "operations": "*+"},
    "by operation": {"integer_digits": {"+": 2, "/": 1}, "decimals": {"+": 0, "/": 2}, "operations": "+/"},
    "exact quotients": {"integer_digits": 1, "signed": True, "quotients": "exact", "result_decimals": 1},
    "carries": {"integer_digits": 2, "decimals": 0, "balance": "carries"},
    "three terms": {"integer_digits": 1, "decimals": 0, "terms": 3, "signed": True},
}


def numbers(integer: int, decimals: int, signed: bool) -> list[str]:
    """Every number of at most so many digits, as the calculator writes them: 1, never 1.0, 01 or -0."""
    values = [Decimal(n).scaleb(-decimals) for n in range(10 ** (integer + decimals))]
    texts = [format(value.normalize(), "f") for value in values]
    return texts + ["-" + text for text in texts if signed and text != "0"]


def every_prompt(task: Calculator) -> set[str]:
    """Every prompt that a task's options make, without parentheses, by trying all; divisors are single numbers."""
    found = set()
    for signs in product(task.operations, repeat=task.terms - 1):
        slots = []
        for slot in range(task.terms):
            sign = signs[max(slot - 1, 0)]
            integer, decimals = (
                value[sign] if isinstance(value, dict) else value for value in (task.integer_digits, task.decimals)
            )
            divides = slot > 0 and sign == "/"
            slots.append([n for n in numbers(integer, decimals, task.signed) if not (divides and n == "0")])
        filled = (zip(("", *signs), operands, strict=True) for operands in product(*slots))
        found |= {"".join(sign + operand for sign, operand in pairs) for pairs in filled}
    return found


@pytest.mark.parametrize("options", SMALL.values(), ids=SMALL.keys())
def test_as_many_lines_as_there_are_prompts_hold_each_of_them_once(options: dict[str, Any]) -> None:
    task = Calculator(**options)
    wanted = every_prompt(task)
    if task.quotients == "exact":
        wanted = {prompt for prompt in wanted if "/" not in prompt or ends(prompt, task.result_decimals)}
    prompts = [line.partition("=")[0] for line in lines_of(task.count_prompts(), **options)]
    assert len(prompts) == len(wanted)
    assert set(prompts) == wanted


def ends(prompt: str, places: int) -> bool:
    """Whether a quotient has at most so many decimals."""
    top, bottom = map(Decimal, prompt.split("/"))
    return top.scaleb(places) % bottom == 0


def test_quotients_are_rounded_half_to_even() -> None:
    answers = dict(line.split("=") for line in lines_of(999_000, operations="/", integer_digits=2, decimals=1))
    assert answers["33.5/2"] == "16.75"
    assert answers["10/3"] == "3.33"
    assert answers["0.5/4"] == "0.12"
    assert answers["1.5/4"] == "0.38"
    assert "1/0" not in answers


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50), st.integers(0, 10))
def test_any_part_of_the_lines_can_be_had_alone(numbers: list[int], seed: int) -> None:
    source = Calculator().source(5001, seed)
    whole = bytes(source.text(np.arange(5001)).codes).decode().splitlines()
    part = bytes(source.text(np.array(numbers)).codes).decode().splitlines()
    assert part == [whole[number] for number in numbers]


def test_lines_never_change() -> None:
    assert lines_of(4, seed=1, operations="+-*/") == [
        "19.7*82.4=1623.28",
        "89.5+34.9=124.4",
        "81.8-87.4=-5.6",
        "33.2/89.6=0.37",
    ]


def test_operations_have_equal_shares_and_lengths_are_balanced() -> None:
    lines = lines_of(40_000)
    for sign in "+-*/":
        chosen = [line.split("=")[0].split(sign) for line in lines if sign in line.split("=")[0]]
        assert len(chosen) == 10_000
        cells: dict[tuple[int, int], int] = {}
        for a, b in chosen:
            cells[len(a), len(b)] = cells.get((len(a), len(b)), 0) + 1
        assert cells[1, 1] == (90 if sign == "/" else 100)  # all there are
        assert max(cells.values()) - min(cells[pair] for pair in cells if max(pair) > 2) <= 1


def test_carries_are_balanced_within_lengths() -> None:
    lines = lines_of(60_000, balance="carries", operations="+-", integer_digits=3, decimals=0)
    counts = {sign: dict.fromkeys(range(4), 0) for sign in "+-"}
    for line in lines:
        sign = "+" if "+" in line else "-"
        a, b = (prompt[::-1] for prompt in line.split("=")[0].split(sign))
        if len(a) == len(b) == 3:
            carry, carries = 0, 0
            for x, y in zip(map(int, a), map(int, b), strict=True):
                carry = int(x + y + carry > 9 if sign == "+" else x - y - carry < 0)
                carries += carry
            counts[sign][carries] += 1
    for sign in "+-":
        assert max(counts[sign].values()) - min(counts[sign].values()) <= 1


def test_weights_share_out_the_lines() -> None:
    lines = lines_of(900, operation_weights={"*": 6})
    assert sum("*" in line for line in lines) == 600
    assert sum("+" in line for line in lines) == 100


@given(st.integers(-(10**15), 10**15), st.integers(-1000, 1000).filter(bool))
def test_halves_go_to_the_even_number(numerator: int, denominator: int) -> None:
    expected = int((Decimal(numerator) / Decimal(denominator)).quantize(Decimal(1), ROUND_HALF_EVEN, EXACT))
    assert divide_half_even(np.array([numerator]), np.array([denominator])).tolist() == [expected]


def test_shapes_count_their_numbers() -> None:
    sizes = {(s.negative, s.integer, s.decimals): s.size for s in shapes(2, 1, signed=True, nonzero=False)}
    assert sizes == {
        (False, 1, 0): 10,
        (False, 1, 1): 90,
        (False, 2, 0): 90,
        (False, 2, 1): 810,
        (True, 1, 0): 9,
        (True, 1, 1): 90,
        (True, 2, 0): 90,
        (True, 2, 1): 810,
    }


def test_parentheses_stand_only_where_they_matter_and_divisors_are_never_sums() -> None:
    def shown(operations: str, terms: int) -> list[str]:
        return [
            "".join(
                f"{before}{operand}{after}"
                for before, operand, after in zip(f.prefixes, "abcd"[:terms], f.suffixes, strict=True)
            )
            for f in forms(operations, terms, True)
        ]

    assert shown("+*", 3) == ["a+b+c", "a+(b+c)", "a+b*c", "(a+b)*c", "a*b+c", "a*(b+c)", "a*b*c", "a*(b*c)"]
    assert shown("-/", 3) == ["a-b-c", "a-(b-c)", "a-b/c", "(a-b)/c", "a/b-c", "a/b/c", "a/(b/c)"]


def test_prompts_of_one_canonical_form_have_one_key() -> None:
    def key_by_prompt(**options: Any) -> dict[str, int]:
        count = options.pop("count")
        source = Calculator(**options).source(count, 1)
        prompts = [line.split("=")[0] for line in bytes(source.text(np.arange(count)).codes).decode().splitlines()]
        return dict(zip(prompts, source.keys(np.arange(count)).tolist(), strict=True))

    keys = key_by_prompt(count=390, integer_digits=1, decimals=0)
    assert len(set(keys.values())) == 55 + 55 + 100 + 90
    assert keys["3+4"] == keys["4+3"] != keys["3*4"] == keys["4*3"]
    assert keys["3-4"] != keys["4-3"]
    keys = key_by_prompt(count=4 * 1000, integer_digits=1, decimals=0, terms=3, operations="+-")
    assert keys["1+2+3"] == keys["3+1+2"] == keys["2+3+1"]
    assert keys["5-1-2"] == keys["5-2-1"] != keys["1-5-2"]
    assert keys["5-1+2"] == keys["5+2-1"] == keys["2+5-1"]


@pytest.mark.parametrize(
    ("options", "count", "message"),
    [
        ({"integer_digits": 1, "decimals": 0, "operations": "/"}, 91, "only 90 different prompts"),
        ({"integer_digits": 9, "decimals": 9, "operations": "*"}, 10, "past the limit"),
        ({"terms": 4, "integer_digits": 9, "operations": "+-"}, 10, "combinations of operand lengths"),
        ({"quotients": "exact", "operations": "/"}, 28_969, "only 28968 different prompts"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(options: dict[str, Any], count: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Calculator(**options).source(count, 1)


def test_a_whole_grammar_can_be_had() -> None:
    assert len(set(lines_of(390, integer_digits=1, decimals=0))) == 390
    assert len(set(lines_of(28_968, quotients="exact", operations="/"))) == 28_968


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"signed": True},
        {"decimals": 1},
        {"integer_digits": {"+": 2, "-": 1, "*": 1, "/": 1}, "decimals": {"+": 0, "-": 1, "*": 0, "/": 0}},
        {"balance": "carries", "operation_weights": {"*": 3}},
        {"quotients": "exact", "decimals": 1},
        {"terms": 3, "parentheses": True, "operations": "+*"},
    ],
    ids=str,
)
def test_as_many_lines_as_there_are_prompts_hold_every_prompt_once(options: dict[str, Any]) -> None:
    options = {"integer_digits": 1, "decimals": 0, **options}
    task = Calculator(**options)
    prompts = [line.split("=")[0] for line in lines_of(task.count_prompts(), **options)]
    assert len(prompts) == len(set(prompts)) == task.count_prompts()
    assert set(prompts) == set(written_prompts(task))
    with pytest.raises(UserError, match=f"only {task.count_prompts()} different prompts"):
        task.source(task.count_prompts() + 1, 1)


def written_prompts(task: Calculator) -> Iterator[str]:
    """Every prompt that a task's options allow, by writing operands into forms."""
    for form in forms(task.operations, task.terms, task.parentheses):
        signs = [form.operations[max(slot - 1, 0)] for slot in range(task.terms)]
        for operands in product(*(written_operands(task, sign) for sign in signs)):
            prompt = "".join(map("".join, zip(form.prefixes, operands, form.suffixes, strict=True)))
            if form.operations != "/" or _is_asked(task, *map(Decimal, operands)):
                yield prompt


def _is_asked(task: Calculator, a: Decimal, b: Decimal) -> bool:
    return b != 0 and (task.quotients == "rounded" or a * 10**task.result_decimals % b == 0)


def written_operands(task: Calculator, sign: str) -> list[str]:
    integer, decimals = (
        value[sign] if isinstance(value, dict) else value for value in (task.integer_digits, task.decimals)
    )
    numbers = [f"{n / 10**decimals:.{decimals}f}" for n in range(10 ** (integer + decimals))]
    texts = [text.rstrip("0").rstrip(".") if decimals else text for text in numbers]
    return [*texts, *(f"-{text}" for text in texts if text != "0" and task.signed)]


def test_the_alphabet_holds_every_character_of_the_lines() -> None:
    for options in OPTIONS.values():
        source = Calculator(**options).source(500, 3)
        assert {*bytes(source.text(np.arange(500)).codes).decode()} <= {*source.alphabet, "\n"}

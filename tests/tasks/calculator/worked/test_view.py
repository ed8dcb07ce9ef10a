"""The worked view against lines of the generator, strings worked out by hand, and its steps' own rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from popgpt.lines.text import Text, take_lines
from popgpt.tasks.calculator.task import Calculator
from popgpt.tasks.calculator.worked.digits import characters, integers
from popgpt.tasks.calculator.worked.view import WorkedView
from popgpt.tasks.views import View
from popgpt.text.errors import UserError

VIEWED = {"operations", "integer_digits", "decimals", "result_decimals", "signed", "terms", "parentheses"}


def generate(count: int, seed: int = 1, **options: Any) -> Text:
    return Calculator(**options).source(count, seed).text(np.arange(count))


def worked(**options: Any) -> WorkedView:
    return WorkedView(**Calculator(**options).model_dump(include=VIEWED))


def text_of(*lines: str) -> Text:
    codes = np.frombuffer("".join(f"{line}\n" for line in lines).encode(), np.uint8)
    return Text(codes, np.cumsum([0, *(len(line) + 1 for line in lines)]))


def lines_of(text: Text) -> list[str]:
    return bytes(text.codes).decode("latin-1").split("\n")[:-1]


def read_one(view: View, line: str, seed: int = 1, epoch: int = 0) -> str:
    return lines_of(view.read(text_of(line), np.zeros(1, np.int64), seed, epoch).text)[0]


def check(view: View, text: Text, *, seed: int = 1, epoch: int = 0) -> None:
    """For each line, the answer comes back, and everything is as long, and stands where, the view says."""
    reading = view.read(text, np.arange(len(text.lengths)), seed, epoch)
    assert (view.lengths(text) == reading.text.lengths).all()
    alphabet, visible, read = set(view.alphabet), lines_of(text), lines_of(reading.text)
    assert len(visible) == len(read)
    starts = reading.text.offsets[:-1]
    for line, seen, end, origin, start in zip(visible, read, reading.ends, reading.origins, starts, strict=True):
        prompt, _, answer = line.partition("=")
        question = view.ask(prompt)
        written = seen[len(question.prompt) :]
        assert view.answer(prompt, written) == answer
        assert seen.startswith(question.prompt)
        assert (end, origin) == (start + len(question.prompt) - 1, question.origin)
        assert len(written) == question.longest <= view.longest_answer
        assert origin + len(seen) < view.positions
        assert alphabet.issuperset(seen)


@pytest.mark.parametrize(
    ("line", "read"),
    {
        "7.3-12.5=-5.2": "073-125=8499",
        "7.3+12.5=19.8": "073+125=8910",
        "99.9+99.9=199.8": "999+999=8991",
        "12.5*7.3=91.25": "125*073=(15)73(42)(21)9190",
        "0*0=0": "000*000=000000000",
        # A tie: to the even hundredth. 1, 10, 100 - 80 = 20, 200 - 160 = 40; 2 * 40 - 80 = 0.
        "1/8=0.12": "00100/800=010000010000010100(-8)0200(-16)0000021000",
        # The divisor's first digit is at the front, and the dividend is multiplied alike.
        "40/0.1=400": "40000/100=4" + "0" * 24 + "00(-1)(-1)00004",
        "0/5=0": "00000/500=" + "0" * 25 + "00(-5)(-1)00000",
    }.items(),
)
def test_lines_by_hand(line: str, read: str) -> None:
    view = worked()
    assert view.legible(read_one(view, line)) == read
    check(view, text_of(line))


@pytest.mark.parametrize(
    ("line", "read"),
    {
        "-7.3-12.5=-19.8": "9927-0125=2089",
        "-7.3--12.5=5.2": "9927-9875=2500",
        "-99.9+-99.9=-199.8": "9001+9001=2008",
        "-12.5*7.3=-91.25": "-125*+073=-(15)73(42)(21)9190",
        "-0.1*-0.1=0.01": "-001*-001=+100000000",
        "-1/8=-0.12": "-00100/+800=-010000010000010100(-8)0200(-16)0000021000",
    }.items(),
)
def test_signed_lines_by_hand(line: str, read: str) -> None:
    view = worked(signed=True)
    assert view.legible(read_one(view, line)) == read
    check(view, text_of(line))


WHOLE: dict[str, tuple[int, dict[str, Any]]] = {
    "one digit and one decimal": (39_900, {"integer_digits": 1, "decimals": 1}),
    "two digits": (39_900, {"integer_digits": 2, "decimals": 0}),
    "to no decimals": (9_900, {"integer_digits": 2, "decimals": 0, "result_decimals": 0, "operations": "/"}),
    "to one decimal": (9_900, {"integer_digits": 1, "decimals": 1, "result_decimals": 1, "operations": "/"}),
    "to five decimals": (9_900, {"integer_digits": 1, "decimals": 1, "result_decimals": 5, "operations": "/"}),
    "signed digits": (1_425, {"integer_digits": 1, "decimals": 0, "signed": True}),
    "signed": (39_402, {"integer_digits": 1, "decimals": 1, "signed": True, "operations": "/"}),
    "fractions": (1_000, {"integer_digits": {"/": 1}, "decimals": {"/": 2}, "operations": "/"}),
}


@pytest.mark.parametrize(("count", "options"), WHOLE.values(), ids=WHOLE.keys())
def test_all_lines_of_a_small_grammar(count: int, options: dict[str, Any]) -> None:
    check(worked(**options), generate(count, **options))


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    operations = "".join(draw(st.lists(st.sampled_from("+-*/"), min_size=1, unique=True)))

    def per_operation(low: int, high: int) -> Any:
        number = st.integers(low, high)
        return draw(st.one_of(number, st.fixed_dictionaries(dict.fromkeys(operations, number))))

    return {
        "operations": operations,
        "integer_digits": per_operation(1, 4),
        "decimals": per_operation(0, 3),
        "result_decimals": draw(st.integers(0, 6)),
        "signed": draw(st.booleans()),
    }


@given(options=options(), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 9))
def test_lines_of_any_grammar(options: dict[str, Any], seed: int, epoch: int) -> None:
    try:
        text = generate(40, seed, **options)
    except UserError:
        assume(False)
    check(worked(**options), text, seed=seed, epoch=epoch)


@given(seed=st.integers(0, 2**63 - 1), result_decimals=st.integers(0, 4), signed=st.booleans())
@settings(max_examples=10)
def test_exact_quotients(seed: int, result_decimals: int, signed: bool) -> None:
    options = {"operations": "/", "quotients": "exact", "result_decimals": result_decimals, "signed": signed}
    check(worked(**options), generate(200, seed, **options), seed=seed)


@pytest.mark.parametrize(
    "options",
    [
        {"operations": "+-", "integer_digits": 9, "decimals": 9},
        {"operations": "+-", "integer_digits": 9, "decimals": 9, "signed": True},
        {"operations": "*", "integer_digits": 5, "decimals": 4, "signed": True},
        {"operations": "/", "integer_digits": 9, "decimals": 9, "result_decimals": 0},
        {"operations": "/", "integer_digits": 4, "decimals": 4, "result_decimals": 9, "signed": True},
        {"operations": "/", "integer_digits": 1, "decimals": 0, "result_decimals": 9},
    ],
)
def test_the_widest_lines(options: dict[str, Any]) -> None:
    check(worked(**options), generate(80, **options))


def test_the_tie_of_wide_operands_goes_to_the_even_quotient() -> None:
    view = worked(operations="/", integer_digits=9, decimals=9, result_decimals=0)
    check(
        view, text_of("250000000.5/500000001=0", "750000001.5/500000001=2", "999999999.999999999/999999999.999999999=1")
    )


def test_an_integer_has_a_character_of_its_own() -> None:
    alphabet = characters(-100, 99)
    assert len({*alphabet, *"+-*/=.\n"}) == 200 + 7
    assert integers(alphabet) == [*range(-100, 100)]
    assert integers("0a=") is None
    assert worked().legible("1+" + characters(8, 11) + characters(-2, -1)) == "1+89(10)(11)(-2)(-1)"


def check_steps(read: str, digits: int, result_decimals: int) -> list[int]:
    """The quotient's digits, after each step was found to be what the one before it and its own digit make of it."""
    prompt, _, written = read.partition("=")
    dividend, divisor = prompt.split("/")
    values = integers(written)
    assert values is not None
    width = digits + 1
    first, rest = dividend[: digits - 1], dividend[digits - 1 :]
    before, remainder, quotient = [*map(int, reversed(first)), 0], int(first), list[int]()
    for following in [*map(int, rest), *[0] * result_decimals, None]:
        if following is None:
            q, total, columns = 1, 2 * remainder, [2 * digit for digit in before]
        else:
            q, total, columns = values.pop(0), 10 * remainder + following, [following, *before]
            quotient.append(q)
        step, values = values[:width], values[width:]
        before, carry = [total % 10 for total in step[:-1]], 0
        for place, taken in enumerate(reversed(divisor)):
            assert step[place] == columns[place] - q * int(taken) + carry
            carry = step[place] // 10
        remainder = total - q * int(divisor)
        assert remainder == sum(digit * 10**place for place, digit in enumerate(before)) + step[-1] * 10**digits
        assert following is None or -0.45 * int(divisor) <= remainder <= 0.95 * int(divisor)
    return quotient


def test_each_step_of_a_quotient_follows_from_the_one_before() -> None:
    options: dict[str, Any] = {"operations": "/", "integer_digits": 2, "decimals": 0}
    text = generate(9_900, **options)
    reading = worked(**options).read(text, np.arange(9_900), 1, 0)
    quotients = [check_steps(line, 2, 2) for line in lines_of(reading.text)]
    assert {digit for quotient in quotients for digit in quotient} == {*range(-5, 11)}


def test_chance_is_of_the_line_the_seed_and_the_epoch_alone() -> None:
    view, text, numbers = worked(), generate(20_000), np.arange(20_000)
    whole = view.read(text, numbers, 1, 0)
    some = np.arange(3, 20_000, 7)
    part = view.read(take_lines(text, some), some, 1, 0)
    assert lines_of(part.text) == lines_of(take_lines(whole.text, some))
    assert (part.origins == whole.origins[some]).all()
    for seed, epoch in ((1, 1), (2, 0)):
        other = lines_of(view.read(text, numbers, seed, epoch).text)
        changed = [line for line, was in zip(other, lines_of(whole.text), strict=True) if line != was]
        assert changed
        assert all("/" in line for line in changed)


def test_nothing_of_the_answer_is_in_what_is_read() -> None:
    view = worked()
    assert read_one(view, "12.5/7.3=0") == read_one(view, "12.5/7.3=1.71")


def test_no_lines_are_read_as_none() -> None:
    reading = worked().read(generate(2)._replace(offsets=np.zeros(1, np.int64)), np.zeros(0, np.int64), 1, 0)
    assert [len(reading.text.codes), len(reading.ends), len(reading.text.offsets)] == [0, 0, 1]


def test_positions_of_operations_are_apart() -> None:
    view = worked()
    origins = [view.ask(f"1{sign}1") for sign in "+-*/"]
    assert [question.origin for question in origins] == [0, 13, 26, 44]
    assert view.positions == 44 + 10 + 34 + 1
    assert worked(operations="/*").ask("1*1").origin == 0


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        (
            "1.25+1",
            "prompt '1.25+1' is too wide: operands of '+' have at most 2 digits before the point and 1 after it",
        ),
        ("1*100", "prompt '1*100' is too wide: operands of '*' have at most 2 digits before the point and 1 after it"),
        ("1+2+3", "prompt '1+2+3' is not two numbers with one of + - * / between"),
        ("1+", "prompt '1+' is not two numbers with one of + - * / between"),
        (".5+1", "prompt '.5+1' is not two numbers with one of + - * / between"),
        ("1/2", "prompt '1/2': this dataset has + - *, not '/'"),
        ("-1+2", "prompt '-1+2' has a negative operand; this dataset has none (signed=False)"),
    ],
)
def test_a_prompt_it_cannot_hold_is_told(prompt: str, told: str) -> None:
    view = worked(operations="+-*")
    for ask in (view.ask, lambda prompt: read_one(view, f"{prompt}=1")):
        with pytest.raises(UserError) as error:
            ask(prompt)
        assert str(error.value) == told


def test_a_quotient_by_nothing_is_told() -> None:
    for prompt in ("1/0", "1/0.0"):
        with pytest.raises(UserError, match=f"prompt '{prompt}' divides by 0"):
            worked().ask(prompt)
    with pytest.raises(UserError, match="divides by 0"):
        read_one(worked(), "1/0=1")


@pytest.mark.parametrize("given", [{"terms": 3}, {"terms": 3, "parentheses": True}])
def test_more_operands_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="view='worked' holds prompts of two operands, not terms=3"):
        worked(**given)


@pytest.mark.parametrize(
    ("prompt", "written"),
    [
        ("1+1", ""),
        ("1+1", "200"),
        ("1+1", "02000"),
        ("1+1", "0a00"),
        ("1+1", "\u0662000"),
        ("1*1", "0" * 8),
        ("1*1", "0" * 8 + "="),
        ("1*1", "0" * 8 + characters(-1, -1)),
        ("1/1", "0" * 33),
        ("1/1", "0" * 33 + characters(10, 10)),
        ("1/1", "0" * 35),
    ],
)
def test_what_makes_no_sense_is_no_answer(prompt: str, written: str) -> None:
    assert worked().answer(prompt, written) is None


@pytest.mark.parametrize("prompt", ["1*1", "1/1"])
def test_a_signed_answer_takes_a_sign(prompt: str) -> None:
    view = worked(signed=True)
    longest = view.ask(prompt).longest
    assert view.answer(prompt, "-" + "0" * (longest - 1)) == "0"
    assert view.answer(prompt, "0" * longest) is None

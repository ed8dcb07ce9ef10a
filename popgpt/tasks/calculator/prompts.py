"""Prompts of the calculator as text: what they ask, whoever wrote them, and what that comes to."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np

from popgpt.lines.shuffle import U64, mix
from popgpt.lines.text import I64, Text, hash_spans
from popgpt.tasks.calculator.grammar import Tree, divisors, parse

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_OPERAND = rf"(\(?)(-?{_NUMBER})(\)?)"
_PROMPT = re.compile(rf"{_OPERAND}(?:[-+*/]{_OPERAND})*")
_TOKEN = re.compile(rf"{_OPERAND}([-+*/]?)")
_MOST_OPERANDS = 32


def read(prompt: str) -> tuple[Tree, list[str]] | None:
    """A prompt's tree and its operands, without needless zeros or signs; None where the grammar could not make it."""
    if not _PROMPT.fullmatch(prompt):
        return None
    tokens = _TOKEN.findall(prompt)
    opened, closed = ([i for i, token in enumerate(tokens) if token[side]] for side in (0, 2))
    if len(tokens) > _MOST_OPERANDS or len(opened) != len(closed) or len(opened) > 1 or opened > closed:
        return None
    group = (opened[0], closed[0]) if opened else None
    return parse([token[3] for token in tokens[:-1]], group), [_number(token[1]) for token in tokens]


def answer(prompt: str, result_decimals: int) -> str | None:
    """What a prompt comes to, as the calculator's lines say it; None where it is no prompt or has no value."""
    found = read(prompt)
    if found is None:
        return None
    tree, operands = found
    try:
        value = _value(tree, [Fraction(operand) for operand in operands])
    except ZeroDivisionError:
        return None
    if divisors(tree):
        value = Fraction(round(value * 10**result_decimals), 10**result_decimals)  # a Fraction's halves go to even
    return _decimal(value)


def _value(tree: Tree, operands: list[Fraction]) -> Fraction:
    if isinstance(tree, int):
        return operands[tree]
    sign, left, right = tree
    a, b = _value(left, operands), _value(right, operands)
    return a + b if sign == "+" else a - b if sign == "-" else a * b if sign == "*" else a / b


def _decimal(value: Fraction) -> str:
    """A number that ends, in decimals: no leading and no trailing zeros."""
    places = 0
    while 10**places % value.denominator:
        places += 1
    digits = str(abs(value.numerator) * (10**places // value.denominator)).zfill(places + 1)
    point = len(digits) - places
    return ("-" if value < 0 else "") + digits[:point] + ("." + digits[point:] if places else "")


def canonical(prompt: str) -> str:
    """The form alike for a+b and b+a; the prompt itself where it is none that the grammar could make."""
    found = read(prompt)
    return prompt if found is None else _key(*found)


def _number(text: str) -> str:
    """A number without needless zeros or sign."""
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, _, decimals = digits.partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    if not decimals:
        return whole if whole == "0" else sign + whole
    return f"{sign}{whole}.{decimals}"


def _key(tree: Tree, operands: list[str]) -> str:
    """A tree with the parts of each sum and product in one order."""
    if isinstance(tree, int):
        return operands[tree]
    family = "+-" if tree[0] in "+-" else "*/"
    return f"{family[0]}({' '.join(sorted(_parts(tree, family, operands)))})"


def _parts(tree: Tree, family: str, operands: list[str]) -> list[str]:
    """A sum's terms or a product's factors; those taken away are marked."""
    if isinstance(tree, int) or tree[0] not in family:
        return [_key(tree, operands)]
    sign, left, right = tree
    if sign in "+*":
        return _parts(left, family, operands) + _parts(right, family, operands)
    return [*_parts(left, family, operands), "~" + _key(right, operands)]


def hash_operands(text: Text, ends: I64) -> U64:
    """[n] a hash of the numbers in each prompt, in any order: alike for prompts of one canonical form, and for that
    form itself, where numbers are written without needless zeros.
    """
    digit = (text.codes >= ord("0")) & (text.codes <= ord("9")) | (text.codes == ord("."))
    edges = np.diff(digit, prepend=False, append=False)
    starts, stops = np.flatnonzero(edges)[::2], np.flatnonzero(edges)[1::2]
    asked = starts < ends[np.searchsorted(text.offsets, starts, side="right") - 1]
    starts, stops = starts[asked], stops[asked]
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(mix(hash_spans(text.codes, starts, stops)))))
    before = np.searchsorted(starts, text.offsets)
    hashes: U64 = sums[before[1:]] - sums[before[:-1]]
    return hashes

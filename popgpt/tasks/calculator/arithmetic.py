"""Exact arithmetic in scaled integers, on arrays and on Python's integers alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from popgpt.lines.text import I64
from popgpt.tasks.calculator.grammar import Tree


class Value(NamedTuple):
    """numerator / (denominator * 10**places); arrays, or integers that bound them. No denominator: no quotient."""

    numerator: Any
    denominator: Any
    places: int


def evaluate(tree: Tree, operands: Sequence[Any], places: int, subtract: Callable[[Any, Any], Any]) -> Value:
    """The value of a tree over operands scaled by 10**places."""
    if isinstance(tree, int):
        return Value(operands[tree], None, places)
    sign, *sides = tree
    a, b = (evaluate(side, operands, places, subtract) for side in sides)
    if sign == "*":
        return Value(a.numerator * b.numerator, _times(a.denominator, b.denominator), a.places + b.places)
    if sign == "/":
        top, bottom, shift = _times(a.numerator, b.denominator), _times(b.numerator, a.denominator), a.places - b.places
        return Value(top * 10 ** max(-shift, 0), bottom, max(shift, 0))
    both = max(a.places, b.places)
    left = _times(a.numerator * 10 ** (both - a.places), b.denominator)
    right = _times(b.numerator * 10 ** (both - b.places), a.denominator)
    total = left + right if sign == "+" else subtract(left, right)
    return Value(total, _times(a.denominator, b.denominator), both)


def _times(a: Any, b: Any) -> Any:
    return a if b is None else b if a is None else a * b


def scale(value: Value, result_decimals: int, places: int) -> tuple[Any, Any]:
    """Numerator and denominator of the answer, scaled to result_decimals if it is to be rounded, else to places."""
    if value.denominator is None:
        return value.numerator * 10 ** (places - value.places), None
    shift = result_decimals - value.places
    return value.numerator * 10 ** max(shift, 0), value.denominator * 10 ** max(-shift, 0)


def divide_half_even(numerator: I64, denominator: I64) -> I64:
    """[n] the quotients rounded to whole numbers, halves to the even one. Magnitudes < 2**62, denominators not 0."""
    sign = np.sign(denominator)
    numerator, denominator = numerator * sign, denominator * sign
    quotient = numerator // denominator
    twice = 2 * (numerator - quotient * denominator)
    rounded: I64 = quotient + ((twice > denominator) | ((twice == denominator) & (quotient % 2 == 1)))
    return rounded

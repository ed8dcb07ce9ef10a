"""Pairs of operands chosen by what happens between them: so many carries, or a quotient that ends."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.shuffle import LARGEST, U64
from popgpt.lines.text import I64
from popgpt.tasks.calculator.operands import Shape
from popgpt.text.errors import UserError

MOST_DIVISORS = 2**20


class CarryPairs(NamedTuple):
    """Pairs of two shapes by the carries of their sum, or the borrows of their difference, column by column.

    Columns count from the right, Q of them. digits: [Q, 2 (carry in), 2 (carry out), 100, 2 (a, b)] pairs of digits.
    counts: [Q, 2, 2] how many of those. ways: [Q + 1, 2, Q + 1] ways to go on from a column, given the carry into it
    and the carries still to come. decimals: how many columns are right of the point.
    """

    digits: I64
    counts: U64
    ways: U64
    decimals: int

    @property
    def sizes(self) -> list[int]:
        """How many pairs have 0, 1, ... carries."""
        return [int(size) for size in self.ways[0, 0]]


def carry_pairs(a: Shape, b: Shape, sign: str) -> CarryPairs:
    """The pairs a + b or a - b of positive shapes. Raises UserError where there are too many to number."""
    if a.size * b.size > LARGEST:
        raise UserError(
            f"balance='carries' numbers the pairs of operands, and {a.size * b.size:.1e} are more than {LARGEST:.1e}: "
            "use fewer integer_digits or decimals"
        )
    decimals = max(a.decimals, b.decimals)
    columns = decimals + max(a.integer, b.integer)
    digits = np.zeros((columns, 2, 2, 100, 2), np.int64)
    counts = np.zeros((columns, 2, 2), np.uint64)
    for column in range(columns):
        x, y = np.meshgrid(*(_column_digits(shape, column - decimals) for shape in (a, b)), indexing="ij")
        for carry in (0, 1):
            carries = x + y + carry >= 10 if sign == "+" else x - y - carry < 0
            for out in (0, 1):
                chosen = np.stack([x[carries == out], y[carries == out]], axis=1)
                digits[column, carry, out, : len(chosen)] = chosen
                counts[column, carry, out] = len(chosen)
    ways = np.zeros((columns + 1, 2, columns + 1), np.uint64)
    ways[columns, :, 0] = 1
    for column in reversed(range(columns)):
        ways[column] = counts[column, :, :1] * ways[column + 1, 0]
        ways[column, :, 1:] += counts[column, :, 1:] * ways[column + 1, 1, :-1]
    return CarryPairs(digits, counts, ways, decimals)


def _column_digits(shape: Shape, exponent: int) -> NDArray[np.int64]:
    """What the digit at 10**exponent can be."""
    if not -shape.decimals <= exponent < shape.integer:
        return np.zeros(1, np.int64)
    leads = exponent == shape.integer - 1 and shape.integer > 1
    ends = exponent == -shape.decimals and shape.decimals > 0
    return np.arange(1 if leads or ends else 0, 10)


def take_carry_pairs(pairs: CarryPairs, index: U64, carries: I64, places: int) -> tuple[I64, I64]:
    """[n] the pairs with these numbers among those of as many `carries`, scaled by 10**places."""
    values = np.zeros((len(index), 2), np.int64)
    carry, left, index = np.zeros(len(index), np.int64), carries, index.copy()
    for column, (digits, counts) in enumerate(zip(pairs.digits, pairs.counts, strict=True)):
        without = counts[carry, 0] * pairs.ways[column + 1, 0, left]
        out = (index >= without).astype(np.int64)
        index -= without * out.astype(np.uint64)
        left = left - out
        onward = pairs.ways[column + 1, out, left]
        chosen = index // onward
        index -= chosen * onward
        values += digits[carry, out, chosen.astype(np.int64)] * 10 ** (column + places - pairs.decimals)
        carry = out
    return values[:, 0], values[:, 1]


class QuotientPairs(NamedTuple):
    """Pairs whose quotient ends within some decimals, by divisor.

    Arrays [divisors]: the divisor, scaled; `step`, of which the dividend's digits are a multiple; the first multiple
    that counts; `period`, such that every period-th multiple would end in 0 and doesn't count (0: all count).
    starts: [divisors + 1] how many pairs come before those of a divisor.
    """

    divisors: I64
    step: I64
    first: I64
    period: I64
    starts: I64
    unit: int

    @property
    def size(self) -> int:
        """How many pairs there are."""
        return int(self.starts[-1])


def quotient_pairs(a: Shape, divisors: I64, places: int, result_decimals: int) -> QuotientPairs:
    """The pairs for which a / b has at most `result_decimals` decimals. divisors: all of b's, scaled by 10**places."""
    unit = 10 ** (places - a.decimals)
    magnitude = np.abs(divisors)
    step = magnitude // np.gcd(magnitude, 10**result_decimals)
    step //= np.gcd(step, unit)
    low, high = a.first * 10**a.decimals, 10 ** (a.integer + a.decimals) - 1
    first, last = -(-low // step), high // step
    period = np.zeros_like(step)
    if a.decimals:
        period = 10 // np.gcd(step, 10)
        first, last = _counted(np.maximum(first, 1) - 1, period) + 1, _counted(last, period)
    counts = np.maximum(last - first + 1, 0)
    sign = -1 if a.negative else 1
    return QuotientPairs(divisors, step, first, period, np.concatenate(([0], np.cumsum(counts))), sign * unit)


def _counted(multiple: NDArray[Any], period: NDArray[Any]) -> I64:
    """How many of 1, ..., multiple are not multiples of their period."""
    counted: I64 = multiple - multiple // period
    return counted


def take_quotient_pairs(pairs: QuotientPairs, index: U64) -> tuple[I64, I64]:
    """[n] the pairs with these numbers, scaled as the divisors are; a / b ends."""
    numbers = index.astype(np.int64)
    of = np.searchsorted(pairs.starts, numbers, side="right") - 1
    multiple = pairs.first[of] + numbers - pairs.starts[of]
    period = pairs.period[of]
    multiple += np.where(period > 1, (multiple - 1) // np.maximum(period - 1, 1), 0)
    return multiple * pairs.step[of] * pairs.unit, pairs.divisors[of]


def check_divisors(shape: Shape) -> None:
    """Raises UserError where a shape has more numbers than are listed one by one."""
    if shape.size > MOST_DIVISORS:
        raise UserError(
            f"quotients='exact' lists the divisors, and {shape.size} of {shape.integer} digits and {shape.decimals} "
            f"decimals are more than {MOST_DIVISORS}: use fewer integer_digits or decimals for '/'"
        )

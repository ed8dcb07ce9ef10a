"""Columns of small integers, a row a line, lowest digit first: from visible numbers, and to characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.text import I64, first_at_or_after

I8 = NDArray[np.int8]

LOWEST = -10
SYMBOLS = "jihgfedcba0123456789A"
"""The characters of the integers from LOWEST to 10."""
DIGITS = "0123456789"
SIGNS = "+-"
_CODES = np.array(list(SYMBOLS.encode()), np.uint8)


class Operand(NamedTuple):
    """Numbers of so many digits. digits: columns [n] from 0 to 9, lowest first; negative: [n]."""

    digits: list[I8]
    negative: NDArray[np.bool_]

    @property
    def sign(self) -> I8:
        """[n] -1 or 1."""
        return 1 - 2 * self.negative.astype(np.int8)

    @property
    def value(self) -> I64:
        """[n] the numbers without their signs, in units of the lowest digit."""
        value = np.zeros(len(self.negative), np.int64)
        for digit in self.digits[::-1]:
            value = value * 10 + digit
        return value


def read_operand(
    codes: NDArray[Any], points: I64, starts: I64, stops: I64, integer: int, decimals: int, signed: bool
) -> tuple[Operand, NDArray[np.bool_]]:
    """The numbers codes[start:stop], and which of them [n] are no number of at most so many digits.

    points: where in `codes` there is a point.
    """
    negative = (codes[starts] == ord("-")) & signed
    starts = starts + negative
    point = first_at_or_after(points, starts, stops)
    ended = stops - point
    bad = (point == starts) | (point - starts > integer) | (ended > decimals + 1) | (ended == 1)
    places = [point + 1 + place for place in range(decimals)][::-1] + [point - 1 - place for place in range(integer)]
    digits = []
    for number, place in enumerate(places):
        inside = place < stops if number < decimals else place >= starts
        digit = np.where(inside, codes.take(place, mode="clip") - ord("0"), 0)
        bad |= digit > 9  # codes are unsigned: what is below "0" wraps round
        digits.append(digit.astype(np.int8))
    return Operand(digits, negative), bad


def decimal_text(value: int, decimals: int) -> str:
    """A number of units of 10**-decimals, as the calculator writes it."""
    digits = str(abs(value)).rjust(decimals + 1, "0")
    whole, part = digits[: len(digits) - decimals], digits[len(digits) - decimals :].rstrip("0")
    return ("-" if value < 0 else "") + whole + ("." + part if part else "")


def to_codes(columns: Sequence[I8]) -> NDArray[np.uint8]:
    """[columns, n] the characters of columns [n] of integers from LOWEST to 10."""
    return _CODES[np.stack(columns) - LOWEST]


def is_digits(written: str, count: int) -> bool:
    """Whether exactly so many digits were written."""
    return len(written) == count and set(written) <= set(DIGITS)


class SignedDigits:
    """Numbers as so many digits, highest first; where they may be negative, after a sign."""

    def __init__(self, digits: int, signed: bool) -> None:
        self.operand_width = digits + signed
        self.signs = SIGNS if signed else ""
        self._digits = digits

    def operand(self, value: int) -> str:
        """A number as it stands in the prompt."""
        return self.signs[value < 0 :][:1] + str(abs(value)).rjust(self._digits, "0")

    def operand_codes(self, operand: Operand) -> NDArray[np.uint8]:
        """[operand_width, n] the characters of numbers as they stand in the prompt."""
        return self.with_signs(operand.negative, to_codes(operand.digits[::-1]))

    def with_signs(self, negative: NDArray[np.bool_], codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Characters [k, n] after the characters of signs, if there are signs."""
        if not self.signs:
            return codes
        return np.concatenate((np.where(negative, np.uint8(ord("-")), np.uint8(ord("+")))[None], codes))

    def split_sign(self, written: str) -> tuple[int, str]:
        """-1 or 1, and what is written after the sign, if there are signs; 0 where there should be one and is none."""
        if not self.signs:
            return 1, written
        return {"+": 1, "-": -1}.get(written[:1], 0), written[1:]

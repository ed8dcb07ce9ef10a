"""Columns of small integers, a row a line, lowest digit first: from visible numbers, and to characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.text import I64, first_at_or_after

I8 = NDArray[np.int8]

DIGITS = "0123456789"
SIGNS = "+-"
_CODES = np.arange(256, dtype=np.uint8)
"""The character of each integer from -100 to 99, by its lowest eight bits: a digit, or one past the signs."""
_CODES[:10] += ord("0")
_CODES[10:100] += 54


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
        return digits_value(self.digits, len(self.negative))


def digits_value(digits: Sequence[I8], count: int) -> I64:
    """[count] the numbers of these digits, lowest first; there may be none."""
    value = np.zeros(count, np.int64)
    for digit in digits[::-1]:
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
    """[columns, n] the characters of columns [n] of integers from -100 to 99."""
    return _CODES[np.stack(columns).astype(np.uint8)]


def characters(low: int, high: int) -> str:
    """The characters of the integers from `low` to `high`, in their order."""
    return "".join(chr(code) for code in to_codes([np.arange(low, high + 1, dtype=np.int8)])[0])


_INTEGERS = {character: number for number, character in enumerate(characters(-100, 99), -100)}


def integers(written: str) -> list[int] | None:
    """The integers of so many characters; None where one of them is none."""
    found = [_INTEGERS.get(character) for character in written]
    return None if None in found else [number for number in found if number is not None]


def legible(text: str) -> str:
    """Text whose integers of more than a digit stand as (12), (-3)."""
    return text.translate({ord(c): f"({number})" for c, number in _INTEGERS.items() if not 0 <= number <= 9})


def is_digits(written: str, count: int) -> bool:
    """Whether exactly so many digits were written."""
    return len(written) == count and set(written) <= set(DIGITS)


class SignedDigits:
    """Numbers as so many digits, highest first; where they may be negative, after a sign."""

    def __init__(self, digits: int, signed: bool) -> None:
        self.signs = SIGNS if signed else ""
        self._digits = digits

    def with_sign(self, negative: bool, digits: str) -> str:
        """Digits after the character of their sign, if there are signs."""
        return self.signs[negative:][:1] + digits

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

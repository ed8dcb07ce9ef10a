"""Sums and differences: `7.3-12.5=-5.2` is `073-125=8499`.

The answer has a digit more than the operands, is written lowest digit first and in ten's complement, that is modulo
10**4 here: from 5000 on it is negative. So each digit is a sum of two digits and a carry, and there is no sign to find
out before the first digit. Signed operands have a digit more and are in ten's complement too: `-7.3` is `9927`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.shuffle import U64
from popgpt.tasks.calculator.worked.digits import DIGITS, I8, Operand, is_digits, to_codes


class Sums:
    """The steps of `a + b` or `a - b`, of operands of so many digits."""

    alphabet = DIGITS

    def __init__(self, sign: str, digits: int, decimals: int, signed: bool) -> None:
        self._width = digits + signed
        self.operands_width = 2 * self._width
        self.answer_width = digits + 1
        self.answer_decimals = decimals
        self._subtracts = sign == "-"
        self._signed = signed

    def operands(self, a: int, b: int) -> tuple[str, str]:
        """Two numbers as they stand in the prompt."""
        first, second = (str(value % 10**self._width).rjust(self._width, "0") for value in (a, b))
        return first, second

    def operand_codes(self, a: Operand, b: Operand) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The characters of numbers as they stand in the prompt, each [width, n]."""
        first, second = (to_codes(self._in_prompt(number)[::-1]) for number in (a, b))
        return first, second

    def _in_prompt(self, operand: Operand) -> list[I8]:
        """The digits of numbers as they stand in the prompt, lowest first."""
        return _carried([operand.sign * digit for digit in operand.digits]) if self._signed else operand.digits

    def answer_codes(self, a: Operand, b: Operand, chance: U64) -> NDArray[np.uint8]:
        """[answer_width, n] the characters of the answers."""
        sign_a, sign_b = a.sign, -b.sign if self._subtracts else b.sign
        return to_codes(_carried([sign_a * x + sign_b * y for x, y in zip(a.digits, b.digits, strict=True)]))

    def answer(self, written: str) -> int | None:
        """The number that was written; None where there is none."""
        if not is_digits(written, self.answer_width):
            return None
        value, modulus = int(written[::-1]), int(10**self.answer_width)
        return value - modulus if 2 * value >= modulus else value


def _carried(columns: list[I8]) -> list[I8]:
    """The digits of a number given as columns of small integers, lowest first, and one more; in ten's complement."""
    digits, carry = [], np.zeros_like(columns[0])
    for column in columns:
        total = column + carry
        carry = total // 10
        digits.append(total - 10 * carry)
    return [*digits, carry % 10]

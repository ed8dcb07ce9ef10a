"""Products: `12.5*7.3=91.25` is `125*073=(15)73(42)(21)9190`.

For each digit of b, and in it for each digit of a, lowest first, comes a total of the running sum at their place, their
product and the carry, in one character, which has letters and others for what is past 9. Its units stay at their place,
its tens are the next carry: each step needs two digits and two totals. The answer is read off the totals. With signed
operands a sign stands before each, and before the answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.shuffle import U64
from popgpt.tasks.calculator.worked.digits import I8, Operand, SignedDigits, characters, integers, to_codes


class Products(SignedDigits):
    """The steps of `a * b`, of operands of so many digits."""

    def __init__(self, digits: int, decimals: int, signed: bool) -> None:
        super().__init__(digits, signed)
        self.alphabet = characters(0, 99) + self.signs
        self.operands_width = 2 * (digits + signed)
        self.answer_width = digits * digits + signed
        self.answer_decimals = 2 * decimals

    def operands(self, a: int, b: int) -> tuple[str, str]:
        """Two numbers as they stand in the prompt."""
        first, second = (self.with_sign(value < 0, str(abs(value)).rjust(self._digits, "0")) for value in (a, b))
        return first, second

    def operand_codes(self, a: Operand, b: Operand) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The characters of numbers as they stand in the prompt, each [width, n]."""
        first, second = (self.with_signs(number.negative, to_codes(number.digits[::-1])) for number in (a, b))
        return first, second

    def answer_codes(self, a: Operand, b: Operand, chance: U64) -> NDArray[np.uint8]:
        """[answer_width, n] the characters of the answers."""
        sums, written = [np.zeros_like(a.digits[0])] * self._digits, list[I8]()
        for factor in b.digits:
            carry = np.zeros_like(factor)
            totals = []
            for digit, so_far in zip(a.digits, sums, strict=True):
                totals.append(so_far + digit * factor + carry)
                carry = totals[-1] // 10
            written += totals
            sums = [*(total % 10 for total in totals[1:]), carry]
        return self.with_signs(a.negative ^ b.negative, to_codes(written))

    def answer(self, written: str) -> int | None:
        """The number that was written; None where there is none."""
        sign, steps = self.split_sign(written)
        totals = integers(steps)
        if not sign or totals is None or len(totals) != self._digits**2 or min(totals) < 0:
            return None
        row = self._digits
        digits = [total % 10 for total in (*totals[:-row:row], *totals[-row:])]
        return sign * sum(digit * 10**place for place, digit in enumerate([*digits, totals[-1] // 10]))

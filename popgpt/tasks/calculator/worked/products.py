"""Products: `12.5*7.3=91.25` is `125*073=517030241290109000`.

For each digit of b, and in it for each digit of a, lowest first, comes the running sum at their place, to which their
product and the carry are added: its units, then the new carry. Each step needs two digits, one place of the sum so far
and one carry. The answer is read off the units. With signed operands a sign stands before each, and before the answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.shuffle import U64
from popgpt.tasks.calculator.worked.digits import DIGITS, Operand, SignedDigits, is_digits, to_codes


class Products(SignedDigits):
    """The steps of `a * b`, of operands of so many digits."""

    def __init__(self, digits: int, decimals: int, signed: bool) -> None:
        super().__init__(digits, signed)
        self.alphabet = DIGITS + self.signs
        self.answer_width = 2 * digits * digits + signed
        self.answer_decimals = 2 * decimals

    def answer_codes(self, a: Operand, b: Operand, chance: U64) -> NDArray[np.uint8]:
        """[answer_width, n] the characters of the answers."""
        zero = np.zeros_like(a.digits[0])
        total, written = [zero] * (2 * self._digits), []
        for row, factor in enumerate(b.digits):
            carry = zero
            for place, digit in enumerate(a.digits, row):
                step = total[place] + digit * factor + carry
                carry = step // 10
                total[place] = step - 10 * carry
                written += [total[place], carry]
            total[row + self._digits] = carry
        return self.with_signs(a.negative ^ b.negative, to_codes(written))

    def answer(self, written: str) -> int | None:
        """The number that was written; None where there is none."""
        sign, steps = self.split_sign(written)
        row = 2 * self._digits
        if not sign or not is_digits(steps, row * self._digits):
            return None
        digits = steps[:-row:row] + steps[-row::2] + steps[-1]
        return sign * int(digits[::-1])

"""Quotients by signed digits: `1/8=0.12` is `00100/800=010000010000010100(-8)0200(-16)0000021000`.

Both operands are multiplied by the power of ten that brings the divisor's first digit to the front. So the digits of a
remainder and of the divisor that a step has to look at first stand at the same places whatever the divisor's length.

The first digits of the dividend, one less than the divisor has, are the first remainder. A step appends the dividend's
next digit to the remainder r and takes q times the divisor b away: 10 r + next - q b. It writes q, then for each place
of the new remainder, lowest first, the total of what stands there, less q times the divisor's digit, and the carry, in
one character: the units are the new digit, the tens are the next carry. Then comes what is left on top: -1 where the
remainder is negative. After the last step 2 r - b is written likewise, which says how to round, halves to the even
quotient; then the answer, lowest digit first.

q is floor(x + u), where x is the exact multiple and u is drawn for each step from 0.05 to 0.45. So no step needs an
exact comparison: near a whole number either q will do, because the next ones may be negative or ten. With signed
operands a sign stands before each, and before the steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.shuffle import U64, derive_key, mix
from popgpt.tasks.calculator.worked.digits import (
    I8,
    Operand,
    SignedDigits,
    characters,
    digits_value,
    is_digits,
    to_codes,
)

U_LOW, U_HIGH = 0.05, 0.45


class Quotients(SignedDigits):
    """The steps of `a / b`, of operands of so many digits, to so many decimals."""

    def __init__(self, digits: int, result_decimals: int, signed: bool) -> None:
        super().__init__(digits, signed)
        self.alphabet = characters(-100, 59) + self.signs  # q is from -5 to 10
        self.answer_decimals = result_decimals
        self._steps = digits + result_decimals
        self.operands_width = 3 * digits - 1 + 2 * signed
        remainder = digits + 1
        self.answer_width = signed + self._steps * (1 + remainder) + remainder + self._steps

    def operands(self, a: int, b: int) -> tuple[str, str]:
        """Two numbers as they stand in the prompt."""
        shift = self._digits - len(str(abs(b)))
        dividend, divisor = str(abs(a) * 10**shift).rjust(2 * self._digits - 1, "0"), str(abs(b) * 10**shift)
        return self.with_sign(a < 0, dividend), self.with_sign(b < 0, divisor)

    def operand_codes(self, a: Operand, b: Operand) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The characters of numbers as they stand in the prompt, each [width, n]."""
        dividend, divisor = self._aligned(a, b)
        return (
            self.with_signs(a.negative, to_codes(dividend[::-1])),
            self.with_signs(b.negative, to_codes(divisor[::-1])),
        )

    def _aligned(self, a: Operand, b: Operand) -> tuple[list[I8], list[I8]]:
        """The digits of both, lowest first, where the divisor's first digit is at the front; none stays if it is 0."""
        divisor, dividend = b.digits, [*a.digits, *[np.zeros_like(a.digits[0])] * (self._digits - 1)]
        for _ in range(self._digits - 1):
            low = divisor[-1] == 0
            dividend, divisor = _shifted(dividend, low), _shifted(divisor, low)
        return dividend, divisor

    def answer_codes(self, a: Operand, b: Operand, chance: U64) -> NDArray[np.uint8]:
        """[answer_width, n] the characters of the answers. chance: [n] a hash of each line, for its u."""
        dividend, b_digits = self._aligned(a, b)
        first, rest = dividend[self._digits :], dividend[: self._digits][::-1]
        divisor, remainder = (digits_value(number, len(chance)) for number in (b_digits, first))
        zero = np.zeros_like(a.digits[0])
        digits, top = [*first, zero], zero
        quotient: list[I8] = []
        written: list[I8] = []
        for step, following in enumerate([*rest, *[zero] * self.answer_decimals]):
            q = np.floor((remainder * 10.0 + following) / divisor + _draw_u(chance, step)).astype(np.int8)
            remainder = remainder * 10 + following - q * divisor  # past int64 on its way, perhaps, but not in the end
            steps, digits, top = _subtract([following, *digits[:-1]], digits[-1] + 10 * top, q, b_digits)
            quotient.append(q)
            written += [q, *steps]
        steps, _, _ = _subtract([2 * digit for digit in digits], 2 * top, np.ones_like(top), b_digits)
        excess = 2 * remainder - divisor
        rounds_up = (excess > 0) | (excess == 0) & (quotient[-1] % 2 == 1)
        written += [*steps, *_carry_quotient(quotient, rounds_up)]
        return self.with_signs(a.negative ^ b.negative, to_codes(written))

    def answer(self, written: str) -> int | None:
        """The number that was written; None where there is none."""
        sign, steps = self.split_sign(written)
        digits = steps[-self._steps :]
        if not sign or len(written) != self.answer_width or not is_digits(digits, self._steps):
            return None
        return sign * int(digits[::-1])


def _shifted(digits: list[I8], where: NDArray[np.bool_]) -> list[I8]:
    """The digits, lowest first, of numbers that are multiplied by ten where it says so; the highest must be 0 there."""
    return [
        np.where(where, lower, digit)
        for lower, digit in zip([np.zeros_like(digits[0]), *digits[:-1]], digits, strict=True)
    ]


def chance_of(numbers: NDArray[Any], seed: int, epoch: int) -> U64:
    """[n] a hash of each line's number, another one in each epoch."""
    return mix(np.asarray(numbers).astype(np.uint64) ^ np.uint64(derive_key("worked", seed, epoch)))


def _draw_u(chance: U64, step: int) -> NDArray[np.float64]:
    """[n] numbers from U_LOW to U_HIGH."""
    bits = mix(chance + np.uint64(step)) >> np.uint64(32)
    share: NDArray[np.float64] = bits / 2.0**32
    return share * (U_HIGH - U_LOW) + U_LOW


def _subtract(digits: list[I8], top: I8, q: I8, b: list[I8]) -> tuple[list[I8], list[I8], I8]:
    """What is written of a number less q b, its digits, and what is left on top of them."""
    written, found, carry = [], [], np.zeros_like(top)
    for digit, taken in zip(digits, b, strict=True):
        total = digit - q * taken + carry
        carry = total // 10
        found.append(total - 10 * carry)
        written.append(total)
    return [*written, top + carry], found, top + carry


def _carry_quotient(quotient: list[I8], rounds_up: NDArray[np.bool_]) -> list[I8]:
    """The digits from 0 to 9, lowest first, of a quotient in signed digits, highest first."""
    digits, carry = [], rounds_up.astype(np.int8)
    for digit in quotient[::-1]:
        total = digit + carry
        carry = total // 10
        digits.append(total - 10 * carry)
    return digits

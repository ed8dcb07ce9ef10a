"""The calculator's `worked` view: each operation in steps of its own, in a fixed width, at positions of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.text import I64, NEWLINE, Text, first_at_or_after, kinds, prompt_ends
from popgpt.tasks.calculator.worked.digits import Operand, decimal_text, legible, read_operand
from popgpt.tasks.calculator.worked.products import Products
from popgpt.tasks.calculator.worked.quotients import Quotients, chance_of
from popgpt.tasks.calculator.worked.sums import Sums
from popgpt.tasks.views import Question, Reading
from popgpt.text.errors import UserError, shortened

SEPARATOR = "="
_OPERATIONS = "+-*/"
_CHUNK = 2**13
_NUMBER = r"(-?)([0-9]+)(?:\.([0-9]+))?"
_PROMPT = re.compile(rf"{_NUMBER}([-+*/]){_NUMBER}")

Steps = Sums | Products | Quotients


class _Operation:
    """An operation of a dataset: the digits of its operands, its steps, and the position of its lines' first character.

    prompt_width: characters of a prompt, its separator included. length: of a line, its newline not counted.
    """

    def __init__(self, sign: str, integer: int, decimals: int, result_decimals: int, signed: bool, origin: int) -> None:
        digits = integer + decimals
        self.steps: Steps
        if sign == "*":
            self.steps = Products(digits, decimals, signed)
        elif sign == "/":
            self.steps = Quotients(digits, result_decimals, signed)
        else:
            self.steps = Sums(sign, digits, decimals, signed)
        self.sign, self.integer, self.decimals, self.origin = sign, integer, decimals, origin
        self.prompt_width = self.steps.operands_width + len(sign) + len(SEPARATOR)
        self.length = self.prompt_width + self.steps.answer_width


class WorkedView:
    """A `View` of the calculator's lines of two operands; its widths follow from the dataset's options.

    Args:
        integer_digits, decimals: one number, or one for each operation.

    Raises:
        UserError: options whose lines it can't hold.
    """

    keeps_lines = False

    def __init__(
        self,
        *,
        operations: str,
        integer_digits: int | Mapping[Any, int],
        decimals: int | Mapping[Any, int],
        result_decimals: int,
        signed: bool = False,
        terms: int = 2,
        parentheses: bool = False,
    ) -> None:
        if terms > 2 or parentheses:
            raise UserError(
                f"view='worked' holds prompts of two operands, not terms={terms} or parentheses={parentheses}: "
                "use terms=2, or view='plain'"
            )
        self._signed = signed
        self._operations: dict[str, _Operation] = {}
        self.positions = 0
        for sign in sorted(operations, key=_OPERATIONS.index):
            integer, places = (
                int(value[sign] if isinstance(value, Mapping) else value) for value in (integer_digits, decimals)
            )
            operation = _Operation(sign, integer, places, result_decimals, signed, self.positions)
            self._operations[sign] = operation
            self.positions += operation.length + len(NEWLINE)

    @property
    def alphabet(self) -> str:
        """Every character that a model reads or writes, sorted, the newline not among them."""
        steps = "".join(operation.steps.alphabet for operation in self._operations.values())
        return "".join(sorted({*steps, *self._operations, SEPARATOR}))

    @property
    def longest_line(self) -> int:
        """Characters of a line at most, as a model reads it, the newline not counted."""
        return max(operation.length for operation in self._operations.values())

    @property
    def longest_answer(self) -> int:
        """Characters that a model writes at most, the newline not counted."""
        return max(operation.steps.answer_width for operation in self._operations.values())

    def lengths(self, text: Text) -> I64:
        """[n] characters of each visible line as a model reads it, its newline not counted: its operation tells."""
        found = kinds(text, prompt_ends(text, SEPARATOR), _OPERATIONS)
        lengths = [self._operations[sign].length if sign in self._operations else 0 for sign in _OPERATIONS]
        return np.array([*lengths, 0], np.int64)[found]

    def read(self, text: Text, numbers: NDArray[Any], seed: int, epoch: int) -> Reading:
        """The lines of `text` as a model reads them: a pure function of each line, its number, the seed and the epoch.

        The steps are worked out from the prompts, so that the visible answers are not looked at.

        Args:
            numbers: [n] the lines' numbers in their split, for the quotients' u.

        Raises:
            UserError: a line that the view can't hold.
        """
        chance = chance_of(numbers, seed, epoch)
        offsets = text.offsets.astype(np.int64)
        parts = [
            self._read(Text(text.codes, offsets[at : at + _CHUNK + 1]), chance[at : at + _CHUNK])
            for at in range(0, max(len(numbers), 1), _CHUNK)
        ]
        codes, lengths, prompts, origins = (np.concatenate(part) for part in zip(*parts, strict=True))
        starts = np.concatenate(([0], np.cumsum(lengths)))
        return Reading(Text(codes, starts), starts[:-1] + prompts - 1, origins)

    def _read(self, text: Text, chance: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], I64, I64, I64]:
        """Of a few lines: the codes, and [n] the lengths with newlines, the prompts' widths, the origins."""
        first, last = int(text.offsets[0]), int(text.offsets[-1])
        codes, offsets = text.codes[first:last], text.offsets - first
        text = Text(codes, offsets)
        ends, points = prompt_ends(text, SEPARATOR), np.flatnonzero(codes == ord("."))
        signs = np.flatnonzero(np.isin(codes, np.frombuffer(_OPERATIONS.encode(), np.uint8)))
        places = first_at_or_after(signs, offsets[:-1] + 1, ends)
        sign_of = codes[places]
        wanted = {sign: np.flatnonzero(sign_of == ord(sign)) for sign in self._operations}
        lengths, prompts, origins = (np.zeros(len(places), np.int64) for _ in range(3))
        for sign, rows in wanted.items():
            operation = self._operations[sign]
            lengths[rows] = operation.length + len(NEWLINE)
            prompts[rows], origins[rows] = operation.prompt_width, operation.origin
        self._check(text, ends, lengths == 0)
        starts = np.cumsum(lengths) - lengths
        written = np.empty(int(lengths.sum()), np.uint8)
        for sign, rows in wanted.items():
            operation = self._operations[sign]
            width = (operation.integer, operation.decimals, self._signed)
            a, bad_a = read_operand(codes, points, offsets[rows], places[rows], *width)
            b, bad_b = read_operand(codes, points, places[rows] + 1, ends[rows], *width)
            bad = np.zeros(len(places), np.bool_)
            bad[rows] = bad_a | bad_b | (b.value == 0 if sign == "/" else False)
            self._check(text, ends, bad)
            columns = _line_codes(operation, a, b, chance[rows])
            written[starts[rows] + np.arange(len(columns))[:, None]] = columns
        return written, lengths, prompts, origins

    def _check(self, text: Text, ends: I64, bad: NDArray[np.bool_]) -> None:
        """Raises UserError for the first of the lines that are bad."""
        if not bad.any():
            return
        line = int(np.argmax(bad))
        prompt = "".join(map(chr, text.codes[text.offsets[line] : ends[line]]))
        self.ask(prompt)
        raise UserError(f"line {shortened(prompt)} is none that the calculator writes; use view='plain'")

    def ask(self, prompt: str) -> Question:
        """What a model is asked for a visible prompt. Raises UserError where the view can't hold it."""
        operation, operands = self._parse(prompt)
        a, b = operation.steps.operands(*operands)
        asked = f"{a}{operation.sign}{b}{SEPARATOR}"
        return Question(asked, operation.origin, operation.steps.answer_width)

    def answer(self, prompt: str, written: str) -> str | None:
        """The visible answer that a model wrote, its newline left out; None where what it wrote makes no sense."""
        operation, _ = self._parse(prompt)
        value = operation.steps.answer(written)
        return None if value is None else decimal_text(value, operation.steps.answer_decimals)

    def legible(self, text: str) -> str:
        """Characters that a model reads or writes, with the totals of steps as numbers in parentheses."""
        return legible(text)

    def _parse(self, prompt: str) -> tuple[_Operation, list[int]]:
        """The operation of a prompt, and its operands in units of their last possible decimal."""
        match = _PROMPT.fullmatch(prompt)
        if not match:
            raise UserError(
                f"prompt {shortened(prompt)} is not two numbers with one of {' '.join(_OPERATIONS)} between"
            )
        sign = match[4]
        if sign not in self._operations:
            raise UserError(f"prompt {shortened(prompt)}: this dataset has {' '.join(self._operations)}, not {sign!r}")
        operation = self._operations[sign]
        operands = [self._operand(prompt, operation, *match.group(at, at + 1, at + 2)) for at in (1, 5)]
        if sign == "/" and not operands[1]:
            raise UserError(f"prompt {shortened(prompt)} divides by 0")
        return operation, operands

    def _operand(self, prompt: str, operation: _Operation, minus: str, whole: str, part: str | None) -> int:
        part = part or ""
        if minus and not self._signed:
            raise UserError(f"prompt {shortened(prompt)} has a negative operand; this dataset has none (signed=False)")
        if len(whole) > operation.integer or len(part) > operation.decimals:
            raise UserError(
                f"prompt {shortened(prompt)} is too wide: operands of {operation.sign!r} have at most "
                f"{operation.integer} digits before the point and {operation.decimals} after it"
            )
        value = int(whole + part.ljust(operation.decimals, "0"))
        return -value if minus else value


def _line_codes(operation: _Operation, a: Operand, b: Operand, chance: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """[length + 1, n] the characters of lines with these operands."""
    steps, count = operation.steps, len(chance)

    def constant(character: str) -> NDArray[np.uint8]:
        return np.full((1, count), ord(character), np.uint8)

    first, second = steps.operand_codes(a, b)
    prompt = (first, constant(operation.sign), second, constant(SEPARATOR))
    return np.concatenate((*prompt, steps.answer_codes(a, b, chance), constant(NEWLINE)))

"""The calculator's lines: any of them from its number, many at once. Which prompts there are is the grammar's."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.shuffle import U64, derive_key, mix
from popgpt.lines.text import I64, Text
from popgpt.tasks.calculator.arithmetic import divide_half_even, evaluate, scale
from popgpt.tasks.calculator.grammar import Grammar, Tree
from popgpt.text.errors import UserError

if TYPE_CHECKING:
    from popgpt.tasks.calculator.task import Calculator

_CHUNK = 2**15
_LIMIT = 2**62


class CalculatorLines:
    """`lines` distinct prompts with their answers, in an order that `seed` decides. Raises UserError if impossible."""

    def __init__(self, task: Calculator, lines: int, seed: int) -> None:
        self._lines = lines
        self._separator = task.separator
        self._result_decimals = task.result_decimals
        self._signed = task.signed
        self._grammar = Grammar(task, lines, seed)
        self._forms = self._grammar.forms
        self._integer, self._places = self._grammar.integer_digits, self._grammar.places
        self._answer_places, self._answer_bound = self._bound_answers()

    def __len__(self) -> int:
        return self._lines

    @property
    def alphabet(self) -> str:
        """Every character that a line of these options may hold, the newline not among them."""
        signs = "".join(
            sign for form in self._forms for part in (form.prefixes, form.suffixes) for sign in "".join(part)
        )
        minus = "-" if self._signed or "-" in signs else ""
        point = "." if self._answer_places or self._places else ""
        return "".join(sorted({*"0123456789", *signs, *minus, *point, self._separator}))

    def text(self, lines: NDArray[Any]) -> Text:
        """The lines with these numbers [n], from range(len(self)), as ASCII bytes with offsets [n + 1]."""
        parts = [self._text(lines[at : at + _CHUNK]) for at in range(0, len(lines), _CHUNK)]
        sizes = np.concatenate([size for _, size in parts]) if parts else np.zeros(0, np.int64)
        codes = np.concatenate([codes for codes, _ in parts]) if parts else np.zeros(0, np.uint8)
        return Text(codes, np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))))

    def keys(self, lines: NDArray[Any]) -> U64:
        """[n] hashes of the canonical prompts: alike for a+b and b+a, and for any order of a sum's or product's parts.

        Which lines: numbers [n] from range(len(self)).
        """
        parts = [self._keys(lines[at : at + _CHUNK]) for at in range(0, len(lines), _CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)

    def _bound_answers(self) -> tuple[int, int]:
        """Decimals of an answer at most, and a bound on all that working one out needs. Raises UserError past int64."""
        largest = [10 ** (self._integer + self._places)] * len(self._forms[0].prefixes)
        values = [evaluate(form.tree, largest, self._places, operator.add) for form in self._forms]
        places = max(self._result_decimals if value.denominator else value.places for value in values)
        bounds = [
            bound * 10 ** (places - self._result_decimals if value.denominator else 0)
            for value in values
            for bound in scale(value, self._result_decimals, places)
            if bound is not None
        ]
        if max(bounds) >= _LIMIT:
            raise UserError(
                f"answers need numbers up to {max(bounds):.1e}, past the limit of {_LIMIT:.1e}: "
                "use fewer integer_digits, decimals, result_decimals or terms"
            )
        return places, max(bounds)

    def _answers(self, form: NDArray[np.int64], operands: list[I64]) -> I64:
        """[n] the answers, scaled by 10**answer_places."""
        answers = np.empty(len(form), np.int64)
        for number, tree in enumerate(form.tree for form in self._forms):
            rows = np.flatnonzero(form == number)
            if rows.size:
                value = evaluate(tree, [values[rows] for values in operands], self._places, operator.sub)
                top, bottom = scale(value, self._result_decimals, self._answer_places)
                if bottom is not None:
                    top = divide_half_even(top, bottom) * 10 ** (self._answer_places - self._result_decimals)
                answers[rows] = top
        return answers

    def _text(self, lines: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The codes [C] of the lines, and how many [n] each has."""
        form, kinds, operands = self._grammar.operands(lines)
        columns: list[NDArray[np.uint8]] = []
        for slot, (kind, values) in enumerate(zip(kinds, operands, strict=True)):
            columns += self._literals(form, [f.prefixes[slot] for f in self._forms])
            columns += self._operand_columns(kind, values)
            columns += self._literals(form, [f.suffixes[slot] for f in self._forms])
        columns += self._literals(form, [self._separator] * len(self._forms))
        columns += _answer_columns(self._answers(form, operands), self._answer_places, self._answer_bound)
        columns += self._literals(form, ["\n"] * len(self._forms))
        matrix = np.stack(columns, axis=1)
        return matrix[matrix != 0], np.count_nonzero(matrix, axis=1)

    def _literals(self, form: NDArray[np.int64], texts: Sequence[str]) -> list[NDArray[np.uint8]]:
        """Columns [n] of the text that each form has here; 0 where it has none."""
        width = max(map(len, texts))
        table = np.array([list(text.ljust(width, "\0").encode()) for text in texts], np.uint8).reshape(
            len(texts), width
        )
        return [column[form] for column in table.T]

    def _operand_columns(self, kind: NDArray[np.int64], values: I64) -> list[NDArray[np.uint8]]:
        """Columns [n] of an operand's characters; 0 where it is shorter."""
        integer, decimals = self._grammar.table.integer[kind], self._grammar.table.decimals[kind]
        columns = _digit_columns(np.abs(values), self._integer + self._places, 10 ** (self._integer + self._places))
        for place, column in enumerate(columns):
            column *= place >= self._integer - integer if place < self._integer else place < self._integer + decimals
        point = [(decimals > 0) * np.uint8(ord("."))] if self._places else []
        sign = [(values < 0) * np.uint8(ord("-"))] if self._signed else []
        return [*sign, *columns[: self._integer], *point, *columns[self._integer :]]

    def _keys(self, lines: NDArray[Any]) -> U64:
        form, _, operands = self._grammar.operands(lines)
        keys = np.empty(len(form), np.uint64)
        for number, tree in enumerate(form.tree for form in self._forms):
            rows = np.flatnonzero(form == number)
            keys[rows] = _tree_key(tree, [values[rows].view(np.uint64) for values in operands])
        return keys


def _digit_columns(values: I64, count: int, bound: int) -> list[NDArray[np.uint8]]:
    """The last `count` digits of values [n] below `bound`, as columns of ASCII characters, highest first."""
    rest: Any = values.astype(np.uint32 if bound < 2**32 else np.uint64)
    ten = rest.dtype.type(10)
    columns = []
    for _ in range(count):
        higher = rest // ten
        columns.append((rest - higher * ten).astype(np.uint8) + np.uint8(ord("0")))
        rest = higher
    return columns[::-1]


def _answer_columns(answers: I64, places: int, bound: int) -> list[NDArray[np.uint8]]:
    """Columns [n] of answers scaled by 10**places: no leading and no trailing zeros; 0 where there is no character."""
    sizes = np.abs(answers)
    digits = max(len(str(int(sizes.max(initial=0)))), places + 1)
    columns = _digit_columns(sizes, digits, bound)
    started = np.zeros(len(answers), np.bool_)
    for column in columns[: digits - places - 1]:
        started |= column != ord("0")
        column *= started
    ended = np.zeros(len(answers), np.bool_)
    for column in columns[digits - places :][::-1]:
        ended |= column != ord("0")
        column *= ended
    point = [ended * np.uint8(ord("."))] if places else []
    return [(answers < 0) * np.uint8(ord("-")), *columns[: digits - places], *point, *columns[digits - places :]]


def _tree_key(tree: Tree, operands: list[U64]) -> U64:
    """[n] a hash of a tree's value's canonical form: the parts of a sum, or of a product, in any order."""
    if isinstance(tree, int):
        return mix(operands[tree] + np.uint64(derive_key("operand")))
    family = "+-" if tree[0] in "+-" else "*/"
    return mix(_sum_of_parts(tree, family, operands) ^ np.uint64(derive_key(family)))


def _sum_of_parts(tree: Tree, family: str, operands: list[U64]) -> U64:
    """[n] the sum of the hashes of a sum's terms or a product's factors; those taken away are hashed once more."""
    if isinstance(tree, int) or tree[0] not in family:
        return _tree_key(tree, operands)
    sign, left, right = tree
    if sign in "+*":
        return _sum_of_parts(left, family, operands) + _sum_of_parts(right, family, operands)
    return _sum_of_parts(left, family, operands) + mix(_tree_key(right, operands) + np.uint64(derive_key(sign)))

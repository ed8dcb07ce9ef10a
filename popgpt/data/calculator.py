"""The calculator's lines: exact arithmetic in scaled integers, any line at once from its number.

Nothing else in the package knows arithmetic. A *form* is what a prompt looks like without its operands, `a+b` or
`(a-b)*c`; a *cell* is a form with the shape of each operand. Lines are shared out between operations, then cells.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgpt.config import Config, UserError
from popgpt.data.lines import Text
from popgpt.data.operands import I64, operand, shape_table, shapes
from popgpt.data.shuffle import LARGEST, U64, derive_key, mix, permute

OPTIONS = (
    "operations",
    "operation_weights",
    "integer_digits",
    "decimals",
    "result_decimals",
    "quotients",
    "signed",
    "terms",
    "parentheses",
    "balance",
)
SEPARATOR = "="
MOST_CELLS = 2**18
_CHUNK = 2**15
_LIMIT = 2**62

Tree = int | tuple[str, Any, Any]
"""An operand's number, or an operation and what stands on its two sides."""


class Form(NamedTuple):
    """A prompt without its operands: `prefixes[i]` and `suffixes[i]` stand round operand i."""

    operations: str
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    tree: Tree


class Value(NamedTuple):
    """numerator / (denominator * 10**places); arrays, or integers that bound them. No denominator: no quotient."""

    numerator: Any
    denominator: Any
    places: int


def forms(operations: str, terms: int, parentheses: bool) -> list[Form]:
    """Every form, by operations. A pair of parentheses stands only where it changes what is done first."""
    found = []
    for chosen in product(operations, repeat=terms - 1):
        plain = _parse(chosen, None)
        groups = [(i, j) for i in range(terms) for j in range(i + 1, terms) if parentheses and (i, j) != (0, terms - 1)]
        for group in [None, *groups]:
            tree = _parse(chosen, group)
            if (group is None or tree != plain) and not _divides_by_sum(tree):
                opening = ["(" if group and i == group[0] else "" for i in range(terms)]
                closing = tuple(")" if group and i == group[1] else "" for i in range(terms))
                prefixes = tuple(sign + bracket for sign, bracket in zip(("", *chosen), opening, strict=True))
                found.append(Form("".join(chosen), prefixes, closing, tree))
    return found


def _parse(operations: Sequence[str], group: tuple[int, int] | None, first: int = 0) -> Tree:
    """The tree of operands first, first + 1, ...; those of `group` are worked out first."""
    operands: list[Tree] = list(range(first, first + len(operations) + 1))
    signs = list(operations)
    if group is not None:
        low, high = group[0] - first, group[1] - first
        operands[low : high + 1] = [_parse(signs[low:high], None, group[0])]
        signs[low:high] = []
    for family in ("*/", "+-"):
        at = 0
        while at < len(signs):
            if signs[at] in family:
                operands[at : at + 2] = [(signs.pop(at), operands[at], operands[at + 1])]
            else:
                at += 1
    return operands[0]


def _leaves(tree: Tree) -> list[int]:
    return [tree] if isinstance(tree, int) else _leaves(tree[1]) + _leaves(tree[2])


def _divisors(tree: Tree) -> list[Tree]:
    """Whatever stands to the right of a division."""
    if isinstance(tree, int):
        return []
    return _divisors(tree[1]) + _divisors(tree[2]) + ([tree[2]] if tree[0] == "/" else [])


def _divides_by_sum(tree: Tree) -> bool:
    """Whether a divisor might come out as 0."""

    def sums(part: Tree) -> bool:
        return not isinstance(part, int) and (part[0] in "+-" or sums(part[1]) or sums(part[2]))

    return any(sums(divisor) for divisor in _divisors(tree))


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


def _scaled(value: Value, result_decimals: int, places: int) -> tuple[Any, Any]:
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


def share_out(total: int, sizes: Sequence[int], weights: Sequence[int]) -> list[int]:
    """`total` shared out by weight; who has less than his share gives all, and the others give the rest.

    `total` is at most the sum of `sizes`.
    """
    shares = [0] * len(sizes)
    left, weight_left = total, sum(weights)
    for i in sorted(range(len(sizes)), key=lambda i: (Fraction(sizes[i], weights[i]), i)):
        shares[i] = min(sizes[i], left * weights[i] // weight_left)
        left -= shares[i]
        weight_left -= weights[i]
    return shares


class Cells(NamedTuple):
    """Arrays by cell: form [C], shapes [terms, C] as indices into the shape table, size [C], quota's start [C + 1]."""

    form: NDArray[np.int64]
    shapes: NDArray[np.int64]
    sizes: U64
    starts: U64


class Calculator:
    """`lines` distinct prompts with their answers, in an order that `seed` decides. Raises UserError if impossible."""

    def __init__(self, config: Config, lines: int, seed: int) -> None:
        self._lines = lines
        self._seed = seed
        self._result_decimals = config.result_decimals
        self._signed = config.signed
        self._forms = forms(config.operations, config.terms, config.parentheses)
        self._places = max(_digits(config.decimals, sign) for sign in config.operations)
        self._integer = max(_digits(config.integer_digits, sign) for sign in config.operations)
        self._answer_places, self._answer_bound = self._bound_answers()
        self._cells = self._share_lines(config)

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
        return "".join(sorted({*"0123456789", *signs, *minus, *point, SEPARATOR}))

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
            for bound in _scaled(value, self._result_decimals, places)
            if bound is not None
        ]
        if max(bounds) >= _LIMIT:
            raise UserError(
                f"answers need numbers up to {max(bounds):.1e}, past the limit of {_LIMIT:.1e}: "
                "use fewer integer_digits, decimals, result_decimals or terms"
            )
        return places, max(bounds)

    def _share_lines(self, config: Config) -> Cells:
        known: dict[Any, int] = {}
        by_form = []
        for form in self._forms:
            nonzero = {leaf for divisor in _divisors(form.tree) for leaf in _leaves(divisor)}
            by_form.append(
                [
                    [known.setdefault(shape, len(known)) for shape in _slot_shapes(config, form, slot, slot in nonzero)]
                    for slot in range(config.terms)
                ]
            )
        count = sum(prod(map(len, slots)) for slots in by_form)
        if count > MOST_CELLS:
            raise UserError(
                f"these options make {count} combinations of operand lengths, more than {MOST_CELLS}: "
                "use fewer terms, operations, integer_digits or decimals"
            )
        self._table = shape_table(list(known), self._places, 2 ** (60 // config.terms))
        grids = [np.stack([grid.ravel() for grid in np.meshgrid(*slots, indexing="ij")]) for slots in by_form]
        sizes = [self._table.ranks[grid].prod(axis=0) for grid in grids]
        weights = [prod(config.operation_weights.get(sign, 1) for sign in form.operations) for form in self._forms]  # type: ignore[call-overload]
        quotas = _quotas(self._lines, sizes, weights)
        form_of_cell = np.repeat(np.arange(len(grids)), [grid.shape[1] for grid in grids])
        starts = np.concatenate(([0], np.cumsum(quotas, dtype=np.uint64))).astype(np.uint64)
        return Cells(form_of_cell, np.concatenate(grids, axis=1), np.concatenate(sizes), starts)

    def _operands(self, lines: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], list[I64]]:
        """The form [n] of each line, the shapes [terms, n] of its operands, and their values [n] each."""
        place = permute(lines, self._lines, derive_key("lines", self._seed))
        cell = np.searchsorted(self._cells.starts, place, side="right") - 1
        size = self._cells.sizes[cell]
        cell_key = mix(cell.astype(np.uint64) + np.uint64(derive_key("cells", self._seed) >> 1))
        index = permute(place - self._cells.starts[cell], size, cell_key)
        salt, kinds, values = index ^ cell_key, self._cells.shapes[:, cell], []
        for slot, kind in enumerate(kinds):
            ranks = self._table.ranks[kind]
            rest = index // ranks
            values.append(operand(self._table, kind, index - rest * ranks, salt + np.uint64(slot)))
            index = rest
        return self._cells.form[cell], kinds, values

    def _answers(self, form: NDArray[np.int64], operands: list[I64]) -> I64:
        """[n] the answers, scaled by 10**answer_places."""
        answers = np.empty(len(form), np.int64)
        for number, tree in enumerate(form.tree for form in self._forms):
            rows = np.flatnonzero(form == number)
            if rows.size:
                value = evaluate(tree, [values[rows] for values in operands], self._places, operator.sub)
                top, bottom = _scaled(value, self._result_decimals, self._answer_places)
                if bottom is not None:
                    top = divide_half_even(top, bottom) * 10 ** (self._answer_places - self._result_decimals)
                answers[rows] = top
        return answers

    def _text(self, lines: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The codes [C] of the lines, and how many [n] each has."""
        form, kinds, operands = self._operands(lines)
        columns: list[NDArray[np.uint8]] = []
        for slot, (kind, values) in enumerate(zip(kinds, operands, strict=True)):
            columns += self._literals(form, [f.prefixes[slot] for f in self._forms])
            columns += self._operand_columns(kind, values)
            columns += self._literals(form, [f.suffixes[slot] for f in self._forms])
        columns += self._literals(form, [SEPARATOR] * len(self._forms))
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
        integer, decimals = self._table.integer[kind], self._table.decimals[kind]
        columns = _digit_columns(np.abs(values), self._integer + self._places, 10 ** (self._integer + self._places))
        for place, column in enumerate(columns):
            column *= place >= self._integer - integer if place < self._integer else place < self._integer + decimals
        point = [(decimals > 0) * np.uint8(ord("."))] if self._places else []
        sign = [(values < 0) * np.uint8(ord("-"))] if self._signed else []
        return [*sign, *columns[: self._integer], *point, *columns[self._integer :]]

    def _keys(self, lines: NDArray[Any]) -> U64:
        form, _, operands = self._operands(lines)
        keys = np.empty(len(form), np.uint64)
        for number, tree in enumerate(form.tree for form in self._forms):
            rows = np.flatnonzero(form == number)
            keys[rows] = _tree_key(tree, [values[rows].view(np.uint64) for values in operands])
        return keys


def _digits(value: Any, sign: str) -> int:
    """A number that is one for all operations, or one for each."""
    return int(value[sign] if isinstance(value, dict) else value)


def _slot_shapes(config: Config, form: Form, slot: int, nonzero: bool) -> list[Any]:
    """The shapes of an operand: the digits are those of the operation before it; of the first operand, after it."""
    sign = form.operations[max(slot - 1, 0)]
    integer, decimals = _digits(config.integer_digits, sign), _digits(config.decimals, sign)
    return shapes(integer, decimals, signed=config.signed, nonzero=nonzero)


def _quotas(lines: int, sizes: list[U64], weights: list[int]) -> list[int]:
    """Lines of each cell, form after form. Raises UserError where there are fewer prompts than lines."""
    totals = [sum(map(int, size)) for size in sizes]
    if lines > min(sum(totals), LARGEST):
        raise UserError(
            f"train_lines + val_lines + test_lines = {lines}, but these options make only {min(sum(totals), LARGEST)} "
            "different prompts: ask for fewer lines, or allow more operations, integer_digits or decimals"
        )
    quotas = []
    for total, size in zip(share_out(lines, totals, weights), sizes, strict=True):
        quotas += share_out(total, [int(cell) for cell in size], [1] * len(size))
    return quotas


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

"""Which prompts there are, and which is the j-th: operations, parentheses and operands, but not what they come to.

A *form* is a prompt without its operands, `a+b` or `(a-b)*c`; a *cell* is a form with the shape of each operand.
Lines are shared out between forms by weight, then evenly between a form's cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.shuffle import LARGEST, U64, derive_key, mix, permute
from popgpt.lines.text import I64
from popgpt.tasks.calculator.operands import Shape, operand, shape_table, shapes
from popgpt.tasks.calculator.pairs import (
    CarryPairs,
    QuotientPairs,
    carry_pairs,
    check_divisors,
    quotient_pairs,
    take_carry_pairs,
    take_quotient_pairs,
)
from popgpt.tasks.numbered import check_enough, share_out
from popgpt.text.errors import UserError

if TYPE_CHECKING:
    from popgpt.tasks.calculator.task import Calculator

MOST_CELLS = 2**18

Tree = int | tuple[str, Any, Any]
"""An operand's number, or an operation and what stands on its two sides."""


class Form(NamedTuple):
    """A prompt without its operands: `prefixes[i]` and `suffixes[i]` stand round operand i."""

    operations: str
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    tree: Tree


def forms(operations: str, terms: int, parentheses: bool) -> list[Form]:
    """Every form, by operations. A pair of parentheses stands only where it changes what is done first."""
    found = []
    for chosen in product(operations, repeat=terms - 1):
        plain = parse(chosen, None)
        groups = [(i, j) for i in range(terms) for j in range(i + 1, terms) if parentheses and (i, j) != (0, terms - 1)]
        for group in [None, *groups]:
            tree = parse(chosen, group)
            if (group is None or tree != plain) and not _divides_by_sum(tree):
                opening = ["(" if group and i == group[0] else "" for i in range(terms)]
                closing = tuple(")" if group and i == group[1] else "" for i in range(terms))
                prefixes = tuple(sign + bracket for sign, bracket in zip(("", *chosen), opening, strict=True))
                found.append(Form("".join(chosen), prefixes, closing, tree))
    return found


def parse(operations: Sequence[str], group: tuple[int, int] | None, first: int = 0) -> Tree:
    """The tree of operands first, first + 1, ...; those of `group` are worked out first."""
    operands: list[Tree] = list(range(first, first + len(operations) + 1))
    signs = list(operations)
    if group is not None:
        low, high = group[0] - first, group[1] - first
        operands[low : high + 1] = [parse(signs[low:high], None, group[0])]
        signs[low:high] = []
    for family in ("*/", "+-"):
        at = 0
        while at < len(signs):
            if signs[at] in family:
                operands[at : at + 2] = [(signs.pop(at), operands[at], operands[at + 1])]
            else:
                at += 1
    return operands[0]


def leaves(tree: Tree) -> list[int]:
    """The operands of a tree, from the left."""
    return [tree] if isinstance(tree, int) else leaves(tree[1]) + leaves(tree[2])


def divisors(tree: Tree) -> list[Tree]:
    """Whatever stands to the right of a division."""
    if isinstance(tree, int):
        return []
    return divisors(tree[1]) + divisors(tree[2]) + ([tree[2]] if tree[0] == "/" else [])


def _divides_by_sum(tree: Tree) -> bool:
    """Whether a divisor might come out as 0."""

    def sums(part: Tree) -> bool:
        return not isinstance(part, int) and (part[0] in "+-" or sums(part[1]) or sums(part[2]))

    return any(sums(divisor) for divisor in divisors(tree))


class Cells(NamedTuple):
    """[C] arrays: the form; shapes [terms, C] as indices into the shape table; how many prompts; the pairs they are
    chosen from, as an index, -1 for any operands; the carries of those pairs. starts: [C + 1] lines before each cell's.
    """

    form: I64
    shapes: I64
    sizes: U64
    pairs: I64
    carries: I64
    starts: U64


class _FormCells(NamedTuple):
    """The cells of a form: shapes [terms, K]; for each of the K, sizes by carries, and its pairs if it has some."""

    shapes: I64
    sizes: list[list[int]]
    pairs: list[CarryPairs | QuotientPairs | None]


class Grammar:
    """The distinct prompts of a task's options, and an order of `lines` of them that `seed` decides.

    forms: all forms. places: decimals of an operand at most; operands are integers scaled by 10**places.
    integer_digits: digits before the point at most. Raises UserError where there are fewer prompts than lines.
    """

    def __init__(self, task: Calculator, lines: int, seed: int) -> None:
        self.forms = forms(task.operations, task.terms, task.parentheses)
        self.places = max(_of_operation(task.decimals, sign) for sign in task.operations)
        self.integer_digits = max(_of_operation(task.integer_digits, sign) for sign in task.operations)
        self._lines = lines
        self._seed = seed
        self._shapes: list[Shape] = []
        slots = [self._number_shapes(task, form) for form in self.forms]
        _check_cells(slots)
        self.table = shape_table(self._shapes, self.places, 2 ** (60 // task.terms))
        parts = [self._form_cells(task, form, slot) for form, slot in zip(self.forms, slots, strict=True)]
        weights = dict(task.operation_weights)
        form_weights = [prod(weights.get(sign, 1) for sign in form.operations) for form in self.forms]  # type: ignore[call-overload]
        self._pairs = [pairs for part in parts for pairs in part.pairs]
        self._cells = _share_lines(lines, parts, form_weights)

    @property
    def size(self) -> int:
        """How many prompts can be drawn. That is all there are, except where there are more than 2**50."""
        return sum(self._cells.sizes.tolist())

    def _number_shapes(self, task: Calculator, form: Form) -> list[list[int]]:
        """The shapes each operand of a form may have, as indices. Its digits are those of the operation before it."""
        nonzero = {leaf for divisor in divisors(form.tree) for leaf in leaves(divisor)}
        slots = []
        for slot in range(task.terms):
            sign = form.operations[max(slot - 1, 0)]
            integer, decimals = _of_operation(task.integer_digits, sign), _of_operation(task.decimals, sign)
            allowed = shapes(integer, decimals, signed=task.signed, nonzero=slot in nonzero)
            self._shapes += [shape for shape in allowed if shape not in self._shapes]
            slots.append([self._shapes.index(shape) for shape in allowed])
        return slots

    def _form_cells(self, task: Calculator, form: Form, slots: list[list[int]]) -> _FormCells:
        grid = np.stack([axis.ravel() for axis in np.meshgrid(*slots, indexing="ij")])
        pairs: list[CarryPairs | QuotientPairs | None] = [None] * grid.shape[1]
        if task.balance == "carries" and form.operations in ("+", "-"):
            carrying = [carry_pairs(self._shapes[a], self._shapes[b], form.operations) for a, b in grid.T]
            return _FormCells(grid, [part.sizes for part in carrying], [*carrying])
        if task.quotients == "exact" and form.operations == "/":
            ending = [self._quotient_pairs(a, b, task.result_decimals) for a, b in grid.T]
            return _FormCells(grid, [[part.size] for part in ending], [*ending])
        sizes = self.table.ranks[grid].prod(axis=0)
        return _FormCells(grid, [[int(size)] for size in sizes], pairs)

    def _quotient_pairs(self, a: int, b: int, result_decimals: int) -> QuotientPairs:
        check_divisors(self._shapes[b])
        ranks = np.arange(self._shapes[b].size, dtype=np.uint64)
        listed = operand(self.table, np.full(len(ranks), b), ranks, ranks)
        return quotient_pairs(self._shapes[a], listed, self.places, result_decimals)

    def operands(self, lines: NDArray[Any]) -> tuple[I64, I64, list[I64]]:
        """The form [n] of each line, the shapes [terms, n] of its operands, and their values [n] each."""
        place = permute(lines, self._lines, derive_key("lines", self._seed))
        cell = np.searchsorted(self._cells.starts, place, side="right") - 1
        keys = mix(cell.astype(np.uint64) + np.uint64(derive_key("cells", self._seed) >> 1))
        index = permute(place - self._cells.starts[cell], self._cells.sizes[cell], keys)
        shape = self._cells.shapes[:, cell]
        values = self._any_operands(shape, index, keys)
        chosen = self._cells.pairs[cell]
        for number in np.unique(chosen[chosen >= 0]):
            rows = np.flatnonzero(chosen == number)
            pairs = self._pairs[number]
            if isinstance(pairs, CarryPairs):
                two = take_carry_pairs(pairs, index[rows], self._cells.carries[cell[rows]], self.places)
            elif pairs is not None:
                two = take_quotient_pairs(pairs, index[rows])
            values[0][rows], values[1][rows] = two
        return self._cells.form[cell], shape, values

    def _any_operands(self, shape: I64, index: U64, keys: U64) -> list[I64]:
        """The operands [n] that the digits of `index` in base (shape's ranks) name, one a slot."""
        salt, values = index ^ keys, []
        for slot, kind in enumerate(shape):
            ranks = self.table.ranks[kind]
            rest = index // ranks
            values.append(operand(self.table, kind, index - rest * ranks, salt + np.uint64(slot)))
            index = rest
        return values


def _of_operation(value: Any, sign: str) -> int:
    """A number that is one for all operations, or one for each."""
    return int(value[sign] if isinstance(value, dict) else value)


def _check_cells(slots: list[list[list[int]]]) -> None:
    count = sum(prod(map(len, slot)) for slot in slots)
    if count > MOST_CELLS:
        raise UserError(
            f"these options make {count} combinations of operand lengths, more than {MOST_CELLS}: "
            "use fewer terms, operations, integer_digits or decimals"
        )


def _share_lines(lines: int, parts: list[_FormCells], weights: list[int]) -> Cells:
    """Lines shared out between forms, then a form's shapes, then their carries."""
    totals = [sum(map(sum, part.sizes)) for part in parts]
    possible = min(sum(totals), LARGEST)
    check_enough(lines, possible, "operations, integer_digits or decimals")
    rows: list[tuple[int, ...]] = []
    at = 0
    for form, (part, total) in enumerate(zip(parts, share_out(lines, totals, weights), strict=True)):
        sums = [sum(sizes) for sizes in part.sizes]
        for sizes, pairs, share in zip(part.sizes, part.pairs, share_out(total, sums, [1] * len(sums)), strict=True):
            number = -1 if pairs is None else at
            quotas = share_out(share, sizes, [1] * len(sizes))
            rows += [
                (form, at, size, number, carries, q)
                for carries, (size, q) in enumerate(zip(sizes, quotas, strict=True))
            ]
            at += 1
    form_of, column, sizes_of, pairs_of, carries_of, quotas_of = (list(values) for values in zip(*rows, strict=True))
    return Cells(
        np.array(form_of),
        np.concatenate([part.shapes for part in parts], axis=1)[:, column],
        np.array(sizes_of, np.uint64),
        np.array(pairs_of),
        np.array(carries_of),
        np.cumsum([0, *quotas_of], dtype=np.uint64),
    )

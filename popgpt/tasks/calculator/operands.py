"""Operands by shape: how many there are of a sign and so many digits, and which is the r-th of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.shuffle import U64, derive_key, mix
from popgpt.lines.text import I64


class Shape(NamedTuple):
    """Numbers of one sign and length: no leading zero before the point, no trailing zero after it.

    integer: digits before the point, from 1. decimals: digits after it, from 0. zero: whether 0 is one of them.
    """

    negative: bool
    integer: int
    decimals: int
    zero: bool

    @property
    def first(self) -> int:
        """The smallest integer part."""
        if self.integer > 1:
            return int(10 ** (self.integer - 1))
        return 0 if self.zero or self.decimals else 1

    @property
    def fractions(self) -> int:
        """How many fractions there are: those whose last decimal is not 0."""
        return int(9 * 10 ** (self.decimals - 1)) if self.decimals else 1

    @property
    def size(self) -> int:
        """How many numbers have this shape."""
        return int(10**self.integer - self.first) * self.fractions


def shapes(integer_digits: int, decimals: int, *, signed: bool, nonzero: bool) -> list[Shape]:
    """Every shape of at most so many digits; a negative number is never 0."""
    return [
        Shape(negative, integer, places, not (nonzero or negative or places))
        for negative in ((False, True) if signed else (False,))
        for integer in range(1, integer_digits + 1)
        for places in range(decimals + 1)
    ]


class ShapeTable(NamedTuple):
    """[shapes] arrays of what `operand` needs of each shape; `stride` of its numbers share a rank."""

    negative: NDArray[np.bool_]
    integer: NDArray[np.uint8]
    decimals: NDArray[np.uint8]
    first: U64
    fractions: U64
    ranks: U64
    stride: U64
    unit: U64


def shape_table(known: list[Shape], places: int, most_ranks: int) -> ShapeTable:
    """The table of `known` shapes, for values scaled by 10**places, with at most about `most_ranks` ranks a shape."""
    strides = [-(-shape.size // most_ranks) for shape in known]

    def column(values: list[int]) -> U64:
        return np.array(values, np.uint64)

    return ShapeTable(
        np.array([shape.negative for shape in known], np.bool_),
        np.array([shape.integer for shape in known], np.uint8),
        np.array([shape.decimals for shape in known], np.uint8),
        column([shape.first for shape in known]),
        column([shape.fractions for shape in known]),
        column([shape.size // stride for shape, stride in zip(known, strides, strict=True)]),
        column(strides),
        column([10 ** (places - shape.decimals) for shape in known]),
    )


def operand(table: ShapeTable, shape: NDArray[np.int64], rank: U64, salt: U64) -> I64:
    """[n] the numbers with these ranks among those of their shape, scaled by 10**places.

    Where a shape has more numbers than ranks, `salt` chooses among the numbers of a rank.
    """
    stride = table.stride[shape]
    if (stride > 1).any():
        rank = rank * stride + mix(salt ^ np.uint64(derive_key("stride"))) % stride
    fractions = table.fractions[shape]
    integer = rank // fractions
    fraction = rank - integer * fractions
    decimals = table.decimals[shape]
    fraction += fraction // np.uint64(9) + (decimals > 0)
    power = np.uint64(10) ** np.arange(10, dtype=np.uint64)
    value = (((integer + table.first[shape]) * power[decimals] + fraction) * table.unit[shape]).astype(np.int64)
    return np.where(table.negative[shape], -value, value)

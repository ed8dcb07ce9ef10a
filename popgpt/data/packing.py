"""Which lengths of lines fill rows together: a cutting-stock heuristic on how many lines have each length."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

_FITTED_LENGTHS = 64


class Pattern(NamedTuple):
    """Lengths of the lines that share a row, and how many rows are like that."""

    lengths: tuple[int, ...]
    rows: int


def pack(counts: Mapping[int, int], room: int) -> list[Pattern]:
    """Rows of `room` that hold lines of these lengths, each line once; counts maps length -> lines.

    A cutting-stock heuristic: it works on lengths, so it costs the same for any number of lines. A pattern serves at
    most an eighth of what is left, so that plentiful lengths stay to fill rows with. Lines beyond `room` are left out.
    """
    left = {length: count for length, count in sorted(counts.items()) if length <= room and count}
    ascending = list(left)
    patterns = []
    while left:
        few = len(left) <= _FITTED_LENGTHS
        lengths = _fill_exactly(left, room) if few else _fill_largest(left, ascending, room)
        used = Counter(lengths)
        rows = min(left[length] // times for length, times in used.items())
        if few:
            rows = min(rows, max(1, sum(length * count for length, count in left.items()) // room // 8))
        patterns.append(Pattern(tuple(lengths), rows))
        for length, times in used.items():
            left[length] -= rows * times
            if not left[length]:
                del left[length]
                del ascending[bisect_left(ascending, length)]
    return patterns


def _fill_exactly(left: Mapping[int, int], room: int) -> list[int]:
    """Lengths that fill a row as far as lengths alone can tell, of those the ones that most lines have."""
    sums = _sums(tuple(left), room)
    used: Counter[int] = Counter()
    while fitting := [length for length, count in left.items() if length <= room and used[length] < count]:
        best = (sums & (2 << room) - 1).bit_length() - 1
        exact = [length for length in fitting if sums >> (best - length) & 1]
        chosen = max(exact, key=lambda length: left[length] // (used[length] + 1)) if exact else fitting[-1]
        used[chosen] += 1
        room -= chosen
    return list(used.elements())


def _fill_largest(left: Mapping[int, int], ascending: list[int], room: int) -> list[int]:
    """Lengths for a row, each the longest that fits."""
    lengths: list[int] = []
    at = len(ascending)
    while at := bisect_right(ascending, room, hi=at):
        at -= 1
        times = min(room // ascending[at], left[ascending[at]])
        lengths += [ascending[at]] * times
        room -= times * ascending[at]
    return lengths


@lru_cache(maxsize=256)
def _sums(lengths: tuple[int, ...], room: int) -> int:
    """The sums up to `room` that these lengths can make, as bits."""
    sums = 1
    for length in lengths:
        step = length
        while step <= room:
            sums |= sums << step & (2 << room) - 1
            step *= 2
    return sums

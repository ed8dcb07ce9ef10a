"""The lines of a task whose prompts have numbers: as many of each kind, in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.shuffle import LARGEST, U64, derive_key, mix, permute
from popgpt.lines.text import Text, join_lines, to_utf8
from popgpt.tasks.base import NumberedTask
from popgpt.text.errors import UserError


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


def check_enough(lines: int, possible: int, more: str) -> None:
    """Raises UserError where a task has fewer prompts than lines are asked for. more: which options make more."""
    if lines > possible:
        raise UserError(
            f"train_lines + val_lines + test_lines = {lines}, but these options make only {possible} "
            f"different prompts: ask for fewer lines, or allow more {more}"
        )


class NumberedLines:
    """`lines` of a task's prompts with their answers. Raises UserError where there are fewer prompts than lines."""

    alphabet = ""

    def __init__(self, task: NumberedTask, lines: int, seed: int) -> None:
        sizes = [min(size, LARGEST) for size in task.sizes()]
        check_enough(lines, min(sum(sizes), LARGEST), "by the task's options")
        self._task = task
        self._lines = lines
        self._seed = seed
        self._sizes = np.array(sizes, np.uint64)
        self._first = [0, *accumulate(task.sizes())]
        self._starts = np.cumsum([0, *share_out(lines, sizes, [1] * len(sizes))], dtype=np.uint64)

    def __len__(self) -> int:
        return self._lines

    def text(self, lines: NDArray[Any]) -> Text:
        """The lines with these numbers, as UTF-8 bytes with offsets in bytes."""
        prompts = self._prompts(lines)
        return to_utf8(join_lines([f"{prompt}{self._task.separator}{self._task.answer(prompt)}" for prompt in prompts]))

    def keys(self, lines: NDArray[Any]) -> U64:
        """[n] hashes of these lines' canonical prompts."""
        prompts = join_lines(self._prompts(lines))
        return self._task.hash_prompts(prompts, prompts.offsets[1:] - 1)

    def _prompts(self, lines: NDArray[Any]) -> list[str]:
        """The prompts of the lines with these numbers."""
        place = permute(lines, self._lines, derive_key("lines", self._seed))
        kind = np.searchsorted(self._starts, place, side="right") - 1
        keys = mix(kind.astype(np.uint64) + np.uint64(derive_key("kinds", self._seed) >> 1))
        within = permute(place - self._starts[kind], self._sizes[kind], keys)
        return [self._task.prompt(self._first[k] + n) for k, n in zip(kind.tolist(), within.tolist(), strict=True)]

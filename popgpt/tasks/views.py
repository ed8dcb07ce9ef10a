"""Views: a line as people read it, `7.3-12.5=-5.2`, and as a model reads it, `073-125=8499`, and back again, exactly.

Files, prompts, scores and samples hold visible lines; only what goes into a model and what it writes is in a view.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.text import I64, Text, prompt_ends
from popgpt.text.errors import UserError, shortened


class Reading(NamedTuple):
    """Lines as a model reads them.

    text: the lines, in the order of the visible ones. ends: [n] where in `text.codes` each prompt's last character is;
    what comes after it is learned. origins: [n] the position of each line's first character; the others follow on.
    """

    text: Text
    ends: I64
    origins: I64


class Question(NamedTuple):
    """A prompt as a model reads it, its separator included.

    origin: the position of its first character. longest: characters of an answer at most, the newline not counted.
    """

    prompt: str
    origin: int
    longest: int


class View(Protocol):
    """An exact pair of functions between visible lines and what a model reads; all it knows are a dataset's options.

    For each line of the dataset, answer(prompt, what follows the prompt in read(line)) is the visible answer. What a
    model is asked depends on the visible prompt alone.
    """

    @property
    def alphabet(self) -> str:
        """Every character that a model reads or writes, sorted, the newline not among them."""

    @property
    def keeps_lines(self) -> bool:
        """Whether each line keeps its length and begins at position 0, and read() is the same in every epoch."""

    @property
    def positions(self) -> int:
        """How many positions there are: what a model's table of positions has to hold."""

    @property
    def longest_line(self) -> int:
        """Characters of a line at most, as a model reads it, the newline not counted."""

    @property
    def longest_answer(self) -> int:
        """Characters that a model writes at most, the newline not counted."""

    def lengths(self, text: Text) -> I64:
        """[n] characters of each visible line as a model reads it, its newline not counted."""

    def read(self, text: Text, numbers: NDArray[Any], seed: int, epoch: int) -> Reading:
        """The lines of `text` as a model reads them: a pure function of each line, its number, the seed and the epoch.

        Args:
            numbers: [n] the lines' numbers in their split, for what is left to chance.

        Raises:
            UserError: a line that the view can't hold.
        """

    def ask(self, prompt: str) -> Question:
        """What a model is asked for a visible prompt. Raises UserError where the view can't hold it."""

    def answer(self, prompt: str, written: str) -> str | None:
        """The visible answer that a model wrote, its newline left out; None where what it wrote makes no sense."""

    def legible(self, text: str) -> str:
        """Characters that a model reads or writes, in a form for people."""


class Plain:
    """The visible line itself.

    Args:
        alphabet: the characters of the dataset's lines.
        separator: the character between prompt and answer.
        positions: characters of a line at most. The newline after it is only ever written, and needs none.
        longest_answer: characters of an answer at most; None: as many as a line has room for.
    """

    keeps_lines = True

    def __init__(self, alphabet: str, separator: str, positions: int, longest_answer: int | None = None) -> None:
        self.alphabet = "".join(sorted(set(alphabet)))
        self.separator = separator
        self.positions = self.longest_line = positions
        self.longest_answer = positions - len(separator) if longest_answer is None else longest_answer
        self._in_prompts = frozenset(alphabet) - {separator}

    def lengths(self, text: Text) -> I64:
        """[n] the lengths of the visible lines."""
        return text.lengths

    def read(self, text: Text, numbers: NDArray[Any], seed: int, epoch: int) -> Reading:
        """The lines as they are."""
        return Reading(text, prompt_ends(text, self.separator), np.zeros(len(text.lengths), np.int64))

    def ask(self, prompt: str) -> Question:
        """The prompt with its separator. Raises UserError where it is too long or holds another character."""
        room = self.positions - len(prompt) - len(self.separator)
        if room < 0:
            raise UserError(
                f"prompt {shortened(prompt)} has {len(prompt)} characters; this model reads at most "
                f"{self.positions - len(self.separator)}"
            )
        for character in prompt:
            if character not in self._in_prompts:
                raise UserError(f"prompt {shortened(prompt)} holds {character!r}, which no prompt of this dataset does")
        return Question(prompt + self.separator, 0, min(room, self.longest_answer))

    def answer(self, prompt: str, written: str) -> str | None:
        """What was written."""
        return written

    def legible(self, text: str) -> str:
        """The text itself."""
        return text


class Reversed(Plain):
    """The visible line with its answer backwards, so that sums can be written as they are worked out."""

    def read(self, text: Text, numbers: NDArray[Any], seed: int, epoch: int) -> Reading:
        """The lines with what follows each separator turned round, the newline left where it is."""
        plain = super().read(text, numbers, seed, epoch)
        lengths = text.lengths
        place = np.arange(int(text.offsets[0]), int(text.offsets[-1]))
        ends, stops = (np.repeat(of_line, lengths + 1) for of_line in (plain.ends, text.offsets[:-1] + lengths))
        answered = (place > ends) & (place < stops)
        codes = text.codes.copy()
        codes[place[answered]] = text.codes[(ends + stops - place)[answered]]
        return plain._replace(text=Text(codes, text.offsets))

    def answer(self, prompt: str, written: str) -> str | None:
        """What was written, turned round."""
        return written[::-1]

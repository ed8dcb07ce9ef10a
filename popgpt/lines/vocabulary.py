"""The characters a dataset is made of, and the numbers a model knows them by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgpt.lines.text import NEWLINE
from popgpt.text.errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """Sorted distinct characters, the newline among them; a character's id is its place in the order."""

    characters: str

    def __post_init__(self) -> None:
        if self.characters != "".join(sorted({*self.characters, NEWLINE})):
            raise ValueError(f"characters={self.characters!r} should be sorted, distinct and hold the newline")

    @classmethod
    def of(cls, alphabet: str) -> Vocabulary:
        """The characters of an alphabet, and the newline."""
        return cls("".join(sorted({*alphabet, NEWLINE})))

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def newline(self) -> int:
        """The id of the character that ends every line."""
        return self.characters.index(NEWLINE)

    @cached_property
    def codes(self) -> NDArray[np.uint32]:
        """[V] the code point of each id."""
        return _code_points(self.characters)

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """[last code point + 1] the id of each code point; -1 for those that are not in the vocabulary."""
        ids = np.full(int(self.codes[-1]) + 1, -1, np.int64)
        ids[self.codes] = np.arange(len(self))
        return ids

    def encode(self, text: str) -> NDArray[np.int64]:
        """[len(text)] ids. Raises UserError naming the first character that is not in the vocabulary."""
        codes = _code_points(text)
        ids = np.where(codes < len(self.ids), self.ids[np.minimum(codes, len(self.ids) - 1)], -1)
        if (ids < 0).any():
            unknown = text[int(np.argmax(ids < 0))]
            known = self.characters.replace(NEWLINE, "")
            shown = known if len(known) <= 80 else known[:80] + "..."
            raise UserError(f"{unknown!r} is not in the vocabulary of this dataset: {shown}")
        return ids

    def decode(self, ids: NDArray[Any]) -> str:
        """The text of ids [n]; each must be in range(V)."""
        return self.codes[np.asarray(ids, np.int64)].tobytes().decode("utf-32-le")


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint32)

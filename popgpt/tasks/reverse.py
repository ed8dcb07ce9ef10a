"""Strings and their reverse: `abc=cba`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from popgpt.tasks.base import NumberedTask


class Reverse(NumberedTask):
    """Every string of up to `length` characters of an alphabet, as many of each length as there are."""

    name: Literal["reverse"] = "reverse"
    length: Annotated[int, Field(ge=1, le=64)] = Field(8, description="characters of a string, at most")
    alphabet: Annotated[str, Field(min_length=2, max_length=256)] = Field(
        "abcdefghijklmnopqrstuvwxyz", description="the characters that strings are made of"
    )

    def disagreement(self) -> str | None:
        if len(set(self.alphabet)) != len(self.alphabet):
            return f"alphabet={self.alphabet!r} should name each character once"
        unusable = [c for c in self.alphabet if c in f"{self.separator}\r\n" or "\ud800" <= c <= "\udfff"]
        return f"alphabet={self.alphabet!r} should not hold {unusable[0]!r}" if unusable else None

    def sizes(self) -> Sequence[int]:
        return [len(self.alphabet) ** length for length in range(1, self.length + 1)]

    def prompt(self, number: int) -> str:
        """Shorter strings come first, those of one length in the alphabet's order."""
        characters = []
        number += 1
        while number:
            number, digit = divmod(number - 1, len(self.alphabet))
            characters.append(self.alphabet[digit])
        return "".join(reversed(characters))

    def answer(self, prompt: str) -> str | None:
        return prompt[::-1] if prompt and set(prompt) <= set(self.alphabet) else None

"""Dates in words and their ISO form: `3 March 2021=2021-03-03`.

A task can also be nothing but a program that prints its lines:
`python -m popgpt.tasks.dates | python -m popgpt.prepare --from-text - --dataset dates`
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import Field

from popgpt.tasks.base import NumberedTask

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_PROMPT = re.compile(rf"([1-9][0-9]?) ({'|'.join(_MONTHS)}) ([1-9][0-9]{{0,3}})")
Year = Annotated[int, Field(ge=1, le=9999)]


class Dates(NumberedTask):
    """Every day from the first of January of one year to the end of another."""

    name: Literal["dates"] = "dates"
    first_year: Year = Field(1000, description="the first year")
    last_year: Year = Field(2999, description="the last year")

    def disagreement(self) -> str | None:
        if self.first_year > self.last_year:
            return f"first_year={self.first_year} should be at most last_year={self.last_year}"
        return None

    def sizes(self) -> Sequence[int]:
        return [(date(self.last_year, 12, 31) - date(self.first_year, 1, 1)).days + 1]

    def prompt(self, number: int) -> str:
        day = date(self.first_year, 1, 1) + timedelta(number)
        return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"

    def answer(self, prompt: str) -> str | None:
        words = _PROMPT.fullmatch(prompt)
        try:
            return date(int(words[3]), _MONTHS.index(words[2]) + 1, int(words[1])).isoformat() if words else None
        except ValueError:  # no such day
            return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the lines of two centuries."""
    task = Dates(first_year=1900, last_year=2099)
    prompts = (task.prompt(number) for number in range(sum(task.sizes())))
    sys.stdout.writelines(f"{prompt}{task.separator}{task.answer(prompt)}\n" for prompt in prompts)


if __name__ == "__main__":
    from popgpt.terminal.program import run

    run(main)

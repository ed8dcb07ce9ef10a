"""Errors that the user can mend, a line each, with values that fit a line."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

MOST_TOLD = 20


class UserError(Exception):
    """What the user can mend. The message is one line that names what is wrong and what would be right."""


def combine_errors(lines: Iterable[str], more: int = 0) -> UserError:
    """Return one error for several mistakes, a line each. Of many it tells the first, and how many more there are."""
    seen = list(dict.fromkeys(line for part in lines for line in part.splitlines()))
    untold = len(seen[MOST_TOLD:]) + more
    return UserError("\n".join([*seen[:MOST_TOLD], *([f"and {untold} more mistakes"] if untold else [])]))


class Mistakes:
    """Gathers what is wrong, so that all of it is told at once."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Keep a UserError that is raised inside, and go on after it."""
        try:
            yield
        except UserError as error:
            self._lines.append(str(error))

    @property
    def enough(self) -> bool:
        """Whether there are more than are told."""
        return len(self._lines) > MOST_TOLD

    def tell(self) -> None:
        """Raise UserError if there were mistakes."""
        if self._lines:
            raise combine_errors(self._lines)


def shortened(value: Any) -> str:
    """Return `repr(value)` without the middle of what is too long for a line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    short.maxlist = short.maxdict = short.maxtuple = 8
    short.maxlevel = 4
    text = short.repr(value)
    return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"


def named(name: str, longest: int = 80) -> str:
    """Return a name as it can be printed: as it is, or quoted and shortened if it is unusual."""
    return name if name.isprintable() and 0 < len(name) <= longest else shortened(name)

"""A task that is nothing but a generator of lines: dates in words to ISO form, `3 March 2021=2021-03-03`.

`python -m popgpt.tasks.dates | python -m popgpt.prepare --from-text - --dataset dates`
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import date, timedelta

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def lines(first: date, last: date) -> Iterator[str]:
    """A line for each day from `first` to `last`."""
    for day in range((last - first).days + 1):
        this = first + timedelta(day)
        yield f"{this.day} {_MONTHS[this.month - 1]} {this.year}={this.isoformat()}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the lines of two centuries."""
    sys.stdout.writelines(f"{line}\n" for line in lines(date(1900, 1, 1), date(2099, 12, 31)))


if __name__ == "__main__":
    from popgpt.terminal.cli import run

    run(main)

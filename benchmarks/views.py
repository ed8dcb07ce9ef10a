"""Figures of the views: `python -m benchmarks.views`. Lines a second of one thread that are read as a model reads them.

Processor seconds, so that what else the machine does counts little. The exit code is 1 where a bar is missed.
"""

from __future__ import annotations

import os
import time
from statistics import median
from typing import Any

import numpy as np

from popgpt.tasks.calculator.task import Calculator
from popgpt.tasks.calculator.worked.view import WorkedView
from popgpt.terminal.program import run

BAR = 300_000
LINES = 200_000
REPETITIONS = 5
VIEWED = {"operations", "integer_digits", "decimals", "result_decimals", "signed", "terms", "parentheses"}
GRAMMARS = {
    "+-*/, 2 digits and 1 decimal": {},
    "+-, 2 digits and 1 decimal": {"operations": "+-"},
    "/, 2 digits and 1 decimal": {"operations": "/"},
    "+-*/, signed": {"signed": True},
}


def rates(options: dict[str, Any]) -> list[float]:
    """Lines a processor second, of each repetition."""
    task = Calculator(**options)
    view = WorkedView(**task.model_dump(include=VIEWED))
    numbers = np.arange(LINES)
    text = task.source(LINES, 1).text(numbers)
    found = []
    for epoch in range(REPETITIONS):
        begun = time.process_time()
        view.read(text, numbers, 1, epoch)
        found.append(LINES / (time.process_time() - begun))
    return found


def main() -> int:
    """Print each grammar's figure beside the bar."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {LINES:,} lines, {REPETITIONS} times")
    missed = False
    for name, options in GRAMMARS.items():
        found = rates(options)
        middle = median(found)
        missed |= middle < BAR
        spread = f"{middle:,.0f} lines/s ({min(found):,.0f} to {max(found):,.0f})"
        print(f"{'ok  ' if middle >= BAR else 'MISS'} {name:<30} {spread:<50} bar >= {BAR:,}", flush=True)
    return int(missed)


if __name__ == "__main__":
    run(lambda _: main())

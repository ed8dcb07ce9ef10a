"""The rows that a run logs and the result that it ends with, and checks of rows that were read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from popgpt.text.errors import shortened

Row = dict[str, Any]
"""One logged iteration, as metrics.jsonl, `report`, the sweep's record and the trackers have it.

Every row has iteration, train_loss, learning_rate, gradient_norm, lines, tokens and train_seconds, counted from the
run's start. The row of an evaluation also has each metric of METRICS, exact_match_n, exact_match_low, exact_match_high,
by_operation (symbol -> exact_match, n, low, high), save_seconds and save_wait_seconds."""

RunResult = dict[str, Any]
"""What result.json holds: status, the scores of ckpt.pt, and what the run cost."""

METRICS_FILE = "metrics.jsonl"
"""The file of a run's folder that holds its rows, a line each."""

LATEST = 2**53  # no iteration comes so far; a float holds each before it


def row_problem(row: Any) -> str | None:
    """Return what is wrong with `row`, in words, or None if it holds numbers by name, an `iteration` among them."""
    if not isinstance(row, dict):
        return f"should be an object, not {shortened(row)}"
    iteration = row.get("iteration")
    if type(iteration) is not int or not 0 <= iteration < LATEST:
        return f"iteration={shortened(iteration)} should be a whole number, at least 0"
    return scores_problem(row)


def scores_problem(scores: Mapping[str, Any]) -> str | None:
    """Return what is wrong with `scores`, in words, or None if they are numbers by name, and those by operation."""
    for name, value in scores.items():
        if name == "by_operation":
            parts = list(value.values()) if isinstance(value, dict) else [None]
            if not all(map(_is_part, parts)):
                return f"{name}={shortened(value)} should be numbers of each operation, its exact_match among them"
        elif not _is_number(value):
            return f"{shortened(name)}={shortened(value)} should be a number"
    return None


def _is_part(scores: Any) -> bool:
    numbers = isinstance(scores, dict) and all(map(_is_number, scores.values()))
    return numbers and scores.get("exact_match") is not None


def _is_number(value: Any) -> bool:
    """Return whether `value` is a number that fits a float, or None, which stands for one that was not finite."""
    return value is None or isinstance(value, float) or (type(value) is int and abs(value) < 2**1000)

"""What a logged row of a run may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from popgpt.text.errors import shortened

LATEST = 2**53  # no iteration comes so far; a float holds each before it


def row_problem(row: Any) -> str | None:
    """Why a value is no row of a run, in words: numbers by name, an `iteration` among them; None where it is one."""
    if not isinstance(row, dict):
        return f"should be an object, not {shortened(row)}"
    iteration = row.get("iteration")
    if type(iteration) is not int or not 0 <= iteration < LATEST:
        return f"iteration={shortened(iteration)} should be a whole number, at least 0"
    return scores_problem(row)


def scores_problem(scores: Mapping[str, Any]) -> str | None:
    """Why these are no scores, in words: numbers by name, and those of each operation; None where they are."""
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
    """Whether it is a number that a float can be, or None, for one that was not finite."""
    return value is None or isinstance(value, float) or (type(value) is int and abs(value) < 2**1000)

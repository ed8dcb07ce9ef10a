"""The trials ranked by their best evaluation, and the part of sweep.json that follows from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from popgpt.metrics.metric import METRICS, score

Trial = Mapping[str, Any]
"""The state of a trial: id, config (the swept parameters), status, reason (why it was stopped or failed, or None),
metrics (its rows; those of evaluations hold the sweep's metric)."""

SCORES = (*METRICS, "exact_match_n", "exact_match_low", "exact_match_high", "iteration")
"""What sweep.json says of a trial's best evaluation, as far as its row has it."""


def best_row(trial: Trial, metric: str) -> Mapping[str, Any]:
    """Return the trial's best evaluation by the metric, then token accuracy: the earliest of equals, {} if none."""
    rows = [row for row in trial["metrics"] if math.isfinite(score(row, metric)[0])]
    return max(rows, key=lambda row: score(row, metric), default={})


def ranked(trials: Iterable[Trial], metric: str) -> list[Trial]:
    """Return the trials, best first, by their best evaluation; those without one last. Equals keep their order."""
    return sorted(trials, key=lambda trial: score(best_row(trial, metric), metric), reverse=True)


def best(trials: Iterable[Trial], metric: str) -> Trial | None:
    """Return the best trial, or None if no trial has an evaluation."""
    first = next(iter(ranked(trials, metric)), None)
    return first if first is not None and best_row(first, metric) else None


def summary(trials: Sequence[Trial], metric: str, winner: str | None = None) -> dict[str, Any]:
    """Return what sweep.json holds of the trials: `metric`, `best` (a trial without its rows, or None), `iterations`,
    and `trials` in the given order, each with its scores at its best evaluation. NaN and infinities, which JSON lacks,
    are null.

    winner: the id of the trial that is `best`; without one, that with the best evaluation.
    """
    winner = winner or (best(trials, metric) or {}).get("id")
    entries = [_entry(trial, metric) for trial in trials]
    top = next((entry for entry in entries if entry["id"] == winner), None)
    content = {
        "metric": metric,
        "best": {key: value for key, value in top.items() if key != "metrics"} if top else None,
        "iterations": sum(entry["iterations"] for entry in entries),
        "trials": entries,
    }
    found: dict[str, Any] = json_safe(content)
    return found


def _entry(trial: Trial, metric: str) -> dict[str, Any]:
    row = best_row(trial, metric)
    return {
        "id": trial["id"],
        "config": dict(trial["config"]),
        "status": trial["status"],
        "reason": trial.get("reason"),
        **{key: trial[key] for key in ("of", "stopped_by") if key in trial},
        "iterations": iterations(trial),
        **{key: row[key] for key in SCORES if key in row},
        "metrics": list(trial["metrics"]),
    }


def iterations(trial: Trial) -> int:
    """Return the last iteration that a trial logged."""
    return max((int(row["iteration"]) for row in trial["metrics"]), default=0)


def json_safe(value: Any) -> Any:
    """Return `value` as JSON takes it: a number that is not finite is None."""
    if isinstance(value, Mapping):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

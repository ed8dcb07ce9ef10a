"""The trials ranked by their best evaluation, and the part of sweep.json that follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from popgpt.metrics.metric import score
from popgpt.sweep.trial import Trial


def ranked(trials: Iterable[Trial], metric: str) -> list[Trial]:
    """Return the trials, best first, by their best evaluation; those without one last. Equals keep their order."""
    return sorted(trials, key=lambda trial: score(trial.best_row(metric), metric), reverse=True)


def best(trials: Iterable[Trial], metric: str) -> Trial | None:
    """Return the best trial, or None if no trial has an evaluation."""
    return next((trial for trial in ranked(trials, metric)[:1] if trial.best_row(metric)), None)


def summary(trials: Sequence[Trial], metric: str, winner: Trial | None = None) -> dict[str, Any]:
    """Return what sweep.json holds of the trials: `metric`, `best` (a trial without its rows, or None), `iterations`,
    and `trials` in the given order.

    winner: the trial that is `best`; without one, that with the best evaluation.
    """
    top = winner or best(trials, metric)
    return {
        "metric": metric,
        "best": {key: value for key, value in top.to_json(metric).items() if key != "metrics"} if top else None,
        "iterations": sum(trial.iterations for trial in trials),
        "trials": [trial.to_json(metric) for trial in trials],
    }

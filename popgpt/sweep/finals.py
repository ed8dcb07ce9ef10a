"""Finalists: the best trials, trained to the full budget with more seeds. Which they are, and which of them wins."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from popgpt.metrics.metric import score
from popgpt.sweep import ranking
from popgpt.sweep.events import ENDED, Status
from popgpt.sweep.trial import SCORES, Trial


def choose(trials: Iterable[Trial], metric: str, count: int) -> list[str]:
    """Return the ids of the `count` best trials, best first. One that failed or was never evaluated is no finalist."""
    able = [trial for trial in trials if trial.status != Status.FAILED and trial.best_row(metric)]
    return [trial.id for trial in ranking.ranked(able, metric)[:count]]


def repeats(name: str, parameters: Mapping[str, Any], seed: int, count: int) -> dict[str, dict[str, Any]]:
    """Return the parameters of a finalist's repeats by id: its own, with the `count` seeds that follow its `seed`."""
    return {f"{name}-s{k}": {**parameters, "seed": seed + k} for k in range(1, count + 1)}


def result(name: str, runs: Sequence[Trial], seeds: Sequence[int], metric: str) -> dict[str, Any]:
    """Return what sweep.json says of a finalist: the scores of each seed's best evaluation, and their mean.

    runs: its trial, then its repeats. The mean is None until all have ended, and then of those that have a score.
    """
    rows = [run.best_row(metric) for run in runs]
    ended = all(run.status in ENDED for run in runs)
    return {
        "id": name,
        "seeds": [
            {"seed": seed, "run": run.id, "status": run.status} | {key: row[key] for key in SCORES if key in row}
            for seed, run, row in zip(seeds, runs, rows, strict=True)
        ],
        "mean": mean(row[metric] for row in rows if row) if ended else None,
    }


def ranked(results: Iterable[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """Return the finalists, best mean first, then by mean token accuracy.

    One with a run that failed or has no score stands behind the others: a mean of the seeds that did well would flatter
    it.
    """

    def key(finalist: Mapping[str, Any]) -> tuple[bool, float, float]:
        seeds = finalist["seeds"]
        whole = all(each.get("status") != Status.FAILED and math.isfinite(score(each, metric)[0]) for each in seeds)
        accuracy = mean(each["token_accuracy"] for each in seeds if each.get("token_accuracy") is not None)
        by_mean = score({metric: finalist.get("mean"), "token_accuracy": accuracy}, metric)
        return (whole, *by_mean)

    return sorted(results, key=key, reverse=True)


def mean(values: Iterable[float]) -> float | None:
    """Return the mean, the same whatever the order; None of no values."""
    given = list(values)
    return math.fsum(given) / len(given) if given else None

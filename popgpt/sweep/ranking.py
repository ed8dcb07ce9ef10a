"""What a sweep found: ranking, sweep.json and the terminal's table, as pure functions of the trials' records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from popgpt.metrics import score

if TYPE_CHECKING:
    from rich.table import Table

Trial = Mapping[str, Any]
"""A trial's record: id, config (the swept parameters), status (completed, stopped or failed), reason or None, and
metrics, a row for each report; rows of evaluations hold the sweep's metric."""

SCORES = (
    "exact_match",
    "exact_match_n",
    "exact_match_low",
    "exact_match_high",
    "token_accuracy",
    "val_loss",
    "iteration",
)


def best_row(trial: Trial, metric: str) -> Mapping[str, Any]:
    """The trial's best evaluation by the metric, then token accuracy, the earliest of equals; empty if it has none."""
    rows = [row for row in trial["metrics"] if math.isfinite(score(row, metric)[0])]
    return max(rows, key=lambda row: score(row, metric), default={})


def ranked(trials: Iterable[Trial], metric: str) -> list[Trial]:
    """The trials, best first, by their best evaluation; those without one come last. Equals keep their order."""
    return sorted(trials, key=lambda trial: score(best_row(trial, metric), metric), reverse=True)


def best(trials: Iterable[Trial], metric: str) -> Trial | None:
    """The winner; None where no trial has an evaluation."""
    first = next(iter(ranked(trials, metric)), None)
    return first if first is not None and best_row(first, metric) else None


def summary(trials: Sequence[Trial], metric: str, winner: str | None = None) -> dict[str, Any]:
    """What sweep.json holds: `metric`, `best` (a trial without its rows, or None) and `trials` in the given order, each
    with its scores at its best evaluation. Numbers that JSON lacks (NaN, infinities) are null.

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
    found: dict[str, Any] = plain(content)
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
    """How far a trial got."""
    return max((int(row["iteration"]) for row in trial["metrics"]), default=0)


def plain(value: Any) -> Any:
    """`value` as JSON takes it: what is not finite is null."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(trials: Sequence[Trial], metric: str) -> Table:
    """The ranked trials for a terminal: what was swept, how far each got, and its scores."""
    from rich.table import Table

    swept = list(dict.fromkeys(name for trial in trials for name in trial["config"]))
    shown = Table(box=None, pad_edge=False)
    shown.add_column("trial")
    for name in [*swept, "iterations", "exact match", "95% interval", "token accuracy", "val loss"]:
        shown.add_column(name, justify="right", no_wrap=name not in swept)
    shown.add_column("status", overflow="fold")
    for trial in ranked(trials, metric):
        row = best_row(trial, metric)
        values = [_number(trial["config"].get(name)) for name in swept]
        scores = [_percent(row.get("exact_match")), _interval(row), _percent(row.get("token_accuracy"))]
        loss = _number(row.get("val_loss"))
        shown.add_row(str(trial["id"]), *values, str(iterations(trial)), *scores, loss, _status(trial))
    return shown


def finalists_table(results: Sequence[Mapping[str, Any]], metric: str) -> Table:
    """The finalists for a terminal, in the given order: their mean and the score of each run by its seed."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for name in ("trial", "mean", "each seed"):
        shown.add_column(name, overflow="fold")

    def number(value: Any) -> str:
        return _number(value) if metric == "val_loss" or value is None else f"{value:.2%}"

    for each in results:
        scores = [f"{run['seed']}: {number(run.get(metric)) or run['status']}" for run in each["seeds"]]
        shown.add_row(str(each["id"]), number(each["mean"]), "  ".join(scores))
    return shown


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _percent(value: Any) -> str:
    return "" if value is None else f"{value:.1%}"


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row.get("exact_match_low"), row.get("exact_match_high")
    return "" if low is None or high is None else f"{low:.1%} to {high:.1%}"


def _status(trial: Trial) -> str:
    reason = trial.get("reason")
    return f"{trial['status']}: {reason}" if reason else str(trial["status"])

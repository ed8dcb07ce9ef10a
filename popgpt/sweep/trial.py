"""A trial of a sweep: its parameters, its status, what it logged; and how sweep.json and events.jsonl say that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from popgpt.metrics.metric import METRICS, score
from popgpt.metrics.row import Row
from popgpt.sweep.events import Status

SCORES = (*METRICS, "exact_match_n", "exact_match_low", "exact_match_high", "iteration")
"""What sweep.json says of a trial's best evaluation, as far as its row has it."""


@dataclass(frozen=True)
class Trial:
    """A trial, or a finalist's repeat with another seed. It never changes: the record replaces it by another."""

    id: str
    config: dict[str, Any]  # the swept parameters
    status: Status = Status.WAITING
    reason: str | None = None  # why it was stopped or failed
    metrics: list[Row] = field(default_factory=list)  # in the order of iterations
    of: str | None = None  # the finalist that it repeats
    stopped_by: str | None = None  # ASHA's reason, if ASHA stopped it and it goes on as a finalist
    _best: dict[str, Row] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def iterations(self) -> int:
        """The last iteration that it logged."""
        return max((int(row["iteration"]) for row in self.metrics), default=0)

    @property
    def described_status(self) -> str:
        """The status, and the reason if there is one."""
        return ": ".join(filter(None, (self.status, self.reason)))

    def best_row(self, metric: str) -> Row:
        """Return the best evaluation by the metric, then token accuracy: the earliest of equals, {} if none."""
        if metric not in self._best:
            self._best[metric] = max(self.evaluations(metric), key=lambda row: score(row, metric), default={})
        return self._best[metric]

    def evaluations(self, metric: str) -> list[Row]:
        """Return the rows where the metric is a finite number."""
        return [row for row in self.metrics if math.isfinite(score(row, metric)[0])]

    def add_rows(self, rows: Sequence[Row]) -> Trial:
        """Return the trial with more rows; they replace those of their own iterations and later ones."""
        kept = len(self.metrics)
        while rows and kept and self.metrics[kept - 1]["iteration"] >= rows[0]["iteration"]:
            kept -= 1
        return replace(self, metrics=[*self.metrics[:kept], *map(dict, rows)])

    def to_json(self, metric: str) -> dict[str, Any]:
        """Return what sweep.json says of the trial, its scores at its best evaluation included."""
        row = self.best_row(metric)
        optional = {"of": self.of, "stopped_by": self.stopped_by}
        entry: dict[str, Any] = json_safe(
            {
                "id": self.id,
                "config": self.config,
                "status": self.status,
                "reason": self.reason,
                **{key: value for key, value in optional.items() if value is not None},
                "iterations": self.iterations,
                **{key: row[key] for key in SCORES if key in row},
                "metrics": self.metrics,
            }
        )
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Trial:
        """Return the trial that sweep.json says, once `journal.check` has found nothing wrong with it."""
        status, of, stopped_by = Status(entry["status"]), entry.get("of"), entry.get("stopped_by")
        return cls(entry["id"], entry["config"], status, entry["reason"], entry["metrics"], of, stopped_by)

    def to_event(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return what a line of events.jsonl says of the trial, its new rows included."""
        state = {"id": self.id, "config": self.config, "status": self.status, "reason": self.reason}
        return {**state, "rows": json_safe(rows)}

    def apply_event(self, event: Mapping[str, Any]) -> Trial:
        """Return the trial as it is after a line of events.jsonl."""
        status = Status(event["status"])
        return replace(self, config=event["config"], status=status, reason=event["reason"]).add_rows(event["rows"])


def json_safe(value: Any) -> Any:
    """Return `value` as JSON takes it: a number that is not finite is None."""
    if isinstance(value, Mapping):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

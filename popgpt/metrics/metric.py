"""The metrics of an evaluation, one row each, and the order that a metric puts evaluations in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple


class Sums(NamedTuple):
    """The counts of one evaluation, summed over all workers."""

    loss: float  # over the targets that are not masked
    targets: float
    correct: float  # targets that the likeliest character hits
    exact: float  # lines whose generated answer is right to the character
    lines: float


class Metric(NamedTuple):
    """A number of each evaluation by which `best_by` and a sweep's `metric` may compare evaluations."""

    name: str
    label: str
    direction: Literal["max", "min"]
    format: str  # a format specification
    measure: Callable[[Sums], float]

    @property
    def is_share(self) -> bool:
        """Whether the metric lies between 0 and 1 and is shown as a percentage."""
        return self.format.endswith("%")


METRICS = {
    metric.name: metric
    for metric in (
        Metric("exact_match", "exact match", "max", ".2%", lambda sums: sums.exact / max(1, sums.lines)),
        Metric("token_accuracy", "token accuracy", "max", ".2%", lambda sums: sums.correct / sums.targets),
        Metric("val_loss", "val loss", "min", ".4g", lambda sums: sums.loss / sums.targets),
    )
}
if TYPE_CHECKING:
    MetricName = str
else:
    MetricName = Literal[tuple(METRICS)]  # what a field of a schema accepts


def score(row: Mapping[str, Any], metric: str) -> tuple[float, float]:
    """Return what evaluations are compared by, higher is better: the metric, then token accuracy.

    A number that is missing or not finite counts as the worst.
    """
    value = _finite(row.get(metric))
    if METRICS[metric].direction == "min" and value > -math.inf:
        value = -value
    return value, _finite(row.get("token_accuracy"))


def _finite(value: Any) -> float:
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else -math.inf

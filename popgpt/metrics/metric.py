"""What evaluations are compared by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

METRICS = {"exact_match": "max", "token_accuracy": "max", "val_loss": "min"}


def score(row: Mapping[str, Any], metric: str) -> tuple[float, float]:
    """What trials are compared by, higher is better: the metric, then token accuracy. What is missing is the worst."""
    value = _finite(row.get(metric))
    return (-value if METRICS[metric] == "min" and value > -math.inf else value), _finite(row.get("token_accuracy"))


def _finite(value: Any) -> float:
    number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if number else -math.inf

"""Records runs with MLflow and W&B. A tracker can never end a run, slow it or fail it."""

from popgpt.tracking.identity import flat_metrics
from popgpt.tracking.run import Run, flush, services, start
from popgpt.tracking.uri import tracking_uri, ui_command

__all__ = ["Run", "flat_metrics", "flush", "services", "start", "tracking_uri", "ui_command"]

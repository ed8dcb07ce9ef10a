"""MLflow and W&B as witnesses: they mirror a run and can never end it, slow it or fail it."""

from popgpt.tracking.identity import flat_metrics
from popgpt.tracking.run import Run, flush, services, start, tracking_uri, ui_command

__all__ = ["Run", "flat_metrics", "flush", "services", "start", "tracking_uri", "ui_command"]

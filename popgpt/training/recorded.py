"""A run as its folder records it, for MLflow, whether it was tracked or not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from popgpt.config import make_config
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.text.redaction import redact_uri
from popgpt.tracking import identity
from popgpt.tracking.identity import Identity
from popgpt.tracking.sync import RecordedRun
from popgpt.tracking.uri import tracking_uri
from popgpt.training.folder import CONFIG, ERROR, read_config, read_result


def recorded_run(folder: Folder) -> RecordedRun:
    """Return the run in a folder. Raises UserError if there is none."""
    if not (this := tracked_identity(folder)):
        if CONFIG not in folder.names():
            raise UserError(
                f"{folder.where} is no run's folder, which has a {CONFIG}, and no sweep's, which has a sweep.json"
            )
        this = new_identity(folder, read_config(folder))
    result = read_result(folder)
    if result.get("status") == "completed":
        status: str | None = "completed"
    else:
        status = this.status or ("failed" if ERROR in folder.names() else None)
    return RecordedRun(folder, this, status, result)


def tracked_identity(folder: Folder) -> Identity | None:
    """Return what tracking.json says; None if there is none. MLFLOW_TRACKING_URI takes the place of its URI."""
    kept = identity.read(folder)
    if kept and os.environ.get("MLFLOW_TRACKING_URI"):
        kept.uri = redact_uri(tracking_uri())
    return kept


def new_identity(folder: Folder, values: Mapping[str, Any]) -> Identity:
    """Return the identity of a run that was never tracked, made of its parameters."""
    config = make_config(values, folder.where)
    return Identity(
        redact_uri(tracking_uri()),
        config.experiment or config.dataset,
        config.wandb_run_name or folder.name,
        identity.params_of(config.model_dump()),
        project=config.wandb_project,
    )

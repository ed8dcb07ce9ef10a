"""Sends MLflow what it lacks of a run that was trained before."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from popgpt.metrics.row import Row
from popgpt.storage.folder import Folder
from popgpt.text.redaction import HIDDEN, without_secrets
from popgpt.tracking import identity
from popgpt.tracking.identity import Identity
from popgpt.tracking.uri import tracking_uri

if TYPE_CHECKING:
    from popgpt.tracking.mlflow import Mlflow


@dataclass
class RecordedRun:
    """A run as its folder records it."""

    folder: Folder
    identity: Identity
    status: str | None = None  # None: the folder does not say
    final: Row = field(default_factory=dict)
    split: str = "val"  # of `final`
    winner_params: dict[str, str] = field(default_factory=dict)  # of a sweep
    end_tags: dict[str, str] = field(default_factory=dict)
    artifacts: list[tuple[Path, str | None]] = field(default_factory=list)  # beside the run's own, with their folder
    ended_at: int | None = None  # ms since 1970, of what has trained nothing


@contextmanager
def connect(recorded_uri: str) -> Iterator[Mlflow]:
    """Connect to MLflow at MLFLOW_TRACKING_URI, or else where tracking.json says, which keeps no password.

    Raises ConnectionError for whatever goes wrong there.
    """
    from popgpt.tracking.mlflow import Mlflow, connection_errors

    given = os.environ.get("MLFLOW_TRACKING_URI")
    remedy = "; it was recorded with a password or a token: set MLFLOW_TRACKING_URI to the whole address"
    with connection_errors(recorded_uri, remedy if HIDDEN in recorded_uri and not given else ""):
        yield Mlflow(tracking_uri() if given else without_secrets(recorded_uri))


def send(mlflow: Mlflow, run: RecordedRun, files: Sequence[Path]) -> str:
    """Send what MLflow lacks of a run and of its `files`. Returns what that was, in one line."""
    this = run.identity
    identity.write(run.folder, this)  # before MLflow has the run, so that its token is never lost
    found = mlflow.find(this)
    this.ids["mlflow"] = run_id = found or mlflow.create(this)
    identity.write(run.folder, this)
    parent = {"mlflow.parentRunId": this.parent} if this.parent else {}
    texts = mlflow.describe(run_id, this.params, {**this.tags, **parent})
    texts += mlflow.set_winner_params(run_id, run.winner_params)
    values = [*this.values(identity.read_rows(run.folder)), *this.final_values(run.final, run.split)]
    missing = mlflow.log_missing(run_id, values)
    artifacts = [*((path, None) for path in files), *run.artifacts]
    uploaded = [name for path, place in artifacts for name in mlflow.upload(run_id, path, place)]
    running = mlflow.known(run_id).status == "RUNNING"
    status = run.status or ("interrupted" if running else None)
    ended = mlflow.end(run_id, status, run.end_tags, run.ended_at or this.begun) if status else False
    sent = [*(["parameters and tags"] if texts else []), *uploaded, *([f"status {status}"] if ended else [])]
    return (
        f"{missing} of {len(values)} values were missing{', sent' if missing else ''}"
        f"{'; sent too: ' if sent else ''}{', '.join(sent)}"
    )

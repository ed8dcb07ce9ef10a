"""What a tracker does, and the table of trackers: a new one is a subclass in a file of its own and a line here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from popgpt.config import Config
from popgpt.tracking.identity import Identity, Value
from popgpt.tracking.uri import tracking_uri


class Tracker(ABC):
    """A connection to a service that records runs.

    It is made, with the service's address, and called in a process of its own (process.py), one call at a time. A
    method raises what the service's client raises. The call may then be made again, so it must bear being repeated.
    """

    @abstractmethod
    def start(self, run: Identity, folder: str | None, again: bool) -> str:
        """Start or resume a run whose folder this is. Returns its id. `again`: the service may have it already."""

    @abstractmethod
    def log_metrics(self, run: Identity, values: Sequence[Value]) -> None:
        """Record numbers."""

    @abstractmethod
    def finish(
        self, run: Identity, status: str, values: Sequence[Value], tags: Mapping[str, str], params: Mapping[str, str]
    ) -> None:
        """End a run: completed, stopped, failed or interrupted, with its last numbers, tags and parameters."""

    def set_status(self, run: Identity, status: str) -> None:  # noqa: B027
        """Say that a run is paused, or running again."""

    def log_artifact(self, run: Identity, path: str, folder: str | None) -> None:  # noqa: B027
        """Copy a file, or a folder's files, to the run's artifacts, into `folder` there."""

    def backfill(self, run: Identity, folder: str, before: int | None) -> None:  # noqa: B027
        """Record what the service lacks of the rows in metrics.jsonl of iterations under `before`."""


class TrackerSpec(NamedTuple):
    """A row of the table of trackers."""

    label: str  # as messages name the service
    tracker: str  # module:class, imported only in the process that talks to the service
    is_enabled: Callable[[Config], bool]
    address: Callable[[], str] = lambda: ""  # what the class is made with
    backfills: bool = False  # it knows what it lacks of a run; for the others, what is unsent is kept in tracking.json


TRACKERS = {
    "mlflow": TrackerSpec(
        "MLflow", "popgpt.tracking.mlflow:Mlflow", lambda config: config.mlflow_log, tracking_uri, backfills=True
    ),
    "wandb": TrackerSpec("W&B", "popgpt.tracking.wandb:Wandb", lambda config: config.wandb_log),
}

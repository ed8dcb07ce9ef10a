"""A run that is being recorded, as its driver sees it: start, log, finish, flush. Nothing here waits but `flush`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from popgpt.config import Config
from popgpt.storage.folder import Folder, absolute
from popgpt.text.redaction import redact_uri
from popgpt.tracking import identity
from popgpt.tracking.identity import Identity, TrackingFile, params_of, tags_of
from popgpt.tracking.process import Operation
from popgpt.tracking.sender import VALUES_A_CALL, Sender
from popgpt.tracking.tracker import TRACKERS
from popgpt.tracking.uri import tracking_uri

_senders: dict[tuple[str, str], Sender] = {}  # by tracker and address


@dataclass(eq=False)
class Run:
    """A run being recorded. Every method returns at once; `flush` is what waits."""

    file: TrackingFile
    senders: list[Sender] = field(default_factory=list)
    resumed: bool = False  # an earlier process may have logged rows that the trackers lack

    @property
    def id(self) -> str | None:
        """MLflow's id of the run; None until MLflow has given it."""
        return self.file.identity.ids.get("mlflow")

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record the numbers of each row at its `iteration`. What has been recorded of an iteration stays."""
        rows = list(rows)
        if rows:
            self._backfill(rows[0]["iteration"])
        values = self.file.identity.values(rows)
        for i in range(0, len(values), VALUES_A_CALL):
            self._put("log_metrics", values[i : i + VALUES_A_CALL])

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file, or a folder's files, to the run's artifacts. It is read when it is sent, shortly after."""
        self._put("log_artifact", str(Path(path).absolute()), folder)

    def reopen(self, tags: Mapping[str, Any] | None = None) -> None:
        """Record more of a run that was finished."""
        self.resumed = True
        this = self.file.identity
        this.status, this.tags = None, {**this.tags, **tags_of(tags)}
        self._put("start", True)

    def set_status(self, status: str) -> None:
        """Say that the run is `paused`, held by a scheduler until it goes on, or `running` again."""
        self._put("set_status", status)

    def finish(
        self,
        status: str,
        final: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        split: str = "val",
    ) -> None:
        """End the run: completed, stopped (by a scheduler), failed or interrupted.

        Args:
            final: its last scores, recorded at their `iteration` as `final_<name>`, or of the test `split` as
                `test_<name>`.
            params: parameters that are known only now: a sweep's are its winner's.
        """
        self._backfill(None)
        this = self.file.identity
        this.status = status
        self._put("finish", status, this.final_values(final or {}, split), tags_of(tags), params_of(params or {}))

    def _backfill(self, before: int | None) -> None:
        """Have the trackers that can look for it record what earlier processes logged of iterations under `before`."""
        if self.resumed and self.file.folder:
            for sender in self.senders:
                if sender.spec.backfills:
                    sender.put(self.file, Operation("backfill", [self.file.folder.where, before]))
        self.resumed = False

    def _put(self, kind: str, *data: Any) -> None:
        for sender in self.senders:
            sender.put(self.file, Operation(kind, list(data)))


def start(
    config: Config,
    *,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any] | None = None,
    parent: Run | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
) -> Run:
    """Start to record a run with each tracker that `config` enables. Never fails and never waits.

    The run's folder keeps in tracking.json which run this is. With `resume` the run named there is continued: what
    its metrics.jsonl holds of iterations before the first row that is logged now is sent, as far as it is lacking.
    """
    place = Folder(absolute(str(folder))) if folder else None
    uri = redact_uri(tracking_uri())
    this = Identity(uri, experiment, name, params_of(params), tags_of(tags), config.wandb_project)
    this.group = parent.file.identity.name if parent else None
    before = identity.read(place) if resume and place else None
    if before:
        this.token, this.begun, this.ids = before.token, before.begun, before.ids
    run = Run(TrackingFile(this, place, parent.file if parent else None), resumed=resume)
    for tracker, spec in TRACKERS.items():
        if spec.is_enabled(config):
            sender = _sender(tracker, spec.address())
            run.senders.append(sender)
            sender.put(run.file, Operation("start", [before is not None]))
            for kind, data in before.unsent.get(tracker, []) if before else []:
                sender.put(run.file, Operation(kind, data))
    return run


def flush(timeout: float = 30.0) -> bool:
    """Send what is queued, for at most `timeout` seconds, and less if a service did not answer before.

    Returns whether everything was sent. Each run's folder keeps what is needed to send the rest.
    """
    deadline = time.monotonic() + timeout
    senders = list(_senders.values())
    for sender in senders:
        sender.hurry()
    sent = [sender.wait(deadline) for sender in senders]
    for sender in senders:
        for file in sender.files:
            sender.save(file)
    return all(sent)


def services() -> str:
    """Return the names of the services that record this process's runs, as a message has them."""
    return " and ".join(dict.fromkeys(TRACKERS[tracker].label for tracker, _ in _senders))


def _sender(tracker: str, address: str) -> Sender:
    if (tracker, address) not in _senders:
        _senders[tracker, address] = Sender(tracker, address)
    return _senders[tracker, address]

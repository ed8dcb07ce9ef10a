"""A run as those who record it see it: begun, logged to, ended. Nothing here waits but `flush`."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from popgpt.config import Config
from popgpt.storage.folder import Folder, absolute
from popgpt.text.redaction import is_web, secrets, shown, without_secrets
from popgpt.tracking import identity
from popgpt.tracking.identity import Identity, params_of, tags_of
from popgpt.tracking.mlflow import METRICS_A_CALL, sqlite_path
from popgpt.tracking.sender import LABELS, Operation, Sender


def tracking_uri() -> str:
    """Where runs are recorded: MLFLOW_TRACKING_URI, or mlflow.db here. An SQLite path is made absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path, query = sqlite_path(uri), uri.partition("?")[1:]
    return "".join((f"sqlite:///{path}", *query)) if path else uri


def ui_command(uri: str | None = None) -> str:
    """The shell command that opens MLflow's pages for `uri` (default `tracking_uri()`). It holds no secret: a browser
    asks for a password itself, and `mlflow ui` takes the URI from the environment.
    """
    uri = uri or tracking_uri()
    python = Path(sys.executable)
    module = [str(python.relative_to(Path.cwd())) if python.is_relative_to(Path.cwd()) else str(python), "-m"]
    if is_web(uri):
        return shlex.join([*module, "webbrowser", without_secrets(uri)])
    if secrets(uri):
        return f'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI" {shlex.join([*module, "mlflow", "ui"])}'
    return shlex.join([*module, "mlflow", "ui", "--backend-store-uri", uri])


def services() -> str:
    """Whom runs of this process are recorded by, as a message names them."""
    return " and ".join(dict.fromkeys(LABELS[service] for service, _ in _senders))


@dataclass(eq=False)
class Run:
    """A run being recorded. Every method returns at once; `flush` is what waits."""

    identity: Identity
    folder: Folder | None = None
    parent: Run | None = None
    again: bool = False  # an earlier process may have begun it at the services
    resumed: bool = False  # what metrics.jsonl holds from before is still to be compared
    refused: dict[str, list[Operation]] = field(default_factory=dict)
    senders: list[Sender] = field(default_factory=list)

    @property
    def id(self) -> str | None:
        """MLflow's id of the run; None until the service has given it."""
        return self.identity.ids.get("mlflow")

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record the numbers of each row at its `iteration`; what is no number is left out, and what has been recorded
        of an iteration stays.
        """
        rows = list(rows)
        if rows:
            self._compare(rows[0]["iteration"])
        values = self.identity.values(rows)
        for i in range(0, len(values), METRICS_A_CALL):
            self._put("metrics", values[i : i + METRICS_A_CALL])

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Set tags; None is left out."""
        self._put("tags", tags_of(tags))

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file, or a folder's files, to the run's artifacts. It is read when it is sent, shortly after."""
        self._put("artifact", str(Path(path).absolute()), folder)

    def go_on(self, tags: Mapping[str, Any] | None = None) -> None:
        """Record more of a run that was finished."""
        self.again = self.resumed = True
        self.identity.status = None
        self.identity.tags = {**self.identity.tags, **tags_of(tags)}
        self._put("start")

    def mark(self, status: str) -> None:
        """Say that the run is `paused`, held by a scheduler until it goes on, or `running` again."""
        self._put("mark", status)

    def finish(
        self,
        status: str,
        final: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        split: str = "val",
    ) -> None:
        """End the run: completed, stopped (by a scheduler), failed or interrupted. The numbers in `final` are recorded
        as `final_<name>`, by operation as `final_exact_match/add`, at its `iteration`; those of the test `split` as
        `test_<name>`. `params`: parameters that are known only now, a sweep's winner's.
        """
        self._compare(None)
        self.identity.status = status
        self._put("finish", status, self.identity.final(final or {}, split), tags_of(tags), params_of(params or {}))

    def keep(self) -> None:
        """Write tracking.json; a folder that is gone or full is no reason to stop."""
        if self.folder is None:
            return
        for one in self.senders:
            if one.service == "wandb":
                left = one.unsent(self)
                self.identity.unsent = [(o.kind, o.data) for o in left if o.kind not in ("start", "finish")]
        with _writing, suppress(OSError):
            identity.write(self.folder, self.identity)

    def _compare(self, before: int | None) -> None:
        """Have MLflow told, of what earlier processes logged under `before`, all that it does not have."""
        if self.resumed and self.folder:
            for one in self.senders:
                if one.service == "mlflow":
                    one.put(self, Operation("earlier", [self.folder.where, before]))
        self.resumed = False

    def _put(self, kind: str, *data: Any) -> None:
        for one in self.senders:
            one.put(self, Operation(kind, list(data)))


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
    """Begin to record a run where `config.mlflow_log` and `config.wandb_log` say so. Never fails and never waits.

    `folder`, the run's, keeps which run this is in tracking.json. With `resume` the run recorded there is continued:
    what its metrics.jsonl holds from before the first row that is logged now is sent where MLflow does not have it.
    """
    uri, place = tracking_uri(), Folder(absolute(str(folder))) if folder else None
    this = Identity(shown(uri), experiment, name, params_of(params), tags_of(tags), config.wandb_project)
    this.group = parent.identity.name if parent else None
    before = identity.read(place) if resume and place else None
    if before:
        this.token, this.begun, this.ids = before.token, before.begun, before.ids
    run = Run(this, place, again=before is not None, parent=parent, resumed=resume)
    for service, wanted in (("mlflow", config.mlflow_log), ("wandb", config.wandb_log)):
        if wanted:
            run.senders.append(_sender(service, uri))
            run.senders[-1].put(run, Operation("start", []))
    for kind, data in before.unsent if before and config.wandb_log else []:
        run.senders[-1].put(run, Operation(kind, data))
    return run


def flush(timeout: float = 30.0) -> bool:
    """Send what is queued, at most `timeout` seconds long, and less where a service did not answer before. Whether
    everything was sent. Each run's folder keeps what is needed to send the rest.
    """
    deadline = time.monotonic() + timeout
    senders = list(_senders.values())
    for one in senders:
        one.hurry()
    sent = [one.wait(deadline) for one in senders]
    for run in dict.fromkeys(run for one in senders for run in one.runs):
        run.keep()
    return all(sent)


_senders: dict[tuple[str, str], Sender] = {}
_writing = threading.Lock()


def _sender(service: str, uri: str) -> Sender:
    key = (service, uri if service == "mlflow" else "")
    if key not in _senders:
        _senders[key] = Sender(service, uri)
    return _senders[key]

"""MLflow and W&B as witnesses: they mirror a run and can never end it, slow it or fail it.

One thread for each service sends what the runs of this process recorded, in order and in batches. A service that does
not answer costs one warning line; its rows wait in memory, are tried again, and what is still unsent at the end is left
in the run's folder. mlflow and wandb are imported in that thread, so nobody waits for them.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import shlex
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from popgpt.config import Config

FILE = "tracking.json"
STATUSES = {"completed": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
SYMBOLS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
METRICS_A_CALL = 1000
PARAMS_A_CALL = 100
LONGEST_PARAM = 6000
LONGEST_TAG = 5000
GATHER_SECONDS = 1.0
RETRY_SECONDS = (2.0, 60.0)
PATIENCE_SECONDS = 5.0
ARTIFACT_TRIES = 5
REFUSAL_CODES = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
REFUSALS = (ImportError, FileNotFoundError, KeyError, TypeError, AttributeError)
LABELS = {"mlflow": "MLflow", "wandb": "W&B"}
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}


def tracking_uri() -> str:
    """Where runs are recorded: MLFLOW_TRACKING_URI, or mlflow.db here. An SQLite path is made absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = _sqlite_path(uri)
    return f"sqlite:///{path}" if path else uri


def ui_command(uri: str | None = None) -> str:
    """The shell command that opens MLflow's pages for `uri` (default `tracking_uri()`)."""
    uri = uri or tracking_uri()
    python = Path(sys.executable)
    shown = str(python.relative_to(Path.cwd())) if python.is_relative_to(Path.cwd()) else str(python)
    if uri.startswith(("http://", "https://")):
        return shlex.join([shown, "-m", "webbrowser", uri])
    return shlex.join([shown, "-m", "mlflow", "ui", "--backend-store-uri", uri])


def _sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


@dataclass(eq=False)
class Operation:
    """One thing to record: `kind` is start, metrics, tags, artifact or finish; `data` is plain."""

    kind: str
    data: Any
    tries: int = 0


@dataclass(eq=False)
class Run:
    """A run being recorded. Every method returns at once; `flush` is what waits."""

    experiment: str
    name: str
    uri: str
    folder: Path | None
    parent: Run | None = None
    ids: dict[str, str] = field(default_factory=dict)
    lost: dict[str, list[Operation]] = field(default_factory=dict)
    senders: list[Sender] = field(default_factory=list)
    wandb: Any = None

    @property
    def id(self) -> str | None:
        """MLflow's id of the run; None until the service has given it."""
        return self.ids.get("mlflow")

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record the numbers of each row at its `iteration`; what is no number is left out."""
        now = int(time.time() * 1000)
        values = [[name, value, now, row["iteration"]] for row in rows for name, value in flat_metrics(row).items()]
        for i in range(0, len(values), METRICS_A_CALL):
            self._put("metrics", values[i : i + METRICS_A_CALL])

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Set tags; None is left out."""
        self._put("tags", _texts(_given(tags), LONGEST_TAG))

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file, or a folder's files, to the run's artifacts. It is read when it is sent, shortly after."""
        self._put("artifact", [str(Path(path).absolute()), folder])

    def finish(
        self, status: str, final: Mapping[str, Any] | None = None, tags: Mapping[str, Any] | None = None
    ) -> None:
        """End the run: completed, stopped (by a scheduler), failed or interrupted. The numbers in `final` are recorded
        as `final_<name>`, by operation as `final_exact_match/add`, at its `iteration`.
        """
        final = dict(final or {})
        row = {f"final_{name}": value for name, value in flat_metrics(final).items()}
        self.log([{**row, "iteration": final.get("iteration", 0)}])
        self.tag({"status": status, **(tags or {})})
        self._put("finish", status)

    def _put(self, kind: str, data: Any) -> None:
        for sender in self.senders:
            sender.put(self, Operation(kind, data))


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

    `folder`, the run's, keeps the run's ids and whatever stays unsent in tracking.json; with `resume` the run recorded
    there is continued, if it is of the same service, and what was unsent is sent.
    """
    run = Run(experiment, name, tracking_uri(), Path(folder).absolute() if folder else None, parent)
    left = _read_left(run) if resume else {}
    run.ids = dict(left.get("ids", {}))
    started = {
        "params": _texts(params, LONGEST_PARAM),
        "tags": _texts(_given(tags), LONGEST_TAG),
        "project": config.wandb_project,
        "begun": int(time.time() * 1000),
    }
    services = [s for s, wanted in (("mlflow", config.mlflow_log), ("wandb", config.wandb_log)) if wanted]
    for service in services:
        sender = _sender(service, run.uri)
        run.senders.append(sender)
        sender.put(run, Operation("start", started))
        for kind, data in left.get("unsent", {}).get(service, []):
            if kind not in ("start", "finish"):
                sender.put(run, Operation(kind, data))
    return run


def flush(timeout: float = 30.0) -> bool:
    """Send what is queued, at most `timeout` seconds long, and less where a service did not answer before. What stays
    unsent is written to tracking.json in each run's folder. Whether everything was sent.
    """
    now = time.monotonic()
    senders = list(_senders.values())
    deadlines = [now + (timeout if sender.hurry() else min(timeout, PATIENCE_SECONDS)) for sender in senders]
    sent = [sender.wait(deadline) for sender, deadline in zip(senders, deadlines, strict=True)]
    for run in dict.fromkeys(run for sender in senders for run in sender.runs):
        _write_left(run)
    return all(sent)


def flat_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row under names that MLflow takes; the exact match of each operation as `exact_match/add`."""
    flat = {
        _name(key): float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key != "iteration"
    }
    for symbol, scores in (row.get("by_operation") or {}).items():
        flat[f"exact_match/{SYMBOLS.get(symbol, _name(symbol))}"] = float(scores["exact_match"])
    return flat


def _name(key: str) -> str:
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in key)


def _given(values: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (values or {}).items() if value is not None}


def _texts(values: Mapping[str, Any], longest: int) -> dict[str, str]:
    texts = {_name(k): v if isinstance(v, str) else json.dumps(v, default=str) for k, v in values.items()}
    return {k: v if len(v) <= longest else v[: longest - 1] + "…" for k, v in texts.items()}


def _read_left(run: Run) -> dict[str, Any]:
    if run.folder is None:
        return {}
    try:
        left = json.loads((run.folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return left if isinstance(left, dict) and left.get("uri") == run.uri else {}


def _write_left(run: Run) -> None:
    """Write tracking.json, whole or not at all; a folder that is gone or full is no reason to stop."""
    if run.folder is None:
        return
    unsent = {sender.service: [[o.kind, o.data] for o in sender.unsent(run)] for sender in run.senders}
    left = {"uri": run.uri, "experiment": run.experiment, "name": run.name, "ids": run.ids}
    with _writing, suppress(OSError):
        run.folder.mkdir(parents=True, exist_ok=True)
        new = run.folder / f"{FILE}.new"
        new.write_text(
            json.dumps(
                left | {"unsent": unsent},
            ),
            encoding="utf-8",
        )
        new.replace(run.folder / FILE)


class Sender:
    """The thread that sends to one service. What fails because the service does not answer stays at the head of the
    queue and is tried again, later and later; what the service refuses is set aside in `Run.lost`.
    """

    def __init__(self, service: str, connect: Callable[[], Send]) -> None:
        self.service = service
        self.runs: list[Run] = []
        self._connect = connect
        self._send: Send | None = None
        self._queue: deque[Item] = deque()
        self._changed = threading.Condition()
        self._hurry = False
        self._failures = 0
        self._warned: set[str] = set()
        threading.Thread(target=self._work, name=f"popgpt-{service}", daemon=True).start()

    def put(self, run: Run, operation: Operation) -> None:
        with self._changed:
            if run not in self.runs:
                self.runs.append(run)
            self._queue.append((run, operation))
            self._changed.notify_all()

    def hurry(self) -> bool:
        """Send at once, whatever pause is on. Whether the service answered so far."""
        with self._changed:
            answered = not self._failures
            self._hurry, self._failures = bool(self._queue), 0
            self._changed.notify_all()
            return answered

    def wait(self, deadline: float) -> bool:
        """Until the queue is empty, an attempt has failed, or `deadline` (monotonic seconds). Whether all was sent."""
        with self._changed:
            seconds = max(0.0, deadline - time.monotonic())
            self._changed.wait_for(lambda: self._failures or not self._queue, seconds)
            return not self._queue and not any(run.lost.get(self.service) for run in self.runs)

    def unsent(self, run: Run) -> list[Operation]:
        """What still waits for a run, and what was refused."""
        with self._changed:
            return [*run.lost.get(self.service, []), *(o for owner, o in self._queue if owner is run)]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                self._changed.wait_for(lambda: self._hurry, retry_pause(self._failures))
            while self._queue and self._attempt():
                pass
            with self._changed:
                self._hurry = False

    def _attempt(self) -> bool:
        """Send the head of the queue. False where the service does not answer."""
        with self._changed:
            items = head(self._queue)
        run, first = items[0]
        data = first.data if len(items) == 1 else [value for _, operation in items for value in operation.data]
        try:
            self._send = self._send or self._connect()
            self._send(run, Operation(first.kind, data))
        except Exception as error:
            return self._after(error, items)
        self._remove(items)
        if first.kind == "start":
            _write_left(run)
        return True

    def _after(self, error: Exception, items: list[Item]) -> bool:
        run, first = items[0]
        refused = isinstance(error, REFUSALS) or getattr(error, "error_code", None) in REFUSAL_CODES
        first.tries += 1
        self._warn(error, f"refuses the {first.kind} of {run.name}" if refused else "does not answer")
        if refused or (first.kind == "artifact" and first.tries == ARTIFACT_TRIES):
            run.lost.setdefault(self.service, []).extend(operation for _, operation in items)
            self._remove(items)
            return True
        with self._changed:
            if first.kind == "artifact":
                self._queue.rotate(-1)
            self._failures += 1
            self._changed.notify_all()
        return False

    def _remove(self, items: list[Item]) -> None:
        with self._changed:
            for item in items:
                self._queue.remove(item)
            self._failures = 0
            self._changed.notify_all()

    def _warn(self, error: Exception, what: str) -> None:
        if what.split()[0] not in self._warned:
            self._warned.add(what.split()[0])
            kept = "the run goes on, and what is not sent is kept"
            print(f"warning: {LABELS[self.service]} {what} ({brief(error)}); {kept}", file=sys.stderr, flush=True)


def retry_pause(failures: int) -> float:
    """Seconds before the next attempt: time to gather a batch, or after failures twice as long each time."""
    return min(RETRY_SECONDS[0] * 2 ** (failures - 1), RETRY_SECONDS[1]) if failures else GATHER_SECONDS


def head(queue: Iterable[Item]) -> list[Item]:
    """The first of the queue and, where that is metrics, the metrics of the same run that fit in the same call."""
    items = iter(queue)
    taken = [next(items)]
    run, first = taken[0]
    if first.kind != "metrics":
        return taken
    room = METRICS_A_CALL - len(first.data)
    for item in items:
        if item[0] is run:
            room -= len(item[1].data) if item[1].kind == "metrics" else METRICS_A_CALL
            if room < 0:
                break
            taken.append(item)
    return taken


def brief(error: BaseException) -> str:
    """What went wrong at the root, in one short line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
    return text if len(text) <= 160 else f"{text[:159]}…"


Item = tuple[Run, Operation]
Send = Callable[[Run, Operation], None]
_senders: dict[tuple[str, str], Sender] = {}
_writing = threading.Lock()


def _sender(service: str, uri: str) -> Sender:
    key = (service, uri if service == "mlflow" else "")
    if key not in _senders:
        _senders[key] = Sender(service, (lambda: _mlflow(uri)) if service == "mlflow" else _wandb)
    return _senders[key]


def _mlflow(uri: str) -> Send:
    """Connect to MLflow at `uri`; a new SQLite store is made here, which takes seconds."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(mlflow|sqlalchemy|alembic)\b")
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    path = _sqlite_path(uri)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        open(path, "ab").close()  # what cannot be written is said at once; MLflow would try for half a minute
    client = MlflowClient(uri)

    def send(run: Run, operation: Operation) -> None:
        data = operation.data
        if operation.kind == "start":
            _mlflow_start(client, run, data)
        elif run.id is None:
            raise KeyError("the run was not begun")
        elif operation.kind == "metrics":
            client.log_batch(run.id, metrics=[Metric(*value) for value in data])
        elif operation.kind == "tags":
            _mlflow_texts(client, run.id, {}, data)
        elif operation.kind == "artifact":
            path, folder = data
            (client.log_artifacts if os.path.isdir(path) else client.log_artifact)(run.id, path, folder)
        else:
            client.set_terminated(run.id, STATUSES[data])

    return send


def _mlflow_start(client: Any, run: Run, data: Mapping[str, Any]) -> None:
    params = data["params"]
    if run.id is None:
        tags = {"mlflow.source.name": "popgpt", "mlflow.source.type": "LOCAL"}
        with suppress(OSError, KeyError):
            tags["mlflow.user"] = getpass.getuser()
        if run.parent and run.parent.id:
            tags["mlflow.parentRunId"] = run.parent.id
        experiment = _mlflow_experiment(client, run)
        run.ids["mlflow"] = client.create_run(experiment, data["begun"], tags, run.name).info.run_id
    else:
        known = client.get_run(run.ids["mlflow"]).data.params
        params = {key: value for key, value in params.items() if key not in known}
        client.update_run(run.ids["mlflow"], "RUNNING")
    _mlflow_texts(client, run.ids["mlflow"], params, data["tags"])


def _mlflow_experiment(client: Any, run: Run) -> str:
    """The experiment's id, made or restored if need be. Artifacts of an SQLite store lie beside it, whatever process
    logs them.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(run.experiment)
    if found is None:
        path = _sqlite_path(run.uri)
        location = (path.parent / "mlartifacts").as_uri() if path else None
        try:
            return str(client.create_experiment(run.experiment, location))
        except MlflowException:
            found = client.get_experiment_by_name(run.experiment)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _mlflow_texts(client: Any, run_id: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
    from mlflow.entities import Param, RunTag

    items = list(params.items())
    for i in range(0, max(len(items), 1), PARAMS_A_CALL):
        batch = [Param(*item) for item in items[i : i + PARAMS_A_CALL]]
        client.log_batch(run_id, params=batch, tags=[] if i else [RunTag(*item) for item in tags.items()])


def _wandb() -> Send:
    """Connect to W&B. Without a key and not offline it is refused, never asked for."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    if os.environ.get("WANDB_MODE", "online") in ("online", "shared") and not wandb.login(prompt=False):
        raise ImportError("no W&B key: `wandb login`, or WANDB_MODE=offline")

    def send(run: Run, operation: Operation) -> None:
        data = operation.data
        if operation.kind == "start":
            run.wandb = _wandb_start(wandb, run, data)
        elif run.wandb is None:
            raise KeyError("the run was not begun")
        elif operation.kind == "metrics":
            rows: dict[int, dict[str, float]] = {}
            for name, value, _, iteration in data:
                rows.setdefault(iteration, {"iteration": iteration})[name] = value
            for row in rows.values():
                run.wandb.log(row)
        elif operation.kind == "tags":
            run.wandb.config.update(data, allow_val_change=True)
        elif operation.kind == "artifact":
            path = Path(data[0])
            for file in [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]:
                run.wandb.save(str(file), base_path=str(path.parent), policy="now")
        else:
            run.wandb.finish(exit_code=int(STATUSES[data] != "FINISHED"))

    return send


def _wandb_start(wandb: Any, run: Run, data: Mapping[str, Any]) -> Any:
    settings = wandb.Settings(silent=True, console="off", init_timeout=30, x_disable_stats=True)
    if run.folder:
        run.folder.mkdir(parents=True, exist_ok=True)
    started = wandb.init(
        project=data["project"],
        name=run.name,
        group=run.parent.name if run.parent else None,
        config={**data["params"], **data["tags"]},
        dir=str(run.folder) if run.folder else None,
        id=run.ids.get("wandb"),
        resume="allow" if "wandb" in run.ids else None,
        reinit="create_new",
        settings=settings,
    )
    run.ids["wandb"] = started.id
    started.define_metric("iteration")
    started.define_metric("*", step_metric="iteration")
    return started

"""Records runs with MLflow. Every call sends only what MLflow does not have yet, so each may be made again."""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from popgpt.storage.folder import Folder
from popgpt.storage.stores import StoreError
from popgpt.text.errors import UserError
from popgpt.text.redaction import one_line, redact_uri
from popgpt.tracking.failure import failure
from popgpt.tracking.identity import Identity, Value, read_rows
from popgpt.tracking.tracker import Tracker
from popgpt.tracking.uri import sqlite_path

STATUSES = {
    "running": "RUNNING",
    "paused": "SCHEDULED",  # held by a scheduler until it goes on
    "completed": "FINISHED",
    "stopped": "KILLED",  # by a scheduler, before its end
    "interrupted": "KILLED",
    "failed": "FAILED",
}
SECONDS = ("train_seconds", "final_train_seconds")
NOTE = "mlflow.note.content"  # MLflow's pages show it as the run's description
TOKEN = "popgpt.token"
DIGEST = "popgpt.sha256/"
STALE = (
    "Another trial won when the sweep went on. MLflow keeps the parameters of the earlier winner; "
    "where those of `best_trial` differ, they are the tags `winner/...`."
)
METRICS_A_CALL = 1000
TEXTS_A_CALL = 100
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # popgpt tries again itself, and looks first whether it must
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}


def make_store(path: Path) -> None:
    """Create an SQLite store, whole or not at all: MLflow can't open one whose creation was cut short."""
    from mlflow import MlflowClient

    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        open(new, "wb").close()  # where that is not allowed it is said at once; MLflow would try for half a minute
        MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)
        try:
            os.link(new, path)
        except FileExistsError:  # another process was faster
            pass
        except OSError:  # a file system without hard links
            os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


@dataclass
class Known:
    """What MLflow has of a run, as far as it was asked."""

    status: str = "RUNNING"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: set[str] = field(default_factory=set)
    steps: dict[str, set[int]] | None = None  # by metric; None: not asked for yet


@contextmanager
def connection_errors(uri: str, remedy: str = "") -> Iterator[None]:
    """Raise ConnectionError, in one line, for what the client raises inside.

    That may be an error of MLflow, of a database's driver or of a store of artifacts. `remedy`: what to do about it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, StoreError) or getattr(error, "strerror", None):
            raise  # this machine's, or that of the run's own folder
        told = failure(error)
        what = "refuses" if told["answered"] else "does not answer"
        raise ConnectionError(f"MLflow at {one_line(redact_uri(uri))} {what} ({told['error']}){remedy}") from None


class Mlflow(Tracker):
    """A connection to MLflow. Every method raises what the client raises, and can be called again then."""

    def __init__(self, uri: str) -> None:
        """Connect to MLflow at `uri`; a new SQLite store is made here, which takes seconds."""
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(mlflow|sqlalchemy|alembic)\b")
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised, and told in one line
        self._store = sqlite_path(uri)
        if self._store:
            self._store.parent.mkdir(parents=True, exist_ok=True)
            if self._store.exists():
                open(self._store, "ab").close()
            else:
                make_store(self._store)
        self._client = MlflowClient(uri)
        self._runs: dict[str, Known] = {}

    def start(self, run: Identity, folder: str | None, again: bool) -> str:
        """Start or resume a run. Returns its id. `again`: MLflow may have it already."""
        run_id = self.find(run) if again else None
        if run_id is None:
            run_id = self.create(run)
        self.describe(run_id, run.params, {**run.tags, "status": "running"})
        self._become(run_id, "running")
        return run_id

    def backfill(self, run: Identity, folder: str, before: int | None) -> None:
        """Send what MLflow lacks of the rows in metrics.jsonl of iterations under `before`."""
        self.log_missing(run.ids["mlflow"], run.values(read_rows(Folder(folder), before)))

    def log_metrics(self, run: Identity, values: Sequence[Value]) -> None:
        self.log_missing(run.ids["mlflow"], values)

    def set_status(self, run: Identity, status: str) -> None:
        self._become(run.ids["mlflow"], status)

    def log_artifact(self, run: Identity, path: str, folder: str | None) -> None:
        self.upload(run.ids["mlflow"], Path(path), folder)

    def finish(
        self, run: Identity, status: str, values: Sequence[Value], tags: Mapping[str, str], params: Mapping[str, str]
    ) -> None:
        self.log_missing(run.ids["mlflow"], values)
        self.set_winner_params(run.ids["mlflow"], params)
        self.end(run.ids["mlflow"], status, tags)

    # What these are made of, and `sync` calls

    def find(self, run: Identity) -> str | None:
        """Find a run by its id, or else by its token. Returns its id."""
        from mlflow.exceptions import MlflowException

        run_id = run.ids.get("mlflow")
        if run_id:
            try:
                self.known(run_id)
                return run_id
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        experiment = self._client.get_experiment_by_name(run.experiment)
        if experiment is None:
            return None
        found = self._client.search_runs([experiment.experiment_id], f"tags.`{TOKEN}` = '{run.token}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def create(self, run: Identity) -> str:
        """Create a run, without parameters yet. Returns its id."""
        tags = {TOKEN: run.token, "mlflow.source.name": "popgpt", "mlflow.source.type": "LOCAL"}
        with suppress(OSError, KeyError):
            tags["mlflow.user"] = getpass.getuser()
        if run.parent:
            tags["mlflow.parentRunId"] = run.parent
        experiment = self._experiment(run)
        run_id = str(self._client.create_run(experiment, run.begun, tags, run.name).info.run_id)
        self._runs[run_id] = Known(tags=tags, steps={})
        return run_id

    def known(self, run_id: str) -> Known:
        """Return what MLflow has of a run."""
        if run_id not in self._runs:
            seen = self._client.get_run(run_id)
            data = seen.data
            self._runs[run_id] = Known(seen.info.status, dict(data.params), dict(data.tags), set(data.metrics))
        return self._runs[run_id]

    def steps(self, run_id: str) -> dict[str, set[int]]:
        """Return the steps at which MLflow has a value, by metric."""
        known = self.known(run_id)
        if known.steps is None:
            history = self._client.get_metric_history
            known.steps = {name: {value.step for value in history(run_id, name)} for name in known.metrics}
        return known.steps

    def missing(self, run_id: str, values: Sequence[Value]) -> list[Value]:
        """Return those of `values` whose metric has nothing at their step; of several at one step, the first."""
        first: dict[tuple[str, int], Value] = {}
        for value in values:
            first.setdefault((value[0], value[3]), value)
        steps = self.steps(run_id)
        return [value for (name, step), value in first.items() if step not in steps.get(name, ())]

    def log_missing(self, run_id: str, values: Sequence[Value]) -> int:
        """Send those of `values` that MLflow does not have. Returns how many they were."""
        from mlflow.entities import Metric

        new = self.missing(run_id, values)
        for start in range(0, len(new), METRICS_A_CALL):
            batch = new[start : start + METRICS_A_CALL]
            self._client.log_batch(run_id, metrics=[Metric(*value) for value in batch])
            for name, _, _, step in batch:
                self.steps(run_id).setdefault(name, set()).add(step)
        return len(new)

    def describe(self, run_id: str, params: Mapping[str, str], tags: Mapping[str, str]) -> list[str]:
        """Send the parameters of which MLflow has no value, and the tags that differ. Returns the names of both."""
        from mlflow.entities import Param, RunTag

        known = self.known(run_id)
        new = {key: value for key, value in params.items() if key not in known.params}
        changed = {key: value for key, value in tags.items() if known.tags.get(key) != value}
        left, waiting = iter(new.items()), iter(changed.items())
        for _ in range(0, max(len(new), len(changed)), TEXTS_A_CALL):
            some, others = dict(islice(left, TEXTS_A_CALL)), dict(islice(waiting, TEXTS_A_CALL))
            texts = {"params": [Param(*p) for p in some.items()], "tags": [RunTag(*t) for t in others.items()]}
            self._client.log_batch(run_id, **texts)
            known.params |= some
            known.tags |= others
        return [*new, *changed]

    def upload(self, run_id: str, path: Path, folder: str | None = None) -> list[str]:
        """Send a file, or a folder's files, where MLflow has not that content. Returns the names of what was sent."""
        if not path.exists():
            raise FileNotFoundError(2, "No such file", str(path))
        sent = []
        for file in [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file()):
            inside = file.relative_to(path).parent if path.is_dir() else Path()
            place = (Path(folder or "") / inside).as_posix()
            name = (Path(place) / file.name).as_posix()
            with open(file, "rb") as content:
                tag = {DIGEST + name: hashlib.file_digest(content, "sha256").hexdigest()}
            if not tag.items() <= self.known(run_id).tags.items():
                self._client.log_artifact(run_id, str(file), None if place == "." else place)
                self.describe(run_id, {}, tag)
                sent.append(name)
        return sent

    def set_winner_params(self, run_id: str, params: Mapping[str, str]) -> list[str]:
        """Give a sweep's parent run its winner's parameters. Returns the names of what MLflow did not have.

        MLflow never changes a parameter. Where the sweep went on and another trial won, those that differ are tags,
        `winner/<name>`, and the run's description says so.
        """
        known = self.known(run_id)
        others = {key: value for key, value in params.items() if known.params.get(key, value) != value}
        once = {key: value for key, value in params.items() if f"winner/{key}" in known.tags}
        if not others and not once:
            return self.describe(run_id, params, {})
        return self.describe(run_id, params, {NOTE: STALE, **{f"winner/{k}": v for k, v in (once | others).items()}})

    def end(self, run_id: str, status: str, tags: Mapping[str, str], at: int | None = None) -> bool:
        """Set how the run ended: completed, stopped, failed or interrupted. Returns whether MLflow did not have that.

        The end is the start plus the seconds that the run trained, so its duration counts neither a pause nor the time
        until MLflow is told. What trains nothing ended `at` (ms since 1970), by default now.
        """
        changed = self.describe(run_id, {}, {"status": status, **tags})
        run = self._client.get_run(run_id)
        trained = max((run.data.metrics[name] for name in SECONDS if name in run.data.metrics), default=None)
        if trained is not None:
            at = run.info.start_time + round(1000 * trained)
        told = run.info.status == STATUSES[status]
        if not told or (trained is not None and run.info.end_time != at):
            self._client.set_terminated(run_id, STATUSES[status], at)
            self.known(run_id).status = STATUSES[status]
        return bool(changed) or not told

    def _become(self, run_id: str, status: str) -> None:
        """Say that a run is `running` or `paused`."""
        self.describe(run_id, {}, {"status": status})
        if self.known(run_id).status != STATUSES[status]:
            self._client.update_run(run_id, STATUSES[status])
            self.known(run_id).status = STATUSES[status]

    def _experiment(self, run: Identity) -> str:
        """Return the id of the run's experiment, which is created or restored if need be.

        Artifacts of an SQLite store lie beside it, whichever process logs them.
        """
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(run.experiment)
        if found is None:
            location = (self._store.parent / "mlartifacts").as_uri() if self._store else None
            try:
                return str(self._client.create_experiment(run.experiment, location))
            except MlflowException:
                found = self._client.get_experiment_by_name(run.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

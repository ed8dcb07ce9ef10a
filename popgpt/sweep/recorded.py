"""A sweep and its trials as their folders record them, for MLflow, whether they were tracked or not."""

from __future__ import annotations

from popgpt.storage.folder import Folder
from popgpt.sweep.content import Content
from popgpt.sweep.events import ENDED, Status
from popgpt.sweep.record import FILE, read
from popgpt.sweep.trial import Trial
from popgpt.tracking.identity import Identity, tags_of
from popgpt.tracking.sync import RecordedRun
from popgpt.training.folder import CONFIG
from popgpt.training.recorded import new_identity, recorded_run, tracked_identity


def recorded_sweep(folder: Folder) -> list[RecordedRun]:
    """Return the sweep in a folder, then its trials that were started, the finalists' repeats included."""
    assert folder.path  # a sweep's folder is on this machine
    content = Content.from_json(read(folder.path))
    parent = RecordedRun(folder, _sweep_identity(folder, content), artifacts=[(folder.path / FILE, None)])
    parent.status = parent.identity.status
    parent.ended_at = round(1000 * (folder.path / FILE).stat().st_mtime)  # it was written last when the sweep ended
    finalists = {each["id"] for each in content.finalists}
    trials = [_recorded_trial(trial, content.metric, parent, finalists) for trial in content.runs]
    started = [trial for trial in trials if trial]
    winner = content.best
    if "test" in winner:
        parent.winner_params = next((one.identity.params for one in started if one.folder.name == winner["id"]), {})
        parent.status, parent.split = "completed", "test"
        parent.final = {**winner["test"], "iteration": sum(trial.iterations for trial in content.runs)}
        parent.end_tags = {"best_trial": winner["id"], "split": "test"}
        if (folder.path / "best").is_dir():
            parent.artifacts.append((folder.path / "best", "best"))
    return [parent, *started]


def _sweep_identity(folder: Folder, content: Content) -> Identity:
    if not (this := tracked_identity(folder)):
        this = new_identity(folder, content.definition["base"])
        this.name, this.tags = folder.name, {"sweep": folder.name}
    this.params = {}  # a sweep's are its winner's
    return this


def _recorded_trial(trial: Trial, metric: str, parent: RecordedRun, finalists: set[str]) -> RecordedRun | None:
    """Return a trial; None if it has not been started."""
    folder, whole = parent.folder / "trials" / trial.id, parent.identity
    if CONFIG not in folder.names():
        return None
    this = recorded_run(folder).identity
    if not this.tags:
        this.name, this.group = f"{whole.name}/{trial.id}", whole.name
        this.tags = whole.tags | tags_of({"trial": trial.id})
    finalist = trial.of or trial.id
    this.tags |= {"finalist": finalist} if finalist in finalists else {}
    this.uri = whole.uri
    status = trial.status if trial.status in ENDED else Status.INTERRUPTED
    reason = tags_of({"reason": trial.reason})
    return RecordedRun(folder, this, status, dict(trial.best_row(metric)), end_tags=reason)

"""A sweep in MLflow and W&B: a parent run, and a child for each trial, the finalists' repeats included."""

from __future__ import annotations

from pathlib import Path

from popgpt import tracking
from popgpt.config import Config
from popgpt.data.batches import count_left_out
from popgpt.data.dataset import Dataset
from popgpt.metrics.row import Row
from popgpt.storage.folder import Folder
from popgpt.sweep import journal
from popgpt.sweep.events import ENDED, Event, Paused, Reported, Started, Status
from popgpt.sweep.record import Record, trial_config, trial_folder
from popgpt.sweep.report.files import HTML, MARKDOWN
from popgpt.tracking import Run
from popgpt.training.folder import outcome

WENT_ON = "went on as a finalist"


class SweepTracker:
    """Records a sweep at the tracking services: the sweep as a run, and each trial as a child run."""

    def __init__(self, record: Record, out_dir: Path, dataset: Dataset, base: Config, resume: bool):
        self._record = record
        self._out_dir = out_dir
        self._meta = dataset.meta
        self._resume = resume
        self._parent = self._start(out_dir.name, base, None, out_dir, resume)
        self._runs: dict[str, Run] = {}
        self._ended: dict[str, Run] = {}

    def _start(self, name: str, config: Config, trial: str | None, folder: Path, resume: bool) -> Run:
        """Start the run of the sweep, or of a trial. The sweep has no parameters until it has those of its winner."""
        return tracking.start(
            config,
            experiment=config.experiment or config.dataset,
            name=name,
            params=config.model_dump() if trial else {},
            tags={
                "sweep": self._out_dir.name,
                "trial": trial,
                "finalist": self._record.finalist_of(trial) if trial else None,
                "search_space": self._record.sweep.source,
                "dataset_fingerprint": self._meta.fingerprint,
                "lines_left_out": count_left_out(config, self._meta) if trial else None,
            },
            parent=self._parent if trial else None,
            folder=folder,
            resume=resume,
        )

    def apply(self, name: str, event: Event) -> None:
        """Send an event of a trial, which the record has applied."""
        match event:
            case Started():
                self._begin(name)
            case Reported(rows):
                self._runs[name].log(list(rows))
            case Paused():
                self._runs[name].set_status(Status.PAUSED)
            case _:
                self._end(name)

    def tag_finalists(self) -> None:
        """Tag the finalists that have completed; the others are tagged when they go on."""
        for name in self._record.finalists:
            if self._record.trials[name].status == Status.COMPLETED:
                self._begin(name, resume=True)
                self._end(name)

    def add_rows(self, name: str, rows: list[Row]) -> None:
        """Log rows of a trial that had ended before they were known."""
        self._begin(name, resume=True)
        self._runs[name].log(rows)
        self._end(name)

    def _begin(self, name: str, resume: bool = False) -> None:
        if name in self._runs:
            self._runs[name].set_status(Status.RUNNING)  # it goes on, or was restarted, and is the same run
        elif name in self._ended:
            self._runs[name] = self._ended.pop(name)
            self._runs[name].reopen({"finalist": self._record.finalist_of(name)})
        else:
            config, shown = trial_config(self._record, self._out_dir, name), f"{self._out_dir.name}/{name}"
            self._runs[name] = self._start(shown, config, name, Path(config.out_dir), resume or self._resume)

    def _end(self, name: str) -> None:
        if name not in self._runs:
            return  # it failed before it started
        trial, run = self._record.runs[name], self._runs.pop(name)
        reason = trial.reason or (None if trial.stopped_by is None else WENT_ON)
        status = Status.INTERRUPTED if trial.status == Status.PAUSED else trial.status
        run.finish(status, trial.best_row(self._record.sweep.metric), {"reason": reason})
        self._ended[name] = run

    def _end_recorded(self) -> None:
        """Send the trials that ended under an earlier process, which may have been killed before it had sent them."""
        for name, run in self._record.runs.items():
            there = trial_folder(self._out_dir, name).exists()
            if there and name not in self._ended and run.status in ENDED:
                self._begin(name)
                self._end(name)

    def finish(self, status: str, winner: Row | None) -> None:
        """Send the end of the sweep and of the trials that it cut short, and the files, which are written by now."""
        for name in list(self._runs):
            self._end(name)
        if self._resume:
            self._end_recorded()
        for name, run in self._ended.items():
            folder = trial_folder(self._out_dir, name)
            for file in outcome(Folder(folder)):
                run.artifact(folder / file)
        for path in (self._out_dir / name for name in (journal.FILE, HTML, MARKDOWN)):
            if path.exists():
                self._parent.artifact(path)
        if winner:
            self._parent.artifact(winner["run_dir"], "best")
            self._finish_with(winner)
        else:
            self._parent.finish(status)

    def _finish_with(self, winner: Row) -> None:
        """End the parent run with the winner's parameters and its scores on test.

        The scores' step is the iterations of the whole sweep, so that a sweep that goes on adds later ones.
        """
        params = trial_config(self._record, self._out_dir, winner["id"]).model_dump()
        scores = {**winner["test"], "iteration": sum(trial.iterations for trial in self._record.runs.values())}
        tags = {"best_trial": winner["id"], "split": "test"}
        self._parent.finish(Status.COMPLETED, scores, tags, params, split="test")

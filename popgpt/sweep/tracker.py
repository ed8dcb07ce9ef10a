"""A sweep in MLflow and W&B: a parent run, and a child for each trial, the finalists' repeats included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popgpt.config import Config
from popgpt.metrics.row import Row
from popgpt.terminal import cli

if TYPE_CHECKING:
    from popgpt.data.dataset import Dataset
    from popgpt.sweep.record import Record
    from popgpt.tracking import Run

WENT_ON = "went on as a finalist"


def trial_config(record: Record, out_dir: Path, name: str) -> Config:
    """The config of a trial: it has a folder of its own."""
    from popgpt.sweep.record import trial_folder

    config = record.sweep.config(record.runs[name]["config"])
    return cli.absolute(config.model_copy(update={"out_dir": str(trial_folder(out_dir, name))}))


class SweepTracker:
    """Tells the services what Ray Tune tells of a sweep."""

    def __init__(self, record: Record, out_dir: Path, dataset: Dataset, base: Config, resume: bool):
        self._record = record
        self._out_dir = out_dir
        self._meta = dataset.meta
        self._resume = resume
        self._parent = self._start(out_dir.name, base, None, out_dir, resume)
        self._runs: dict[str, Run] = {}
        self._ended: dict[str, Run] = {}

    def _start(self, name: str, config: Config, trial: str | None, folder: Path, resume: bool) -> Run:
        """Begin to record the sweep, or a trial. The sweep has no parameters until it has those of its winner."""
        from popgpt import tracking
        from popgpt.data.batches import count_left_out

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

    def take(self, name: str, event: str, what: Mapping[str, Any]) -> None:
        """Record an event of a trial, which the record has taken in."""
        if event == "started":
            self._begin(name)
        elif event == "reported":
            self._runs[name].log(what["rows"])
        elif event == "paused":
            self._runs[name].mark("paused")
        else:
            self._end(name)

    def chosen(self) -> None:
        """Tag the finalists that need not go on; the others are tagged when they do."""
        for name in self._record.finalists:
            if self._record.trials[name]["status"] == "completed":
                self._begin(name, resume=True)
                self._end(name)

    def add(self, name: str, rows: list[Row]) -> None:
        """Record rows of a trial that had ended before anybody was told of them."""
        self._begin(name, resume=True)
        self._runs[name].log(rows)
        self._end(name)

    def _begin(self, name: str, resume: bool = False) -> None:
        if name in self._runs:
            self._runs[name].mark("running")  # it goes on, or was restarted, and is the same run
        elif name in self._ended:
            self._runs[name] = self._ended.pop(name)
            self._runs[name].go_on({"finalist": self._record.finalist_of(name)})
        else:
            config, shown = trial_config(self._record, self._out_dir, name), f"{self._out_dir.name}/{name}"
            self._runs[name] = self._start(shown, config, name, Path(config.out_dir), resume or self._resume)

    def _end(self, name: str) -> None:
        from popgpt.sweep import ranking

        if name not in self._runs:
            return  # it failed before it started
        trial, run = self._record.runs[name], self._runs.pop(name)
        reason = trial["reason"] or (WENT_ON if "stopped_by" in trial else None)
        status = "interrupted" if trial["status"] == "paused" else trial["status"]
        run.finish(status, ranking.best_row(trial, self._record.sweep.metric), {"reason": reason})
        self._ended[name] = run

    def _tell_again(self) -> None:
        """Record the trials that ended under an earlier process: it may have been killed before it had told of them."""
        from popgpt.sweep import record

        for name, run in self._record.runs.items():
            there = record.trial_folder(self._out_dir, name).exists()
            if there and name not in self._ended and run["status"] not in record.OPEN:
                self._begin(name)
                self._end(name)

    def finish(self, status: str, winner: Row | None) -> None:
        """Record the end of the sweep, of the trials that it cut short, and the files, which are all written by now."""
        from popgpt.storage.folder import Folder
        from popgpt.sweep import record
        from popgpt.sweep.report.files import HTML, MARKDOWN
        from popgpt.training.folder import outcome

        for name in list(self._runs):
            self._end(name)
        if self._resume:
            self._tell_again()
        for name, run in self._ended.items():
            folder = record.trial_folder(self._out_dir, name)
            for file in outcome(Folder(folder)):
                run.artifact(folder / file)
        for path in (self._out_dir / name for name in (record.FILE, HTML, MARKDOWN)):
            if path.exists():
                self._parent.artifact(path)
        if winner:
            self._parent.artifact(winner["run_dir"], "best")
            self._crown(winner)
        else:
            self._parent.finish(status)

    def _crown(self, winner: Row) -> None:
        """End the parent with what won: the trial's parameters and its scores on test. Their step is the iterations of
        the whole sweep, so that those of a sweep that went on come after those it had.
        """
        from popgpt.sweep import ranking

        params = trial_config(self._record, self._out_dir, winner["id"]).model_dump()
        scores = {**winner["test"], "iteration": sum(map(ranking.iterations, self._record.runs.values()))}
        tags = {"best_trial": winner["id"], "split": "test"}
        self._parent.finish("completed", scores, tags, params, split="test")

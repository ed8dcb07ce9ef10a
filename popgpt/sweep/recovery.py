"""What a killed process of a sweep left: its record, the rows it did not record, the decisions it did not write."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

from popgpt.metrics.row import Row
from popgpt.storage.folder import Folder
from popgpt.sweep import asha, journal, record, search
from popgpt.sweep.asha import AshaScheduler
from popgpt.sweep.draws import sample
from popgpt.sweep.events import OPEN, Ended, Paused, Status
from popgpt.sweep.record import Record, trial_folder
from popgpt.sweep.schema import Sweep
from popgpt.terminal.progress import waiting_for
from popgpt.text.errors import UserError
from popgpt.training.folder import claimed, read_metrics

logger = logging.getLogger("popgpt")


def open_record(sweep: Sweep, out_dir: Path, resume: bool, force: bool, retry_failed: bool) -> Record:
    """Return the record of a new sweep, or of the one to resume. Raises UserError if a sweep is in the way."""
    if sweep.search == "optuna":
        search.load()
    trials = Record(sweep, sample(sweep))
    if resume:
        failed = trials.restore(record.read(out_dir), retry_failed)
        if failed:
            count = f"{failed} trial{'s' if failed > 1 else ''} that failed"
            words = f"running {count} again" if retry_failed else f"leaving {count} alone; see --retry-failed"
            logger.info("%s", words)
        recover_open_trials(trials, out_dir)
    elif (out_dir / journal.FILE).exists() and not force:
        raise UserError(
            f"out_dir={sweep.out_dir} holds a sweep already: go on with it by --resume, give another out_dir, "
            f"or start anew by --force, which moves it to {sweep.out_dir}.old-N"
        )
    return trials


def recover_open_trials(record: Record, out_dir: Path) -> None:
    """Add to the record what open trials logged and an earlier process did not record.

    A trial's process outlives a killed driver by a moment, in which it may come to its next evaluation. Raises
    UserError if one is still at work.
    """
    for name, run in record.runs.items():
        folder = trial_folder(out_dir, name)
        if run.status in OPEN and run.status != Status.PAUSED and folder.exists():  # a paused one reported all
            with waiting_for(f"waiting for the process of trial {name} to end", claimed(Folder(folder))):
                recover_rows(record, out_dir, name)


def recover_rows(record: Record, out_dir: Path, name: str, before: float = math.inf) -> list[Row]:
    """Add to the record what a trial's folder has of iterations under `before`. Returns the rows that were missing."""
    run, logged = record.runs[name], read_metrics(Folder(trial_folder(out_dir, name)))
    recorded = {row["iteration"] for row in run.metrics}
    earlier = [[row for row in rows if row["iteration"] < before] for rows in (run.metrics, logged)]
    found = max(earlier, key=len)
    record.put(replace(run, metrics=found))
    return [row for row in found if row["iteration"] not in recorded]


def make_scheduler(record: Record) -> AshaScheduler | None:
    """Return the scheduler of the trials, or None if the sweep stops none early.

    It has the state that was recorded, and judges the rows that an earlier process recorded but was killed before it
    wrote the decision.
    """
    scheduler = asha.scheduler(record.sweep)
    if scheduler and record.asha:
        scheduler.load_state(record.asha)
        record.reopen(scheduler.holds)
        for name in record.open_trials():
            trial = record.trials[name]
            if trial.metrics:
                scheduler.add(name)
                judged = [scheduler.judge(name, row) for row in trial.metrics]
                if not all(judged) and trial.iterations < record.sweep.max_t:
                    record.apply(name, Paused() if scheduler.holds(name) else Ended(scheduler.reason(name)))
    record.asha = scheduler.state() if scheduler else None
    return scheduler

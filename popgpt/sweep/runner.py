"""Runs a sweep: its trials under ASHA, its finalists to the full budget, its winner on the test split."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from popgpt import tracking
from popgpt.cluster import session
from popgpt.data.batches import describe_too_long, line_room, make_rows
from popgpt.data.dataset import Dataset, ensure_dataset
from popgpt.data.meta import SPLITS
from popgpt.storage.folder import Folder
from popgpt.storage.stores import is_uri, refuse_secrets
from popgpt.sweep import asha, journal, schema, trials
from popgpt.sweep.asha import AshaScheduler, PromotingScheduler
from popgpt.sweep.events import Event, Reported, Started, Status
from popgpt.sweep.placement import GpuMemory, Placement, place, shares_gpus, too_tight
from popgpt.sweep.printing import example_prompt, print_result
from popgpt.sweep.progress import SweepProgress
from popgpt.sweep.record import Record, trial_config, trial_folder
from popgpt.sweep.recovery import make_scheduler, open_record, recover_rows
from popgpt.sweep.report.files import write_report_or_warn
from popgpt.sweep.schema import Sweep
from popgpt.sweep.tracker import SweepTracker
from popgpt.sweep.winner import score_winner
from popgpt.terminal import arguments
from popgpt.terminal.progress import waiting, waiting_for
from popgpt.text.errors import UserError
from popgpt.training import folder
from popgpt.training.memory import largest
from popgpt.training.state import load_initial

logger = logging.getLogger("popgpt")


def run_sweep(sweep: Sweep, resume: bool, force: bool, retry_failed: bool) -> int:
    """Run the sweep's trials and finalists, score the winner and print the result. Returns the exit code."""
    started = time.monotonic()
    refuse_secrets(sweep.out_dir, "out_dir: ")
    if is_uri(sweep.out_dir):
        raise UserError(f"out_dir={sweep.out_dir} should be a path: of a sweep, only this machine's or a shared one's")
    out_dir = Path(sweep.out_dir).resolve()
    record = open_record(sweep, out_dir, resume, force, retry_failed)
    folder.check_place(Folder(out_dir))
    base = arguments.absolute(sweep.config())
    with waiting("preparing the dataset"):
        dataset = ensure_dataset(base)
    check_some_can_run(record, dataset)
    warn_of_long_lines(record, dataset)
    scheduler = make_scheduler(record)
    winner, status = None, Status.FAILED
    connection = session.connected(lambda has: place(*_demands(record, has), len(record.trials)))
    with waiting_for("starting Ray", connection) as resources:
        placement_of = make_placement(record, resources)
        make_out_dir(out_dir, resume)
        record.write(out_dir)
        tracker = SweepTracker(record, out_dir, dataset, base, resume)
        try:
            Runner(record, out_dir, placement_of, tracker, scheduler).run()
            status = Status.INTERRUPTED if record.unfinished() else Status.FAILED
            winner = score_winner(record, out_dir, dataset, tracker) if not record.unfinished() else None
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
            raise
        finally:
            record.interrupt()
            record.write(out_dir, winner)
            write_report_or_warn(out_dir)
            tracker.finish(status, winner)
            with waiting(f"sending to {tracking.services()}"):
                tracking.flush()
    drop_states(record, out_dir)
    print_result(record, out_dir, winner, time.monotonic() - started, example_prompt(dataset, base.block_size))
    return 0 if winner else 130 if record.unfinished() else 1


class Runner:
    """Runs the trials of a sweep, and passes each event to the record, the journal, the services and the terminal."""

    def __init__(
        self,
        record: Record,
        out_dir: Path,
        placement_of: Callable[[int], Placement],
        tracker: SweepTracker,
        scheduler: AshaScheduler | None,
    ):
        """placement_of: the placement of so many trials. scheduler: of the trials, not of the finalists."""
        self._record = record
        self._out_dir = out_dir
        self._placement_of = placement_of
        self._tracker = tracker
        self._scheduler = scheduler
        self._progress = SweepProgress(record)
        self._not_reported: set[str] = set()  # trials that have not reported since they started

    def run(self) -> None:
        """Run what is unfinished: the trials under ASHA; then, once all have ended, the finalists to the full budget.

        After Ctrl-C or SIGTERM nothing more is started.
        """
        record = self._record
        with self._progress:
            interrupted = self._run(record.open_trials(), self._scheduler, len(record.trials))
            if record.choose_finalists():
                record.write(self._out_dir)
                self._tracker.tag_finalists()
                drop_states(record, self._out_dir)
            if not interrupted:
                count = len(record.finalists) * (1 + record.sweep.finalist_seeds)
                self._run(record.open_finals(), asha.to_the_end(record.sweep), count)

    def _run(self, names: list[str], scheduler: AshaScheduler | None, count: int) -> bool:
        all_known = not isinstance(scheduler, PromotingScheduler) and not self._record.planned()
        placement = self._placement_of(count)
        return trials.run_trials(names, self._config_of, placement, scheduler, self._out_dir, self._on_event, all_known)

    def _config_of(self, name: str) -> dict[str, Any]:
        if self._record.propose(name):
            self._record.append(self._out_dir, name, (), {})
        return trial_config(self._record, self._out_dir, name).model_dump()

    def _on_event(self, name: str, event: Event) -> None:
        if isinstance(event, Started):
            self._not_reported.add(name)
        elif isinstance(event, Reported) and name in self._not_reported:
            self._not_reported.remove(name)
            missing = recover_rows(self._record, self._out_dir, name, before=event.rows[0]["iteration"])
            event = replace(event, rows=[*missing, *event.rows])
        self._record.apply(name, event)
        rows = event.rows if isinstance(event, Reported) else ()
        self._record.append(self._out_dir, name, rows, self._scheduler.changes() if self._scheduler else {})
        self._tracker.apply(name, event)
        self._progress(name, event)


def check_some_can_run(record: Record, dataset: Dataset) -> None:
    """Raise UserError, the first trial's, if no trial's config gets rows of the dataset, and weights to start from."""
    refusals = []
    for name in record.open_trials():
        if record.trials[name].status == Status.PLANNED:
            break
        try:
            config = record.sweep.config(record.trials[name].config)
            make_rows(config, dataset, "train", config.seed)
            load_initial(config, dataset)
            return
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def warn_of_long_lines(record: Record, dataset: Dataset) -> None:
    """Log, once for all trials, how many lines are too long for the smallest of their block_sizes."""
    configs = sorted((record.sweep.config(parameters) for parameters in record.drawn), key=line_room)
    if too_long := describe_too_long(configs[0], dataset.meta, SPLITS):
        some = "in some trials " if line_room(configs[0]) < line_room(configs[-1]) else ""
        logger.warning("%s%s", some, too_long)


def make_out_dir(out_dir: Path, resume: bool) -> None:
    """Make OUT. What an earlier sweep left there stays for --resume, else it is moved aside."""
    if not resume and (out_dir / journal.FILE).exists():
        number = next(n for n in range(1, 10**6) if not out_dir.with_name(f"{out_dir.name}.old-{n}").exists())
        out_dir.rename(out_dir.with_name(f"{out_dir.name}.old-{number}"))
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out_dir={out_dir}: {error.strerror}") from None


def make_placement(record: Record, resources: session.Resources) -> Callable[[int], Placement]:
    """Return the function that gives the placement of so many trials of the sweep.

    If trials may share GPUs, the largest is probed once in a sweep for what it takes of one. Raises UserError if they
    can't run here.
    """
    demands, count = _demands(record, resources), len(record.trials)
    if record.gpu is None and shares_gpus(*demands, count):
        config = largest([record.sweep.config(parameters) for parameters in record.drawn])
        record.gpu = trials.probe_gpu(arguments.absolute(config))
    memory = GpuMemory(**record.gpu) if record.gpu else None
    if warning := too_tight(place(*demands, count, memory), memory):
        logger.warning("%s", warning)
    return lambda count: place(*demands, count, memory)


def _demands(record: Record, has: session.Resources) -> tuple[schema.TrialResources, session.Resources, int, str]:
    """Return the first arguments of `place`, which do not depend on the number of trials."""
    base = record.sweep.config()
    return record.sweep.resources, has, base.workers, base.device


def drop_states(record: Record, out_dir: Path) -> None:
    """Remove the states of trials that have ended, but ckpt.pt, and one state where a trial may yet go on from it."""
    for name in record.runs:
        if (kept := record.states_kept(name)) is not None:
            folder.drop_states(Folder(trial_folder(out_dir, name)), kept)

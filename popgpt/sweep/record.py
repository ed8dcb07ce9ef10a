"""The state of a sweep: its trials, its finalists and their runs. It is on disk, so that a killed sweep goes on."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from popgpt.config import Config, Role, merge, parameters_of
from popgpt.metrics.row import Row
from popgpt.sweep import finals, journal, ranking, search
from popgpt.sweep.events import OPEN, Ended, Event, Failed, Paused, Reported, Started, Status
from popgpt.sweep.schema import Sweep, SweepFile
from popgpt.sweep.trial import Trial
from popgpt.terminal import arguments
from popgpt.text.errors import UserError, shortened

FILE = journal.FILE
TEST = ("exact_match", "exact_match_n", "exact_match_low", "exact_match_high")  # what is shown of a score on test
RESUME = "--resume goes on with the same sweep: set it back, or give another out_dir"


class Record:
    """The trials of a sweep by id, in order.

    Once all have ended, the finalists are chosen. `repeats` are the finalists' runs with other seeds.
    """

    def __init__(self, sweep: Sweep, drawn: Sequence[Mapping[str, Any]]):
        """drawn: what random search tries, as `draws.sample` has it."""
        self.sweep = sweep
        self.asha: dict[str, Any] | None = None  # the scheduler's state
        self.drawn = drawn
        self.trials: dict[str, Trial] = {}
        for number, values in enumerate(drawn):
            planned = search.rests_on_others(sweep, number)
            name, status = f"{number:04d}", Status.PLANNED if planned else Status.WAITING
            self.trials[name] = Trial(name, {} if planned else dict(values), status)
        self.repeats: dict[str, Trial] = {}
        self.finalists: list[str] = []
        self.gpu: dict[str, int] | None = None  # what the largest trial takes of a GPU, where that was asked
        self.scored: dict[str, Any] = {}  # `best` when an earlier process had scored it on test
        self.runs: Mapping[str, Trial] = ChainMap(self.repeats, self.trials)
        """All trials by id, then the finalists' repeats."""
        self._written = 0  # how often sweep.json was

    def put(self, trial: Trial) -> None:
        """Replace the trial or the repeat of the same id, or add the repeat."""
        (self.repeats if trial.of else self.trials)[trial.id] = trial

    def open_trials(self) -> list[str]:
        """Return the trials that are to run or to go on under ASHA."""
        return [trial.id for trial in self.trials.values() if trial.status in OPEN and trial.stopped_by is None]

    def open_finals(self) -> list[str]:
        """Return the finalists' runs, of all seeds, that are to run or to go on to the full budget."""
        return [run.id for name in self.finalists for run in self._of(name) if run.status in OPEN]

    def unfinished(self) -> list[str]:
        """Return all runs that are to run or to go on, as far as they are known."""
        return [*self.open_trials(), *self.open_finals()]

    def finalist_of(self, name: str) -> str | None:
        """Return the finalist whose configuration a run has, or None."""
        of = self.runs[name].of or name
        return of if of in self.finalists else None

    def planned(self) -> bool:
        """Return whether some trials have no parameters yet."""
        return any(trial.status == Status.PLANNED for trial in self.trials.values())

    def propose(self, name: str) -> bool:
        """Give the first of the planned trials its parameters. Returns False if the trial was not planned."""
        if self.runs[name].status != Status.PLANNED:
            return False
        before = [trial for trial in self.trials.values() if trial.status != Status.PLANNED]
        self.put(Trial(name, search.propose(self.sweep, self.drawn, before)))
        return True

    def seed(self, name: str) -> int:
        """Return the seed that a run is trained with."""
        return self.sweep.config(self.runs[name].config).seed

    def states_kept(self, name: str) -> int | None:
        """Return how many states of a trial are needed beside ckpt.pt, or None if it has not ended.

        A failed one may run again; before the finalists are chosen, any that was stopped may become one.
        """
        status = self.runs[name].status
        if status in OPEN:
            return None
        undecided = bool(self.sweep.finalists) and not self.finalists
        return int(status == Status.FAILED or (status == Status.STOPPED and undecided))

    def choose_finalists(self) -> bool:
        """Choose the finalists if all trials have ended, and add their runs. Returns whether they were chosen now.

        The open runs of trials that were finalists before there were more trials are stopped.
        """
        sweep = self.sweep
        if self.finalists or not sweep.finalists or self.open_trials():
            return False
        self.finalists = finals.choose(self.trials.values(), sweep.metric, sweep.finalists)
        for trial in [*self.trials.values()]:
            if trial.id in self.finalists and trial.status == Status.STOPPED:
                self.put(replace(trial, status=Status.WAITING, reason=None, stopped_by=trial.reason or ""))
            elif trial.id not in self.finalists and trial.status in OPEN:
                self.put(replace(trial, status=Status.STOPPED, reason=trial.stopped_by, stopped_by=None))
        for run in [*self.repeats.values()]:
            if run.of not in self.finalists and run.status in OPEN:
                self.put(replace(run, status=Status.STOPPED, reason="no longer a finalist's"))
        for name in self.finalists:
            parameters = self.trials[name].config
            for other, values in finals.repeats(name, parameters, self.seed(name), sweep.finalist_seeds).items():
                run = self.repeats.get(other, Trial(other, values, of=name))
                again = run.status == Status.STOPPED
                self.put(replace(run, status=Status.WAITING, reason=None) if again else run)
        return bool(self.finalists)

    def results(self) -> list[Mapping[str, Any]]:
        """Return the finalists with their scores, best first."""
        metric = self.sweep.metric
        of = {name: self._of(name) for name in self.finalists}
        seeds = {name: [self.seed(run.id) for run in runs] for name, runs in of.items()}
        return finals.ranked([finals.result(name, of[name], seeds[name], metric) for name in of], metric)

    def winner(self) -> Trial | None:
        """Return the trial whose configuration wins, or None if none has a score.

        That is the finalist with the best mean once all the finalists' runs have ended, and else the best trial.
        """
        if self.finalists and not self.open_finals():
            return self.trials[self.results()[0]["id"]]
        return ranking.best(self.trials.values(), self.sweep.metric)

    def _of(self, name: str) -> list[Trial]:
        """Return the runs of a finalist's configuration, its trial first."""
        return [self.trials[name], *(run for run in self.repeats.values() if run.of == name)]

    def restore(self, before: Mapping[str, Any], retry_failed: bool = False) -> int:
        """Take up the state that an earlier process wrote. Returns how many runs have failed.

        With retry_failed they run again. If trials are to run, finalists are chosen anew after them. Raises UserError
        if the state is another sweep's.
        """
        check_same(before, self)
        for entry in (*before["trials"], *before.get("repeats", [])):
            self.put(Trial.from_json(entry))
        failed = [run for run in self.runs.values() if run.status == Status.FAILED]
        for run in failed if retry_failed else []:
            self.put(replace(run, status=Status.WAITING, reason=None))
        if not self.open_trials():
            self.finalists = [each["id"] for each in before.get("finalists", [])]
        self.asha = before.get("asha")
        self._written = before.get("written", 0)
        self.gpu = before.get("gpu")
        best = before["best"] or {}
        has_test = all((best.get("test") or {}).get(key) is not None for key in TEST)
        self.scored = best if has_test else {}
        return len(failed)

    def reopen(self, holds: Callable[[str], bool]) -> None:
        """If trials are to run, pause stopped ones that the scheduler `holds`: they may be promoted among these."""
        for trial in [*self.trials.values()] if self.open_trials() else ():
            if trial.status == Status.STOPPED and holds(trial.id):
                self.put(replace(trial, status=Status.PAUSED, reason=None))

    def apply(self, name: str, event: Event) -> None:
        """Change a trial's status and rows as `event` says."""
        trial = self.runs[name]
        match event:
            case Started():
                self.put(replace(trial, status=Status.RUNNING, reason=None))
            case Paused():
                self.put(replace(trial, status=Status.PAUSED, reason=None))
            case Reported(rows):
                self.put(trial.add_rows(rows))
            case Failed(reason):
                self.put(replace(trial, status=Status.FAILED, reason=reason))
            case Ended(reason):
                completed = trial.iterations >= min(self.sweep.config(trial.config).max_iters, self.sweep.max_t)
                status, reason = (Status.COMPLETED, None) if completed else (Status.STOPPED, reason)
                self.put(replace(trial, status=status, reason=reason))

    def interrupt(self) -> None:
        """Set the status of running trials to interrupted."""
        for trial in [*self.runs.values()]:
            if trial.status == Status.RUNNING:
                self.put(replace(trial, status=Status.INTERRUPTED))

    def write(self, out_dir: Path, winner: Mapping[str, Any] | None = None) -> None:
        """Replace OUT/sweep.json. winner: what `best` says beside its scores."""
        runs = list(self.trials.values()), list(self.repeats.values())
        found = journal.derived(*runs, self.results(), self.sweep.metric)
        if winner:
            found["best"] |= winner
        self._written += 1
        ours = {"sweep": definition(self.sweep), "asha": self.asha, "gpu": self.gpu, "written": self._written}
        journal.write(out_dir, {**found, **ours})

    def append(self, out_dir: Path, name: str, rows: Sequence[Row], asha: Mapping[str, Any]) -> None:
        """Append a line to OUT/events.jsonl: what has changed of a run since its line before, its new rows, and, by the
        trials' ids, what has changed of ASHA's state. A line is as long as that, however much was recorded.

        A line with rows is not synced to the disk: the run's folder has the rows too.
        """
        for other, change in asha.items():
            if self.asha:
                journal.change_asha(self.asha, other, dict(change))
        line = {"after": self._written, **self.runs[name].to_event(rows), "asha": asha}
        journal.append(out_dir, line, sync=not rows)


def trial_folder(out_dir: Path, name: str) -> Path:
    """Return the run folder of a trial."""
    return out_dir / "trials" / name


def trial_config(record: Record, out_dir: Path, name: str) -> Config:
    """Return the config of a trial, which trains in its own folder."""
    config = record.sweep.config(record.runs[name].config)
    return arguments.absolute(config.model_copy(update={"out_dir": str(trial_folder(out_dir, name))}))


def definition(sweep: Sweep) -> dict[str, Any]:
    """Return what makes a sweep the same sweep, as JSON gives it back. Its number of samples may grow."""
    parts = {
        "metric": sweep.metric,
        "seed": sweep.seed,
        "search": sweep.search,
        "finalists": sweep.finalists,
        "finalist_seeds": sweep.finalist_seeds,
        "space": {name: asdict(domain) for name, domain in sweep.space.items()},
        "points": sweep.points,
        "base": merge(sweep.base, {}),
        "asha": sweep.asha.model_dump() if sweep.asha else None,
        "max_t": sweep.max_t,
    }
    plain: dict[str, Any] = json.loads(json.dumps(parts))
    return plain


def check_same(before: Mapping[str, Any], record: Record) -> None:
    """Raise UserError, naming the key, if `before` is of another sweep, or of one of more trials."""
    then, now = (dict(parts(each)) for each in (before["sweep"], definition(record.sweep)))
    for key in dict.fromkeys([*then, *now]):
        old, new = (_value(key, of) for of in (then, now))
        if old != new:
            raise UserError(f"{key}={shortened(new)} was {shortened(old)} when this sweep was started; {RESUME}")
    if list(now["space"]) != list(then["space"]):
        raise UserError(f"space={now['space']} was in the order {then['space']} when this sweep was started; {RESUME}")
    if len(record.trials) < len(before["trials"]):
        raise UserError(
            f"num_samples={record.sweep.num_samples} makes {len(record.trials)} trials, but this sweep has "
            f"{len(before['trials'])}: a sweep can only grow; give more --samples"
        )


def parts(definition: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each key of a definition as the command line names it, `space.dropout` and `config.max_iters` too, but for what
    says only where a run takes place.
    """
    for key, value in definition.items():
        if key == "base":
            place = parameters_of(Role.PLACE)
            yield from ((f"config.{name}", item) for name, item in value.items() if name not in place)
        elif key in ("space", "asha") and value is not None:
            yield key, list(value) if key == "space" else None
            yield from ((f"{key}.{name}", item) for name, item in value.items())
        else:
            yield key, value


def _value(key: str, of: Mapping[str, Any]) -> Any:
    """Return a key's value, or its default if a config leaves it out or the sweep is older than the key."""
    if key == "space":
        return None  # its names come each by itself, and their order after them
    name = key.removeprefix("config.")
    field = (Config if name != key else SweepFile).model_fields.get(name)
    return of.get(key, field.default if field else None)


def read(out_dir: Path) -> dict[str, Any]:
    """Return what the sweep in a folder has recorded. Raises UserError if there is none."""
    if not (out_dir / FILE).exists():
        raise UserError(f"{out_dir / FILE}: no such file; --resume needs a sweep that was started with this out_dir")
    return journal.read(out_dir)

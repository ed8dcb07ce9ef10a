"""What is known of a sweep's trials while it runs, kept on disk, from where a killed sweep goes on."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from popgpt.config import Config, Role, merge, parameters_of
from popgpt.sweep import finals, ranking, search, stored
from popgpt.sweep.schema import Sweep, SweepFile
from popgpt.text.errors import UserError, shortened

FILE, OPEN = stored.FILE, stored.OPEN
KEPT = ("config", "status", "reason", "metrics")  # of a trial, for a later process
TEST = ("exact_match", "exact_match_n", "exact_match_low", "exact_match_high")  # of a score, what is shown
RESUME = "--resume goes on with the same sweep: set it back, or give another out_dir"


class Record:
    """The trials of a sweep by id, in order. A trial is as `ranking.Trial` says; `waiting` and `running` come before,
    and before them `planned`: without parameters, which `propose` gives it when its turn comes.

    Once they have ended, the finalists are chosen. `repeats` are their runs with other seeds, trials too, but for `of`:
    whose configuration it is. A trial that ASHA stopped and that goes on as a finalist has `stopped_by`: ASHA's reason.
    """

    def __init__(self, sweep: Sweep, drawn: Sequence[Mapping[str, Any]]):
        """drawn: what random search tries, as `draws.sample` has it."""
        self.sweep = sweep
        self.asha: dict[str, Any] | None = None  # the scheduler's state
        self.drawn = drawn
        self.trials = {f"{number:04d}": _new(f"{number:04d}", values) for number, values in enumerate(drawn)}
        for number, trial in enumerate(self.trials.values()):
            if search.rests_on_others(sweep, number):
                trial |= {"config": {}, "status": "planned"}
        self.repeats: dict[str, dict[str, Any]] = {}
        self.finalists: list[str] = []
        self.gpu: dict[str, int] | None = None  # what the largest trial takes of a GPU, where that was asked
        self.scored: dict[str, Any] = {}  # `best` when an earlier process had scored it on test
        self.runs: MutableMapping[str, dict[str, Any]] = ChainMap(self.repeats, self.trials)
        """All trials by id, then the finalists' repeats."""
        self._written = 0  # how often sweep.json was

    def open_trials(self) -> list[str]:
        """The trials that are still to run or to go on under ASHA."""
        return [name for name, t in self.trials.items() if t["status"] in OPEN and "stopped_by" not in t]

    def open_finals(self) -> list[str]:
        """The finalists' runs, with all seeds, that are still to run or to go on to the full budget."""
        names = [run["id"] for name in self.finalists for run in self._of(name)]
        return [name for name in names if self.runs[name]["status"] in OPEN]

    def unfinished(self) -> list[str]:
        """What is still to run or to go on, as far as it is known."""
        return [*self.open_trials(), *self.open_finals()]

    def finalist_of(self, name: str) -> str | None:
        """The finalist whose configuration a run has; None where it has none's."""
        of = str(self.runs[name].get("of", name))
        return of if of in self.finalists else None

    def planned(self) -> bool:
        """Whether there are trials that have no parameters yet."""
        return any(trial["status"] == "planned" for trial in self.trials.values())

    def propose(self, name: str) -> bool:
        """Give a planned trial, the first of them, its parameters. Whether it was planned."""
        if self.runs[name]["status"] != "planned":
            return False
        before = [trial for trial in self.trials.values() if trial["status"] != "planned"]
        self.trials[name] |= {"config": search.propose(self.sweep, self.drawn, before), "status": "waiting"}
        return True

    def seed(self, name: str) -> int:
        """The seed that a run is trained with."""
        return self.sweep.config(self.runs[name]["config"]).seed

    def states_kept(self, name: str) -> int | None:
        """How many states of a trial that has ended something may go on from, beside ckpt.pt; None: it has not ended.

        A failed one may run again; before the finalists are chosen, any that was stopped may become one.
        """
        status = self.runs[name]["status"]
        if status in OPEN:
            return None
        undecided = bool(self.sweep.finalists) and not self.finalists
        return int(status == "failed" or (status == "stopped" and undecided))

    def choose_finalists(self) -> bool:
        """Choose the finalists, where all trials have ended, and lay out their runs. Whether they are newly chosen.

        Of those that were finalists before there were more trials, what is not ended is given up.
        """
        sweep = self.sweep
        if self.finalists or not sweep.finalists or self.open_trials():
            return False
        self.finalists = finals.choose(self.trials.values(), sweep.metric, sweep.finalists)
        for name, trial in self.trials.items():
            if name in self.finalists and trial["status"] == "stopped":
                trial |= {"status": "waiting", "reason": None, "stopped_by": trial["reason"]}
            elif name not in self.finalists and trial["status"] in OPEN:
                trial |= {"status": "stopped", "reason": trial.pop("stopped_by")}
        for run in self.repeats.values():
            if run["of"] not in self.finalists and run["status"] in OPEN:
                run |= {"status": "stopped", "reason": "no longer a finalist's"}
        for name in self.finalists:
            parameters = self.trials[name]["config"]
            for other, values in finals.repeats(name, parameters, self.seed(name), sweep.finalist_seeds).items():
                run = self.repeats.setdefault(other, _new(other, values) | {"of": name})
                if run["status"] == "stopped":
                    run |= {"status": "waiting", "reason": None}
        return bool(self.finalists)

    def results(self) -> list[Mapping[str, Any]]:
        """The finalists with their scores, best first."""
        metric = self.sweep.metric
        of = {name: self._of(name) for name in self.finalists}
        seeds = {name: [self.seed(run["id"]) for run in runs] for name, runs in of.items()}
        return finals.ranked([finals.result(name, of[name], seeds[name], metric) for name in of], metric)

    def winner(self) -> Mapping[str, Any] | None:
        """The trial whose configuration wins: of the finalist with the best mean where there are any, once all their
        runs have ended; until then the best trial so far. None where none has a score.
        """
        if self.finalists and not self.open_finals():
            return self.trials[self.results()[0]["id"]]
        return ranking.best(list(self.trials.values()), self.sweep.metric)

    def _of(self, name: str) -> list[dict[str, Any]]:
        """The runs with a finalist's configuration, its trial first."""
        return [self.trials[name], *(run for run in self.repeats.values() if run["of"] == name)]

    def take_up(self, before: Mapping[str, Any], retry_failed: bool = False) -> int:
        """Go on from what an earlier process wrote. retry_failed: with what failed, too. Returns how many that are.

        Where trials are to run, finalists are chosen anew after them. Raises UserError where that was another sweep.
        """
        check_same(before, self)
        for old in before["trials"]:
            self.trials[old["id"]] |= {key: old[key] for key in (*KEPT, "stopped_by") if key in old}
        for old in before.get("repeats", []):
            self.repeats[old["id"]] = _new(old["id"], old["config"]) | {key: old[key] for key in (*KEPT, "of")}
        failed = [run for run in self.runs.values() if run["status"] == "failed"]
        for run in failed if retry_failed else []:
            run |= {"status": "waiting", "reason": None}
        if not self.open_trials():
            self.finalists = [each["id"] for each in before.get("finalists", [])]
        self.asha = before.get("asha")
        self._written = before.get("written", 0)
        self.gpu = before.get("gpu")
        best = before["best"] or {}
        whole = all((best.get("test") or {}).get(key) is not None for key in TEST)
        self.scored = best if whole else {}
        return len(failed)

    def reopen(self, holds: Callable[[str], bool]) -> None:
        """Where trials are still to run, open those again that had ended but may go on beside them."""
        for name, trial in self.trials.items() if self.open_trials() else ():
            if trial["status"] == "stopped" and holds(name):
                trial |= {"status": "paused", "reason": None}

    def take(self, name: str, event: str, what: Mapping[str, Any], reason: str | None) -> None:
        """Take in an event of a trial: started, reported (what["rows"]), paused, ended or failed (what["reason"]).

        reason: why the scheduler stopped the trial, where it did.
        """
        trial = self.runs[name]
        if event in ("started", "paused"):
            trial |= {"status": "running" if event == "started" else "paused", "reason": None}
        elif event == "reported":
            stored.add_rows(trial["metrics"], what["rows"])
        elif event == "failed":
            trial |= {"status": "failed", "reason": what["reason"]}
        else:
            end = min(self.sweep.config(trial["config"]).max_iters, self.sweep.max_t)
            whole = ranking.iterations(trial) >= end
            trial |= {"status": "completed", "reason": None} if whole else {"status": "stopped", "reason": reason}

    def interrupt(self) -> None:
        """What was running is interrupted."""
        for trial in self.runs.values():
            if trial["status"] == "running":
                trial["status"] = "interrupted"

    def write(self, out_dir: Path, crowned: Mapping[str, Any] | None = None) -> None:
        """Replace OUT/sweep.json. crowned: what `best` says beside its scores."""
        runs = list(self.trials.values()), list(self.repeats.values())
        found = stored.derived(*runs, self.results(), self.sweep.metric)
        if crowned:
            found["best"] |= crowned
        self._written += 1
        ours = {"sweep": definition(self.sweep), "asha": self.asha, "gpu": self.gpu, "written": self._written}
        stored.write(out_dir, {**found, **ours})

    def note(self, out_dir: Path, name: str, rows: Sequence[Mapping[str, Any]], asha: Mapping[str, Any]) -> None:
        """Add to OUT/events.jsonl what has changed of a run since the event before: with these rows, and, by the
        trials' names, what ASHA knows. It is as long as that, however much was recorded.

        Rows alone may be lost with the power, as the run's folder has them too.
        """
        for other, change in asha.items():
            if self.asha:
                stored.change_asha(self.asha, other, dict(change))
        run = self.runs[name]
        what = {key: run[key] for key in ("id", "config", "status", "reason")}
        event = {"after": self._written, **what, "rows": ranking.plain(rows), "asha": asha}
        stored.append(out_dir, event, last=not rows)


def trial_folder(out_dir: Path, name: str) -> Path:
    """The run folder of a trial."""
    return out_dir / "trials" / name


def _new(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"config": dict(parameters), "status": "waiting", "reason": None, "metrics": [], "id": name}


def definition(sweep: Sweep) -> dict[str, Any]:
    """What makes a sweep the same sweep, as JSON gives it back. Its number of samples may grow."""
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
    """Raises UserError, naming the key, where `before` was written of another sweep, or of one of more trials."""
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
    """A key's value; its default where a config leaves it out, or a sweep was started before there was such a key."""
    if key == "space":
        return None  # its names come each by itself, and their order after them
    name = key.removeprefix("config.")
    field = (Config if name != key else SweepFile).model_fields.get(name)
    return of.get(key, field.default if field else None)


def read(out_dir: Path) -> dict[str, Any]:
    """What the sweep in a folder has recorded. Raises UserError where there is none."""
    if not (out_dir / FILE).exists():
        raise UserError(f"{out_dir / FILE}: no such file; --resume needs a sweep that was started with this out_dir")
    return stored.read(out_dir)

"""What is known of a sweep's trials while it runs, kept in OUT/sweep.json, from which a killed sweep goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from popgpt.config import UserError, merge
from popgpt.files import read_json, write_json
from popgpt.sweep import report
from popgpt.sweep.space import Sweep

FILE = "sweep.json"
OPEN = ("waiting", "running", "interrupted")


class Record:
    """The trials of a sweep by id, in order. A trial is as `report.Trial` says; `waiting` and `running` come before."""

    def __init__(self, sweep: Sweep, parameters: Sequence[Mapping[str, Any]]):
        self.sweep = sweep
        self.asha: dict[str, Any] | None = None  # the scheduler's state when an earlier process wrote it
        self.trials: dict[str, dict[str, Any]] = {
            f"{number:04d}": {"config": dict(values), "status": "waiting", "reason": None, "metrics": []}
            for number, values in enumerate(parameters)
        }
        for name, trial in self.trials.items():
            trial["id"] = name

    def unfinished(self) -> list[str]:
        """The trials that are still to run or to go on."""
        return [name for name, trial in self.trials.items() if trial["status"] in OPEN]

    def take_up(self, before: Mapping[str, Any]) -> None:
        """Go on from what an earlier process wrote. Raises UserError where that was another sweep."""
        for key, value in definition(self.sweep).items():
            if before["sweep"].get(key) != value:
                raise UserError(
                    f"{key}={value!r} was {before['sweep'].get(key)!r} when this sweep was started; "
                    f"--resume goes on with the same sweep: set it back, or give another out_dir"
                )
        for old in before["trials"]:
            if old["id"] in self.trials:
                known = {key: old[key] for key in ("status", "reason", "metrics")}
                self.trials[old["id"]] |= known
        self.asha = before["asha"]

    def take(self, name: str, event: str, what: Mapping[str, Any], reason: str | None) -> None:
        """Take in an event of a trial: started, reported (what["rows"]), ended or failed (what["reason"]).

        reason: why the scheduler stopped the trial, where it did.
        """
        trial = self.trials[name]
        if event == "started":
            trial["status"] = "running"
        elif event == "reported":
            first = what["rows"][0]["iteration"]
            trial["metrics"] = [*(row for row in trial["metrics"] if row["iteration"] < first), *what["rows"]]
        elif event == "failed":
            trial |= {"status": "failed", "reason": what["reason"]}
        else:
            end = min(self.sweep.config(trial["config"]).max_iters, self.sweep.max_t)
            whole = report.iterations(trial) >= end
            trial |= {"status": "completed", "reason": None} if whole else {"status": "stopped", "reason": reason}

    def interrupt(self) -> None:
        """What was running is interrupted."""
        for trial in self.trials.values():
            if trial["status"] == "running":
                trial["status"] = "interrupted"

    def write(self, out_dir: Path, asha: Mapping[str, Any] | None, winner: Mapping[str, Any] | None = None) -> None:
        """Replace OUT/sweep.json. asha: the scheduler's state. winner: what `best` says beside its scores."""
        found = report.summary(list(self.trials.values()), self.sweep.metric)
        if winner:
            found["best"] |= winner
        content = {**found, "sweep": definition(self.sweep), "asha": asha}
        write_json(out_dir / FILE, content)


def definition(sweep: Sweep) -> dict[str, Any]:
    """What makes a sweep the same sweep, as JSON gives it back. Its number of samples may grow."""
    parts = {
        "metric": sweep.metric,
        "seed": sweep.seed,
        "max_t": sweep.max_t,
        "space": {name: asdict(domain) for name, domain in sweep.space.items()},
        "points": sweep.points,
        "asha": sweep.asha.model_dump() if sweep.asha else None,
        "base": merge(sweep.base, {}),
    }
    plain: dict[str, Any] = json.loads(json.dumps(parts))
    return plain


def read(out_dir: Path) -> dict[str, Any]:
    """The sweep.json of a folder. Raises UserError where there is none."""
    if not (out_dir / FILE).exists():
        raise UserError(f"{out_dir / FILE}: no such file; --resume needs a sweep that was started with this out_dir")
    return read_json(out_dir / FILE)

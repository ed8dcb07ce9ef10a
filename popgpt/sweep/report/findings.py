"""What a sweep's report says, in numbers and words, as pure functions of sweep.json's content."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from popgpt.config import dump_yaml, merge
from popgpt.metrics.metric import METRICS, score
from popgpt.metrics.row import Row
from popgpt.sweep.content import Content
from popgpt.sweep.events import ENDED, OPEN, Status
from popgpt.sweep.trial import Trial

MOST = 0.8  # of the trials, to compare all at one iteration


def about_finalists(content: Content) -> str:
    """Return what a reader must know of the finalists, even if there are none; "" if no trial has a score."""
    if content.finalists:
        if content.definition.get("finalist_seeds") == 0:
            return "Trained to the full budget, each with its own seed only, so the choice rests on one run of each."
        return "Trained to the full budget with further seeds. The one with the best mean on val is the winner."
    if not content.best:
        return ""
    if content.open_runs and content.definition.get("finalists") != 0:
        return "None yet: the best are trained with further seeds when all trials have ended."
    return "None were trained with further seeds, so the choice rests on one run of each trial."


def statuses(content: Content) -> str:
    """Return how many trials there are of each status, in words."""
    found = [trial.status for trial in content.trials]
    order = (*ENDED, *reversed(OPEN))
    return ", ".join(f"{found.count(status)} {status}" for status in order if status in found)


@dataclass(frozen=True)
class Comparison:
    """Scores of the trials at one iteration, so that they compare: those stopped early got no further."""

    metric: str  # the sweep's, or token_accuracy where the sweep's is the same for all
    iteration: int
    scores: dict[str, float]  # by the trial's id: of its first evaluation at or past `iteration`
    scored: int  # trials that have any evaluation

    @property
    def varies(self) -> bool:
        """Whether not all scores are the same."""
        return len(set(self.scores.values())) > 1

    @property
    def title(self) -> str:
        """The metric and the iteration."""
        return f"{METRICS[self.metric].label} at iteration {self.iteration:,}"


def comparison(content: Content) -> Comparison | None:
    """Return the scores at the largest rung, or at the end, that at least 0.8 of the evaluated trials reached.

    If there is none, at the last evaluation of the trial that got least far. None if nothing was evaluated.
    """
    rows = {trial.id: each for trial in content.trials if (each := trial.evaluations(content.metric))}
    last = {name: int(of_trial[-1]["iteration"]) for name, of_trial in rows.items()}
    if not last:
        return None
    ends = [*content.rungs, *(content.budget(trial) for trial in content.trials if trial.id in last)]
    common = [at for at in ends if sum(end >= at for end in last.values()) >= MOST * len(last)]
    iteration = max([*common, min(last.values())])
    found, finer = (
        Comparison(metric, iteration, _scores_at(rows, metric, iteration), len(last))
        for metric in (content.metric, "token_accuracy")
    )
    return finer if not found.varies and finer.varies and len(finer.scores) == len(found.scores) else found


def compared(content: Content, level: Comparison) -> str:
    """Return which scores are compared, and why, in words."""
    end = max(map(content.budget, content.trials))
    reached = f"which {len(level.scores)} of the {level.scored} evaluated trials reached"
    by = f"each counts by its {level.title}"
    words = f"Here {by}, the end, {reached}."
    if level.iteration < end:
        words = f"Trials that stopped early can't be compared at their last score, so here {by} of {end:,}, {reached}."
        words += " What helps so early need not help in the end."
    if level.metric != content.metric:
        words += f" Their {METRICS[content.metric].label} is all the same there."
    return words


def _scores_at(rows: Mapping[str, Sequence[Row]], metric: str, iteration: int) -> dict[str, float]:
    at = {name: next((r for r in of_trial if r["iteration"] >= iteration), {}) for name, of_trial in rows.items()}
    return {name: float(row[metric]) for name, row in at.items() if math.isfinite(score(row, metric)[0])}


@dataclass(frozen=True)
class Compute:
    """What a sweep cost, against every trial run to its full budget, in iterations."""

    run: int
    saved: int  # by ASHA
    lost: int  # not run, of trials that failed or are still open
    train_seconds: float | None  # in training steps, evaluations left out; None: not recorded
    seconds_saved: float  # what the saved iterations would have taken at each trial's own speed
    rungs: list[tuple[int, int, int]]  # iteration, trials that reached it, trials stopped there
    repeats: int  # iterations of the finalists' repeats, in none of the others

    @property
    def full(self) -> int:
        """The iterations of every trial run to its full budget."""
        return self.run + self.saved + self.lost


def compute(content: Content) -> Compute:
    """Return what the sweep cost."""
    left = {trial.id: max(0, content.budget(trial) - trial.iterations) for trial in content.trials}
    stopped = [trial for trial in content.trials if trial.status == Status.STOPPED]
    saved = sum(left[trial.id] for trial in stopped)
    seconds = {trial.id: spent for trial in content.trials if (spent := _train_seconds(trial)) is not None}
    timed = [trial for trial in stopped if trial.id in seconds and trial.iterations]
    after = [*content.rungs[1:], math.inf][: len(content.rungs)]
    return Compute(
        run=sum(trial.iterations for trial in content.trials),
        saved=saved,
        lost=sum(left.values()) - saved,
        train_seconds=sum(seconds.values()) if seconds else None,
        seconds_saved=sum(left[trial.id] * seconds[trial.id] / trial.iterations for trial in timed),
        rungs=[
            (
                rung,
                sum(trial.iterations >= rung for trial in content.trials),
                sum(rung <= trial.iterations < end for trial in stopped),
            )
            for rung, end in zip(content.rungs, after, strict=True)
        ],
        repeats=sum(repeat.iterations for repeat in content.repeats),
    )


def _train_seconds(trial: Trial) -> float | None:
    spent = [row["train_seconds"] for row in trial.metrics if row.get("train_seconds") is not None]
    return float(spent[-1]) if spent else None


def answer(content: Content) -> list[str]:
    """Return the result in sentences: the result itself, how it was come by, what is unfinished."""
    best, trial = content.best, content.best_trial
    if not content.trials:
        return ["The sweep has no trials."]
    still_open = len(content.open_runs)
    are = "is" if still_open == 1 else "are"
    waiting = [f"Not finished: {still_open} of {len(content.runs)} trials {are} still open."] if still_open else []
    if trial is None:
        return [*waiting, "No trial has a score yet." if waiting else "No trial has a score, so there is no winner."]
    if test := best.get("test"):
        line = f"Trial {trial.id} answers {percent(test['exact_match'], 2)} of the test split exactly"
        return [f"{line} ({interval(test)}).", f"{_chosen(content)} It was scored once on the test split.", *waiting]
    score = shown_score(trial.best_row(content.metric), content.metric)
    return [
        *(waiting or ["The winner has not been scored on the test split."]),
        f"Best so far: trial {trial.id}, {on_val(content.metric)} {score}.",
        "That number was selected on, so it is likely too good; it is not the result.",
    ]


def _chosen(content: Content) -> str:
    name, total, finalists = METRICS[content.metric].label, len(content.trials), len(content.finalists)
    if finalists:
        among = f", among {finalists} finalists of {total} trials" if finalists > 1 else "; it was the only one"
        how = name if content.definition.get("finalist_seeds") == 0 else f"mean {name} over seeds"
        return f"It was chosen on the val split, by {how}{among}."
    among = f"among {total} trials by {name}" if total > 1 else f"by {name}; there was one trial"
    return f"It was chosen on the val split, {among}."


def command(content: Content, out_dir: str) -> str | None:
    """Return the command that trains the best trial again, or None if there is none."""
    if not content.best:
        return None
    folder = content.best.get("run_dir") or f"{out_dir}/trials/{content.best['id']}"
    return f"python -m popgpt.train {shlex.quote(f'{folder}/config.yaml')} out_dir=out/again"


def config_yaml(content: Content) -> str | None:
    """Return the best trial's config as YAML, or None if it is not known."""
    trial, base = content.best_trial, content.definition.get("base")
    return dump_yaml(merge(base, trial.config)) if trial is not None and base else None


def on_val(metric: str) -> str:
    """Return the name of a metric of the validation split."""
    label = METRICS[metric].label
    return label if label.startswith("val ") else f"{label} on val"


def percent(value: float | None, decimals: int = 1) -> str:
    """Return a share as a percentage; "" for None."""
    return "" if value is None else f"{round(100 * value, decimals) + 0.0:.{decimals}f}%"


def interval(scores: Mapping[str, Any]) -> str:
    """Return the 95% interval of an exact match and its number of lines, in words."""
    if not (limits := shown_limits(scores, 2)):
        return "no interval"
    lines = f", {scores['exact_match_n']:,} lines" if scores.get("exact_match_n") else ""
    return f"95% interval {limits}{lines}"


def shown_limits(scores: Mapping[str, Any], decimals: int = 1) -> str:
    """Return the two ends of an exact match's 95% interval; "" if it has none."""
    low, high = scores.get("exact_match_low"), scores.get("exact_match_high")
    return "" if low is None or high is None else f"{percent(low, decimals)} to {percent(high, decimals)}"


def shown_value(metric: str, value: float | None, decimals: int = 1) -> str:
    """Return a metric's value as a person reads it, a share to so many decimals; "" for None."""
    if value is None or METRICS[metric].is_share:
        return percent(value, decimals)
    return format(value, METRICS[metric].format)


def shown_score(row: Mapping[str, Any], metric: str) -> str:
    """Return the metric in a row as a person reads it, with its interval if it has one."""
    value, limits = shown_value(metric, row.get(metric)), shown_limits(row)
    return f"{value} ({limits})" if metric == "exact_match" and limits else value


def as_text(value: Any) -> str:
    """Return a parameter's value as YAML has it, a fraction to four digits."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parameter(trial: Trial, name: str) -> str:
    """Return a trial's value of a parameter as text; "-" if it has none."""
    return as_text(trial.config[name]) if name in trial.config else "-"


def duration(seconds: float) -> str:
    """Return seconds as a person reads them."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"

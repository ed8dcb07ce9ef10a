"""What a sweep's report says, in numbers and words, as pure functions of sweep.json's content."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from popgpt.config import Config
from popgpt.metrics.metric import METRICS, score
from popgpt.sweep import finals, ranking
from popgpt.sweep.events import ENDED, OPEN, Status
from popgpt.sweep.ranking import Trial
from popgpt.sweep.schema import Asha, rungs

Content = Mapping[str, Any]
"""sweep.json: see `ranking.summary` and `record.Record.write`. `finalists`, where there are any, are as `finals.result`
says: {id, seeds: [{seed, exact_match, exact_match_low, exact_match_high, exact_match_n, ...}], mean}. `repeats` are
their runs with other seeds, as trials."""

MOST = 0.8  # of the trials, to compare all at one iteration


def definition(content: Content) -> Mapping[str, Any]:
    """What makes the sweep, as `record.definition` has it; empty where the content does not say."""
    return content.get("sweep") or {}


def ranked(content: Content) -> list[Trial]:
    """The trials, best first."""
    return ranking.ranked(content["trials"], content["metric"])


def swept(content: Content) -> list[str]:
    """The swept parameters, in the space's order."""
    space = definition(content).get("space") or {}
    return list(dict.fromkeys([*space, *(name for trial in content["trials"] for name in trial["config"])]))


def best_trial(content: Content) -> Trial | None:
    """The trial that `best` names; None where no trial has a score."""
    best = content.get("best")
    return next((trial for trial in content["trials"] if best and trial["id"] == best["id"]), None)


def ranked_finalists(content: Content) -> list[Mapping[str, Any]]:
    """The finalists, the best mean first."""
    return finals.ranked(content.get("finalists") or [], content["metric"])


def about_finalists(content: Content) -> str:
    """What a reader must know of the finalists, also where there are none; nothing where no trial has a score."""
    if content.get("finalists"):
        if definition(content).get("finalist_seeds") == 0:
            return "Trained to the full budget, each with its own seed only, so the choice rests on one run of each."
        return "Trained to the full budget with further seeds. The one with the best mean on val is the winner."
    if not content.get("best"):
        return ""
    if open_trials(content) and definition(content).get("finalists") != 0:
        return "None yet: the best are trained with further seeds when all trials have ended."
    return "None were trained with further seeds, so the choice rests on one run of each trial."


def rung_iterations(content: Content) -> list[int]:
    """The rungs of all brackets, lowest first."""
    sweep = definition(content)
    if not sweep.get("asha"):
        return []
    return sorted({at for bracket in rungs(Asha(**sweep["asha"]), sweep["max_t"]) for at in bracket})


def budget(content: Content, trial: Trial) -> int:
    """The iterations that a trial would take if nothing stopped it."""
    sweep = definition(content)
    own = {**(sweep.get("base") or {}), **trial["config"]}
    whole = int(own.get("max_iters", sweep.get("max_t") or Config.model_fields["max_iters"].default))
    return min(whole, int(sweep.get("max_t") or whole))


def open_trials(content: Content) -> list[Trial]:
    """The trials that have not come to an end, the finalists' repeats included."""
    return [trial for trial in all_trials(content) if trial["status"] not in ENDED]


def all_trials(content: Content) -> list[Trial]:
    """The trials, and then the finalists' repeats with other seeds."""
    return [*content["trials"], *content.get("repeats", [])]


def statuses(content: Content) -> str:
    """How many trials there are of each status, in words."""
    order = (*ENDED, *reversed(OPEN))
    counts = {status: sum(trial["status"] == status for trial in content["trials"]) for status in order}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


@dataclass(frozen=True)
class Comparison:
    """Scores of the trials at one iteration, so that they compare: those stopped early got no further.

    scores: {trial's id: value of `metric` at its first evaluation at or past `iteration`}; scored: how many trials have
    any evaluation. `metric` is the sweep's, or token_accuracy where the sweep's is the same for all.
    """

    metric: str
    iteration: int
    scores: dict[str, float]
    scored: int

    @property
    def varies(self) -> bool:
        return len(set(self.scores.values())) > 1


def comparison(content: Content) -> Comparison | None:
    """The scores at the largest rung, or at the end, that at least 0.8 of the evaluated trials reached; failing that,
    at the last evaluation of the one that got least far. None where nothing was evaluated.
    """
    metric = content["metric"]
    rows = {trial["id"]: _evaluations(trial, metric) for trial in content["trials"]}
    last = {name: int(of_trial[-1]["iteration"]) for name, of_trial in rows.items() if of_trial}
    if not last:
        return None
    ends = [*rung_iterations(content), *(budget(content, trial) for trial in content["trials"] if trial["id"] in last)]
    common = [at for at in ends if sum(end >= at for end in last.values()) >= MOST * len(last)]
    iteration = max([*common, min(last.values())])
    found = Comparison(metric, iteration, _scores_at(rows, metric, iteration), len(last))
    finer = Comparison("token_accuracy", iteration, _scores_at(rows, "token_accuracy", iteration), len(last))
    return finer if not found.varies and finer.varies and len(finer.scores) == len(found.scores) else found


def compared(content: Content, level: Comparison) -> str:
    """Which scores are compared, and why, in words."""
    end = max(budget(content, trial) for trial in content["trials"])
    reached = f"which {len(level.scores)} of the {level.scored} evaluated trials reached"
    by = f"each counts by its {METRICS[level.metric].label} at iteration {level.iteration:,}"
    words = [f"Here {by}, the end, {reached}."]
    if level.iteration < end:
        words = [
            f"Trials that stopped early can't be compared at their last score, so here {by} of {end:,}, {reached}."
        ]
        words.append("What helps so early need not help in the end.")
    if level.metric != content["metric"]:
        words.append(f"Their {METRICS[content['metric']].label} is all the same there.")
    return " ".join(words)


def _evaluations(trial: Trial, metric: str) -> list[Mapping[str, Any]]:
    return [row for row in trial["metrics"] if math.isfinite(score(row, metric)[0])]


def _scores_at(rows: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, iteration: int) -> dict[str, float]:
    at = {name: next((r for r in of_trial if r["iteration"] >= iteration), {}) for name, of_trial in rows.items()}
    return {name: float(row[metric]) for name, row in at.items() if math.isfinite(score(row, metric)[0])}


@dataclass(frozen=True)
class Compute:
    """Iterations of all trials: `run`, `saved` by ASHA, and `lost`, those that failed or open trials still miss.

    train_seconds: time in training steps, evaluations left out, None where not recorded; seconds_saved: what the saved
    iterations would have taken at each trial's own speed. rungs: (iteration, trials that reached it, stopped there).
    repeats: iterations of the finalists' repeats, in none of the others.
    """

    run: int
    saved: int
    lost: int
    train_seconds: float | None
    seconds_saved: float
    rungs: list[tuple[int, int, int]]
    repeats: int = 0

    @property
    def full(self) -> int:
        return self.run + self.saved + self.lost


def compute(content: Content) -> Compute:
    """What the sweep cost, against every trial run to its full budget."""
    trials = content["trials"]
    run = {trial["id"]: ranking.iterations(trial) for trial in trials}
    left = {trial["id"]: max(0, budget(content, trial) - run[trial["id"]]) for trial in trials}
    stopped = {trial["id"] for trial in trials if trial["status"] == Status.STOPPED}
    seconds = {trial["id"]: _train_seconds(trial) for trial in trials}
    known = {name: value for name, value in seconds.items() if value is not None}
    at = rung_iterations(content)
    after = [*at[1:], math.inf][: len(at)]
    return Compute(
        run=sum(run.values()),
        saved=sum(left[name] for name in stopped),
        lost=sum(count for name, count in left.items() if name not in stopped),
        train_seconds=sum(known.values()) if known else None,
        seconds_saved=sum(left[name] * known[name] / run[name] for name in stopped & known.keys() if run[name]),
        rungs=[
            (rung, sum(n >= rung for n in run.values()), sum(rung <= run[name] < end for name in stopped))
            for rung, end in zip(at, after, strict=True)
        ],
        repeats=sum(map(ranking.iterations, content.get("repeats", []))),
    )


def _train_seconds(trial: Trial) -> float | None:
    spent = [row["train_seconds"] for row in trial["metrics"] if row.get("train_seconds") is not None]
    return float(spent[-1]) if spent else None


def answer(content: Content) -> list[str]:
    """The result in sentences, the first the result itself, the next how it was come by."""
    best, trial = content.get("best"), best_trial(content)
    if not content["trials"]:
        return ["The sweep has no trials."]
    unfinished = len(open_trials(content))
    still = f"{unfinished} of {len(all_trials(content))} trials {'is' if unfinished == 1 else 'are'} still open"
    waiting = [f"Not finished: {still}."] if unfinished else []
    if best is None or trial is None:
        return [*waiting, "No trial has a score yet." if unfinished else "No trial has a score, so there is no winner."]
    if best.get("test"):
        test = best["test"]
        line = f"Trial {best['id']} answers {percent(test['exact_match'], 2)} of the test split exactly"
        return [f"{line} ({interval(test)}).", f"{_chosen(content)} It was scored once on the test split.", *waiting]
    row = ranking.best_row(trial, content["metric"])
    metric = content["metric"]
    line = f"Best so far: trial {best['id']}, {on_val(metric)} {shown_score(row, metric)}."
    return [
        *(waiting or ["The winner has not been scored on the test split."]),
        line,
        "That number was selected on, so it is likely too good; it is not the result.",
    ]


def _chosen(content: Content) -> str:
    name, total = METRICS[content["metric"]].label, len(content["trials"])
    if finalists := content.get("finalists"):
        among = (
            f", among {len(finalists)} finalists of {total} trials" if len(finalists) > 1 else "; it was the only one"
        )
        one_each = definition(content).get("finalist_seeds") == 0
        how = name if one_each else f"mean {name} over seeds"
        return f"It was chosen on the val split, by {how}{among}."
    among = f"among {total} trials by {name}" if total > 1 else f"by {name}; there was one trial"
    return f"It was chosen on the val split, {among}."


def command(content: Content, out_dir: str) -> str | None:
    """The command that trains the best trial again; None where there is none."""
    import shlex

    best = content.get("best")
    if best is None:
        return None
    folder = best.get("run_dir") or f"{out_dir}/trials/{best['id']}"
    return f"python -m popgpt.train {shlex.quote(f'{folder}/config.yaml')} out_dir=out/again"


def config_yaml(content: Content) -> str | None:
    """The best trial's config as YAML, should its folder be gone; None where it is not known."""
    from popgpt.config import dump_yaml, merge

    trial, base = best_trial(content), definition(content).get("base")
    return dump_yaml(merge(base, trial["config"])) if trial is not None and base else None


def on_val(metric: str) -> str:
    """A metric of the validation split, by name."""
    label = METRICS[metric].label
    return label if label.startswith("val ") else f"{label} on val"


def percent(value: float | None, decimals: int = 1) -> str:
    """A share as a percentage; nothing for None."""
    return "" if value is None else f"{round(100 * value, decimals) + 0.0:.{decimals}f}%"


def interval(scores: Mapping[str, Any]) -> str:
    """The 95% interval of an exact match and its lines, in words."""
    if scores.get("exact_match_low") is None or scores.get("exact_match_high") is None:
        return "no interval"
    low, high = percent(scores["exact_match_low"], 2), percent(scores["exact_match_high"], 2)
    lines = f", {scores['exact_match_n']:,} lines" if scores.get("exact_match_n") else ""
    return f"95% interval {low} to {high}{lines}"


def shown_value(metric: str, value: float | None) -> str:
    """A metric's value as a person reads it; nothing for None."""
    if value is None or METRICS[metric].is_share:
        return percent(value)
    return format(value, METRICS[metric].format)


def shown_mean(finalist: Mapping[str, Any], metric: str) -> str:
    """A finalist's mean of the metric, as a person reads it; nothing as long as it is open."""
    mean = finalist.get("mean")
    return percent(mean, 2) if METRICS[metric].is_share else shown_value(metric, mean)


def shown_score(row: Mapping[str, Any], metric: str) -> str:
    """The metric in a row, as a person reads it, with its interval where there is one."""
    value = shown_value(metric, row.get(metric))
    if metric != "exact_match" or row.get("exact_match_low") is None or row.get("exact_match_high") is None:
        return value
    return f"{value} ({percent(row['exact_match_low'])} to {percent(row['exact_match_high'])})"


def as_text(value: Any) -> str:
    """A parameter's value as YAML has it, floats to four digits."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"

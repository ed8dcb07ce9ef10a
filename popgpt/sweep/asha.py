"""ASHA (Li et al. 2020, arXiv:1810.05934) by stopping and by promotion, on Ray Tune's scheduler interface."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from popgpt.metrics.metric import METRICS, score
from popgpt.sweep.schema import Sweep, rungs
from popgpt.text.errors import UserError

Score = tuple[float, float]
WORST: Score = (-math.inf, -math.inf)


def goes_on(new: Score, recorded: Sequence[Score], reduction_factor: int) -> bool:
    """Return whether a trial goes on from a rung: it is in the top 1/eta of the rung's scores, its own included.

    There is at least one place. Equal scores rank in the order of their arrival. A score that is not finite never goes
    on.
    """
    places = max(1, (len(recorded) + 1) // reduction_factor)
    return new[0] > -math.inf and sum(other >= new for other in recorded) < places


def to_promote(scores: Mapping[str, Score], held: Collection[str], reduction_factor: int, least: int = 0) -> str | None:
    """Return the trial that goes on from a rung: the best that is held there and among the rung's top 1/eta.

    scores: of all trials that reached the rung, in that order, which also ranks equals. least: places at least.
    """
    top = sorted(scores, key=lambda trial: scores[trial], reverse=True)[: max(least, len(scores) // reduction_factor)]
    return next((trial for trial in top if trial in held and scores[trial][0] > -math.inf), None)


def least_served(counts: Sequence[int], bracket_rungs: Sequence[Sequence[int]], max_t: int) -> int:
    """Return the bracket that the next trial joins, given how many joined each. Brackets get equal shares of the
    budget, as in Hyperband; a trial of a bracket counts as (rungs + 1) * first rung iterations.
    """
    cost = [(len(at) + 1) * (at[0] if at else max_t) for at in bracket_rungs]
    return min(range(len(counts)), key=lambda b: ((counts[b] + 1) * cost[b], b))


class AshaScheduler(FIFOScheduler):  # type: ignore[misc]
    """Stops a trial at the first rung where it isn't among the best 1/eta.

    A trial is judged once at each rung, by its first evaluation whose `iteration` is at or past it, lowest rung first.
    A score that is not finite is the worst. A trial that fails counts as the worst at its next rung, until it reports
    again. Ray's TuneConfig must have no metric: with one, Ray ends the sweep at a report that lacks it.
    """

    def __init__(self, metric: str, brackets: Sequence[Sequence[int]], reduction_factor: int, max_t: int) -> None:
        """brackets: the rungs of each, as `schema.rungs` gives them. max_t: the iteration where every trial stops."""
        super().__init__()
        self._score_by = metric
        self._factor = reduction_factor
        self._max_t = max_t
        self._rungs = [tuple(at) for at in brackets]
        self._scores: list[dict[int, dict[str, Score]]] = [{at: {} for at in b} for b in self._rungs]
        self._bracket: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        self._reasons: dict[str, str] = {}
        self._changed: dict[str, None] = {}  # trials of which something became known since `changes` was asked

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return metric is None and mode is None

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.add(_id(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        return str(TrialScheduler.CONTINUE if self.judge(_id(trial), result) else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.fail(_id(trial))

    def debug_string(self) -> str:
        counts = [f"{at}: {len(scores)}" for b in self._scores for at, scores in b.items()]
        return f"ASHA: trials judged at each rung: {', '.join(counts)}; stopped: {len(self._reasons)}"

    def add(self, trial_id: str) -> None:
        """Add a trial that is to run. One that runs again keeps its bracket and its scores."""
        if trial_id not in self._bracket:
            counts = [list(self._bracket.values()).count(b) for b in range(len(self._rungs))]
            self._bracket[trial_id] = least_served(counts, self._rungs, self._max_t)
        self._changed[trial_id] = None

    def next(self, idle: Sequence[str], running: bool) -> str | None:
        """Return the trial that a free worker runs now; None if none is to run before another has reported.

        idle: the trials that neither run nor have ended, in order. running: whether other trials run.
        """
        return next(iter(idle), None)

    def holds(self, trial_id: str) -> bool:
        """Return whether the trial is held at a rung, from which it may go on."""
        return False

    def judge(self, trial_id: str, row: Mapping[str, Any]) -> bool:
        """Record `row` and return whether the trial goes on. Once stopped, it stays stopped."""
        self._changed[trial_id] = None
        if trial_id in self._reasons:
            return False
        for at, new, before in self._reached(trial_id, row):
            if not goes_on(new, before, self._factor):
                self._reasons[trial_id] = f"asha: rung {at}: {self._comparison(new, before)}"
                return False
        return not self._at_end(trial_id, row)

    def _reached(self, trial_id: str, row: Mapping[str, Any]) -> Iterator[tuple[int, Score, list[Score]]]:
        """Record the trial at each rung that it has newly reached; yield the rung, its score and those before it."""
        if not self._is_evaluation(row):
            return
        bracket = self._scores[self._bracket[trial_id]]
        if trial_id in self._failed:
            del bracket[self._failed.pop(trial_id)][trial_id]
        new = score(row, self._score_by)
        for at, scores in bracket.items():
            if at <= row["iteration"] and trial_id not in scores:
                before = list(scores.values())
                scores[trial_id] = new
                yield at, new, before

    def _is_evaluation(self, row: Mapping[str, Any]) -> bool:
        return "iteration" in row and self._score_by in row

    def _at_end(self, trial_id: str, row: Mapping[str, Any]) -> bool:
        at_end = self._is_evaluation(row) and row["iteration"] >= self._max_t
        if at_end:
            self._reasons[trial_id] = f"asha: max_t {self._max_t} reached"
        return at_end

    def fail(self, trial_id: str) -> None:
        """Record a failed trial as the worst at the next rung it would have reached."""
        self._changed[trial_id] = None
        for at, scores in self._scores[self._bracket[trial_id]].items():
            if trial_id not in scores:
                scores[trial_id] = WORST
                self._failed[trial_id] = at
                return

    def reason(self, trial_id: str) -> str | None:
        """Return why the trial was stopped, in words; None if it wasn't."""
        return self._reasons.get(trial_id)

    def _comparison(self, new: Score, recorded: Sequence[Score]) -> str:
        if new[0] == -math.inf:
            return self._words(new[0])
        places = max(1, (len(recorded) + 1) // self._factor)
        cut = sorted(recorded, reverse=True)[places - 1]
        if new[0] != cut[0]:
            worse = "above" if METRICS[self._score_by].direction == "min" else "below"
            return f"{self._words(new[0])} {worse} {abs(cut[0]):.4g}"
        if new[1] != cut[1]:
            return f"{self._words(new[0])} equal, token_accuracy {new[1]:.4g} below {cut[1]:.4g}"
        return f"{self._words(new[0])} equal to an earlier trial's"

    def _words(self, value: float) -> str:
        return f"{self._score_by} {abs(value):.4g}" if value > -math.inf else f"{self._score_by} is not a finite number"

    def state(self) -> dict[str, Any]:
        """Return the state for sweep.json. A score that is not finite is null."""
        scores = [
            {str(at): {trial: [_plain(x) for x in s] for trial, s in at_rung.items()} for at, at_rung in b.items()}
            for b in self._scores
        ]
        rule = {"metric": self._score_by, "reduction_factor": self._factor, "max_t": self._max_t}
        return {**rule, "scores": scores, **{kind: dict(of) for kind, of in self._known().items()}}

    def changes(self) -> dict[str, dict[str, Any]]:
        """Return the state of each trial that has changed since the last call, for `journal.change_asha`."""
        changed, self._changed = list(self._changed), {}
        return {name: self._of(name) for name in changed}

    def _of(self, name: str) -> dict[str, Any]:
        known = {kind: of[name] for kind, of in self._known().items() if name in of}
        bracket = self._scores[self._bracket[name]] if name in self._bracket else {}
        return known | {"scores": {str(at): [_plain(x) for x in s[name]] for at, s in bracket.items() if name in s}}

    def _known(self) -> dict[str, dict[str, Any]]:
        """Return the state by trial, scores left out."""
        return {"bracket": self._bracket, "failed": self._failed, "reasons": self._reasons}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state()` gave. Raises UserError if it was recorded for other rungs."""
        scores: list[dict[int, dict[str, Score]]] = [
            {int(at): {t: (_score(a), _score(b)) for t, (a, b) in s.items()} for at, s in bracket.items()}
            for bracket in state["scores"]
        ]
        then = (state["metric"], state["reduction_factor"], state["max_t"], [tuple(b) for b in scores])
        now = (self._score_by, self._factor, self._max_t, self._rungs)
        for name, a, b in zip(("metric", "reduction_factor", "max_t", "rungs"), then, now, strict=True):
            if a != b:
                raise UserError(f"asha: {name}={b} should be {a}, as when the sweep was started, or start a new one")
        self._scores = scores
        self._bracket, self._failed = dict(state["bracket"]), dict(state["failed"])
        self._reasons = dict(state["reasons"])


class PromotingScheduler(AshaScheduler):
    """Holds every trial at each rung. A free worker goes on with the best one held among its rung's best 1/eta.

    The highest rung comes first; if it finds none, it begins a new trial. Once no trial is new and none runs, each rung
    has at least one place. What is still held after that has ended.
    """

    def __init__(self, metric: str, brackets: Sequence[Sequence[int]], reduction_factor: int, max_t: int) -> None:
        super().__init__(metric, brackets, reduction_factor, max_t)
        self._to: dict[str, int] = {}  # where each trial is to be held next, or ends

    def add(self, trial_id: str) -> None:
        super().add(trial_id)
        self._to.setdefault(trial_id, next(iter(self._rungs[self._bracket[trial_id]]), self._max_t))

    def next(self, idle: Sequence[str], running: bool) -> str | None:
        cut_short = next((name for name in idle if name in self._to and not self.holds(name)), None)
        new = next((name for name in idle if name not in self._to), None)
        chosen = cut_short or self._promote(idle, least=int(not new and not running)) or new
        if chosen:
            self.add(chosen)
        return chosen

    def _promote(self, idle: Sequence[str], least: int) -> str | None:
        """Send the trial that `to_promote` finds, from the highest rung down, to its next rung."""
        every = [(at, b) for b, bracket in enumerate(self._rungs) for at in bracket]
        for at, b in sorted(every, reverse=True):
            held = {name for name in idle if self._bracket.get(name) == b and self._to[name] == at and self.holds(name)}
            if found := to_promote(self._scores[b][at], held, self._factor, least):
                self._changed[found] = None
                self._to[found] = next((higher for higher in self._rungs[b] if higher > at), self._max_t)
                return found
        return None

    def holds(self, trial_id: str) -> bool:
        if trial_id not in self._to or trial_id in self._failed:
            return False
        return trial_id in self._scores[self._bracket[trial_id]].get(self._to[trial_id], {})

    def judge(self, trial_id: str, row: Mapping[str, Any]) -> bool:
        self._changed[trial_id] = None
        if trial_id in self._reasons:
            return False
        for at, _, _ in self._reached(trial_id, row):
            self._to[trial_id] = max(at, self._to[trial_id])
        return not self._at_end(trial_id, row) and not self.holds(trial_id)

    def reason(self, trial_id: str) -> str | None:
        if not self.holds(trial_id):
            return super().reason(trial_id)
        at = self._to[trial_id]
        value = self._scores[self._bracket[trial_id]][at][trial_id][0]
        return f"asha: rung {at}: {self._words(value)}{', not promoted' if value > -math.inf else ''}"

    def _known(self) -> dict[str, dict[str, Any]]:
        return super()._known() | {"to": self._to}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self._to = dict(state["to"])


def scheduler(sweep: Sweep) -> AshaScheduler | None:
    """Return the scheduler of a sweep's trials, or None if it has no early stopping."""
    if sweep.asha is None:
        return None
    rule = PromotingScheduler if sweep.asha.rule == "promote" else AshaScheduler
    return rule(sweep.metric, rungs(sweep.asha, sweep.max_t), sweep.asha.reduction_factor, sweep.max_t)


def to_the_end(sweep: Sweep) -> AshaScheduler | None:
    """Return a scheduler without rungs, which stops each finalist at ASHA's max_t; None if there is no ASHA."""
    return AshaScheduler(sweep.metric, [()], 2, sweep.max_t) if sweep.asha else None


def _id(trial: Any) -> str:
    return str(trial.config.get("id", trial.trial_id))


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _score(value: float | None) -> float:
    return -math.inf if value is None else value

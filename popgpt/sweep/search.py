"""Which parameters come next, by optuna's TPE (Watanabe 2023, arXiv:2304.11127): a function of the trials before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from popgpt.lines.shuffle import derive_key
from popgpt.metrics.metric import score
from popgpt.sweep.domain import Domain
from popgpt.sweep.draws import compose, largest
from popgpt.sweep.events import ENDED, Status
from popgpt.sweep.schema import Sweep
from popgpt.sweep.trial import Trial
from popgpt.text.errors import UserError

STARTUP = 5  # trials that must have ended before TPE has anything to go by
ATTEMPTS = 100


def load() -> Any:
    """Return optuna, which logs only errors. Raises UserError if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError("search='optuna' needs optuna: pip install 'popgpt[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def rests_on_others(sweep: Sweep, number: int) -> bool:
    """Return whether TPE proposes the trial: not points to evaluate, the first draws, or trials of random search."""
    return sweep.search == "optuna" and number >= max(STARTUP, len(sweep.points))


def propose(sweep: Sweep, drawn: Sequence[Mapping[str, Any]], before: Sequence[Trial]) -> dict[str, Any]:
    """Return the parameters of the trial after those `before`, which are all that have parameters, in order.

    The first trials, and one for which TPE finds nothing new that the config accepts, are those of random search.
    drawn: what random search draws, `draws.sample(sweep)`.
    """
    known = [trial.config for trial in before]
    fresh = next(values for values in drawn if values not in known)
    if not rests_on_others(sweep, len(before)) or sum(map(_ended, before)) < STARTUP:
        return dict(fresh)
    study, distributions = _study(sweep, before)
    for _ in range(ATTEMPTS):
        asked = study.ask(distributions)  # it stays open: TPE shuns what runs, and so what is refused
        try:
            values = _composed(sweep, asked.params)
            if values not in known:
                sweep.config(values)
                return values
        except UserError:
            continue
    return dict(fresh)


def _ended(trial: Trial) -> bool:
    """Return whether the trial has ended under ASHA, or is held at a rung; finalists that go on have."""
    return trial.status in (*ENDED, Status.PAUSED) or trial.stopped_by is not None


def _study(sweep: Sweep, before: Sequence[Trial]) -> tuple[Any, dict[str, Any]]:
    """Return the trials as an optuna study, and the parameters' distributions.

    Its scores are ranks, so that token accuracy breaks ties. Optuna ranks completed trials first, then stopped ones by
    iterations and score, then those that failed or have no score.
    """
    optuna = load()
    distributions = {name: _distribution(optuna.distributions, sweep, name) for name in sweep.space}
    sampler = optuna.samplers.TPESampler(seed=derive_key("search", sweep.seed, len(before)) % 2**32, n_startup_trials=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    rows = [trial.best_row(sweep.metric) for trial in before]
    scores = [score(row, sweep.metric) for row in rows]
    places = {each: place for place, each in enumerate(sorted(set(scores)))}
    states = optuna.trial.TrialState
    for trial, row, found in zip(before, rows, scores, strict=True):
        told: dict[str, Any] = {"state": states.PRUNED if _ended(trial) else states.RUNNING}
        if row and trial.status == Status.COMPLETED:
            told = {"state": states.COMPLETE, "value": places[found]}
        elif row and trial.status != Status.FAILED:
            told["intermediate_values"] = {_reached(trial, sweep.metric): places[found]}
        params = {name: value for name, value in trial.config.items() if _holds(distributions[name], value)}
        own = {name: distributions[name] for name in params}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=own, **told))
    return study, distributions


def _reached(trial: Trial, metric: str) -> int:
    """Return the iteration of the last evaluation."""
    return max(int(row["iteration"]) for row in trial.metrics if metric in row)


def _holds(distribution: Any, value: Any) -> bool:
    """Return whether the distribution holds a value; a point to evaluate may have any other."""
    if hasattr(distribution, "choices"):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def _distribution(distributions: Any, sweep: Sweep, name: str) -> Any:
    """Return a parameter's distribution, the same in every trial: of divisors the range that they lie in."""
    domain = sweep.space[name]
    if domain.kind == "choice":
        return distributions.CategoricalDistribution(domain.values)
    if domain.kind == "divisors_of":
        low = max(1, domain.values[1])
        return distributions.IntDistribution(low, max(low, largest(sweep, name)), log=True)
    if domain.kind == "randint":
        return distributions.IntDistribution(*domain.values)
    return distributions.FloatDistribution(*domain.values, log=domain.kind == "loguniform")


def _composed(sweep: Sweep, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that optuna asks for, divisors as the nearest one. Raises UserError if there is none."""

    def pick(name: str, domain: Domain) -> Any:
        value = asked[name]
        if domain.kind in ("uniform", "loguniform"):
            return domain.rounded(value)
        if sweep.space[name].kind == "divisors_of":
            return min(domain.values, key=lambda divisor: abs(math.log(divisor / value)))
        return value

    return compose(sweep, pick)

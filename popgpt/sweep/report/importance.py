"""How much each swept parameter matters: permutation importance of a random forest, on trials it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from popgpt.sweep.content import Content
from popgpt.sweep.report.findings import as_text, comparison

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

FEWEST = 10
FOLDS = 5
SPLITS = 3  # into so many folds, each time anew
TREES = 64
PERMUTATIONS = 5
WEAK = 0.3


@dataclass(frozen=True)
class Importance:
    """How much a parameter matters."""

    parameter: str
    share: float  # of the scores' variance, no longer predicted once the parameter's values are shuffled
    error: float  # standard error of `share`
    trials: int  # that drew the parameter


@dataclass(frozen=True)
class Study:
    """What `study` found."""

    trials: int
    r2: float | None  # of the forest, cross-validated; None: none was fitted
    parameters: tuple[Importance, ...]  # the most important first; empty if nothing can be said
    note: str  # what a reader must know of it, in a sentence


def study(content: Content) -> Study:
    """Return the importance of each swept parameter for the scores of `findings.comparison`.

    It is permutation importance (Breiman 2001, Random Forests) on trials left out of the forest's fit, in a repeated
    cross-validation, with standard errors corrected for overlapping folds (Nadeau and Bengio 2003). A parameter that
    only some trials draw (`when`) is shuffled among those. The same content gives the same numbers.
    """
    level = comparison(content)
    n = len(level.scores) if level else 0
    if level is None or n < FEWEST:
        return Study(n, None, (), f"Too few to say: {_trials(n)} can be compared; from {FEWEST} on it is tried.")
    trials = [trial for trial in content.trials if trial.id in level.scores]
    values = {name: [trial.config.get(name) for trial in trials] for name in content.swept}
    varied = [name for name, column in values.items() if len(set(map(as_text, column))) > 1]
    if not level.varies or not varied:
        same = "score" if varied else "parameters"
        return Study(n, None, (), f"Nothing to explain: all {_trials(n)} have the same {same}.")
    drawn = {name: [name in trial.config for trial in trials] for name in varied}
    columns = [_column(values[name], drawn[name]) for name in varied]
    r2, shares = _forest(columns, list(drawn.values()), [level.scores[trial.id] for trial in trials])
    if r2 <= 0:
        learned = f"what a forest learns from some of {_trials(n)} tells no more of the others than their mean does"
        return Study(n, r2, (), f"Too little to say: {learned} ({_fit(r2)}).")
    found = [Importance(name, *share, sum(drawn[name])) for name, share in zip(varied, shares, strict=True)]
    found.sort(key=lambda each: -each.share)
    weak = "; that is weak, so take the bars as hints" if r2 < WEAK else ""
    note = f"Of what differs between {_trials(n)} a forest explains {r2:.0%} ({_fit(r2)}){weak}."
    return Study(n, r2, tuple(found), note)


def _fit(r2: float) -> str:
    return f"cross-validated R² {r2:.2f}"


def _trials(n: int) -> str:
    return "1 trial" if n == 1 else f"{n} trials"


def _column(values: Sequence[Any], drawn: Sequence[bool]) -> list[float]:
    """Return numbers as they are and other values as their order of appearance; the median if it was not drawn."""
    present = [value for value, there in zip(values, drawn, strict=True) if there]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        place = {word: float(index) for index, word in enumerate(dict.fromkeys(map(as_text, present)))}
        values, present = [place.get(as_text(v)) for v in values], [place[as_text(v)] for v in present]
    middle = sorted(present)[len(present) // 2]
    return [float(value) if there else float(middle) for value, there in zip(values, drawn, strict=True)]


def _forest(
    columns: Sequence[Sequence[float]], drawn: Sequence[Sequence[bool]], scores: Sequence[float]
) -> tuple[float, list[tuple[float, float]]]:
    """Return the cross-validated R², and each column's share of variance with its standard error."""
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import RepeatedKFold

    X, there, y = np.array(columns).T, np.array(drawn).T, np.array(scores)
    folds = RepeatedKFold(n_splits=FOLDS, n_repeats=SPLITS, random_state=0)
    missed, lost = 0.0, []
    for fitted, left_out in folds.split(X):
        forest = RandomForestRegressor(n_estimators=TREES, random_state=0).fit(X[fitted], y[fitted])
        missed += -_score(forest, X[left_out], y[left_out]) * len(left_out) / SPLITS
        lost.append(_losses(forest, X[left_out], there[left_out], y[left_out]) / y.var())
    shares = np.array(lost)
    errors = np.sqrt(shares.var(axis=0, ddof=1) * (1 / len(shares) + 1 / (FOLDS - 1)))
    return 1 - missed / float(y.var() * len(y)), list(zip(shares.mean(axis=0).tolist(), errors.tolist(), strict=True))


def _losses(forest: Any, X: Array, there: Array, y: Array) -> Array:
    """Return how much the mean squared error grows as each column is shuffled among the trials that drew it."""
    import numpy as np
    from sklearn.inspection import permutation_importance

    grown = np.zeros(X.shape[1])
    for who in {tuple(column) for column in there.T}:
        held = np.array(who)
        if held.sum() > 1:
            found = permutation_importance(
                forest, X[held], y[held], scoring=_score, n_repeats=PERMUTATIONS, random_state=0
            )
            mine = (held == there.T).all(axis=1)
            grown[mine] = found.importances_mean[mine] * held.mean()
    return grown


def _score(forest: Any, X: Array, y: Array) -> float:
    """Return the negative mean squared error. The forest's own `predict` is slow for few rows."""
    import numpy as np

    rows = X.astype(np.float32)
    predicted = np.mean([tree.predict(rows, check_input=False) for tree in forest.estimators_], axis=0)
    return -float(((predicted - y) ** 2).mean())

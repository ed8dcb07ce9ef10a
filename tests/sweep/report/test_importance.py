from __future__ import annotations

import random

import pytest

from popgpt.sweep.content import Content
from popgpt.sweep.report import importance
from tests.sweep.report.contents import row, sweep, trial


def learned(n: int, signal: float) -> Content:
    """A sweep of n trials whose score is by the optimizer, and for adamw by beta2; the rest is chance."""
    rng = random.Random(1)
    trials = []
    for number in range(n):
        config = {"learning_rate": rng.uniform(1e-3, 1e-2), "optimizer": ("muon", "adamw")[number % 2]}
        score = 0.5 + rng.gauss(0, 0.02) + (signal if config["optimizer"] == "muon" else 0)
        if config["optimizer"] == "adamw":
            config["beta2"] = rng.uniform(0.9, 0.999)
            score += signal * 10 * (config["beta2"] - 0.95)
        trials.append(trial(f"{number:04d}", config, row(10, min(1.0, max(0.0, score)))))
    return sweep(*trials)


def test_importance_finds_what_matters() -> None:
    found = importance.study(learned(40, 0.3))
    assert found == importance.study(learned(40, 0.3))
    assert found.r2 is not None
    assert found.r2 > 0.5
    shares = {each.parameter: each for each in found.parameters}
    assert list(shares)[-1] == "learning_rate"
    assert shares["optimizer"].share > 2 * shares["optimizer"].error
    assert shares["beta2"].share > 0.1
    assert abs(shares["learning_rate"].share) < 0.1
    assert (shares["beta2"].trials, found.trials) == (20, 40)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (sweep(), "Too few to say: 0 trials"),
        (learned(9, 0.3), "Too few to say: 9 trials can be compared; from 10 on it is tried."),
        (learned(12, 0.0), "Too little to say"),
        (sweep(*(trial(str(n), {}, row(10, n / 20)) for n in range(12))), "all 12 trials have the same parameters"),
        (sweep(*(trial(str(n), {"d_model": n}, row(10, 0.0)) for n in range(12))), "have the same score"),
    ],
)
def test_importance_says_when_it_cannot_say(content: Content, said: str) -> None:
    found = importance.study(content)
    assert said in found.note
    assert found.parameters == ()

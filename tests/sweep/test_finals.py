"""Which trials are finalists, and which finalist wins."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popgpt.sweep import finals
from popgpt.sweep.events import Status
from popgpt.sweep.trial import Trial


def run(name: str, *values: float, status: str = "completed", metric: str = "exact_match") -> Trial:
    rows = [{"iteration": 10 * i, metric: v, "token_accuracy": 0.5} for i, v in enumerate(values, 1)]
    return Trial(name, {}, Status(status), None, rows)


def ranked(*finalists: tuple[str, list[Trial]], metric: str = "exact_match") -> list[tuple[str, float | None]]:
    results = [finals.result(name, runs, range(len(runs)), metric) for name, runs in finalists]
    return [(each["id"], each["mean"]) for each in finals.ranked(results, metric)]


def test_finalists_are_the_best_that_did_not_fail() -> None:
    trials = [run("a", 0.1, 0.75), run("b", 0.9, status="failed"), run("c", 0.5, status="stopped"), run("d")]
    trials += [run("e", math.nan, status="stopped"), run("f", 0.25)]
    assert finals.choose(trials, "exact_match", 2) == ["a", "c"]
    assert finals.choose(trials, "exact_match", 9) == ["a", "c", "f"]
    losses = [run("a", 1.5, 0.5, metric="val_loss"), run("b", 0.25, metric="val_loss")]
    assert finals.choose(losses, "val_loss", 1) == ["b"]


def test_repeats_have_the_seeds_that_follow() -> None:
    assert finals.repeats("0003", {"d_model": 64}, 1337, 2) == {
        "0003-s1": {"d_model": 64, "seed": 1338},
        "0003-s2": {"d_model": 64, "seed": 1339},
    }
    assert finals.repeats("0", {"seed": 5}, 5, 1) == {"0-s1": {"seed": 6}}


def test_a_result_is_each_seeds_best_evaluation_and_their_mean() -> None:
    found = finals.result("a", [run("a", 0.5, 0.75, 0.25), run("a-s1", 0.25)], [7, 8], "exact_match")
    score = {"token_accuracy": 0.5, "status": "completed"}
    assert found == {
        "id": "a",
        "seeds": [
            {"seed": 7, "run": "a", "exact_match": 0.75, "iteration": 20, **score},
            {"seed": 8, "run": "a-s1", "exact_match": 0.25, "iteration": 10, **score},
        ],
        "mean": 0.5,
    }
    assert (
        finals.result("a", [run("a", 0.5), run("a-s1", 0.5, status="running")], [7, 8], "exact_match")["mean"] is None
    )


def test_the_best_mean_wins_not_the_luckiest_seed() -> None:
    lucky = [run("lucky", 0.875), run("lucky-s1", 0.25)]
    steady = [run("steady", 0.75), run("steady-s1", 0.625)]
    assert ranked(("lucky", lucky), ("steady", steady)) == [("steady", 0.6875), ("lucky", 0.5625)]


def test_the_lowest_mean_loss_wins() -> None:
    a, b = ([run(n, *v, metric="val_loss") for v in ([0.5], [1.0])] for n in "ab")
    b[1] = run("b-s1", 0.75, metric="val_loss")
    assert ranked(("a", a), ("b", b), metric="val_loss") == [("b", 0.625), ("a", 0.75)]


def test_equal_means_go_by_token_accuracy_then_the_order() -> None:
    a, b, c = run("a", 0.5), run("b", 0.5), run("c", 0.5)
    b.metrics[0]["token_accuracy"] = 0.75
    assert [name for name, _ in ranked(("a", [a]), ("b", [b]), ("c", [c]))] == ["b", "a", "c"]


@pytest.mark.parametrize("broken", [run("a-s1", 0.9, status="failed"), run("a-s1", status="failed"), run("a-s1")])
def test_a_finalist_with_a_run_that_failed_stands_behind(broken: Trial) -> None:
    order = ranked(("a", [run("a", 0.9), broken]), ("b", [run("b", 0.5), run("b-s1", 0.25)]))
    assert order == [("b", 0.375), ("a", 0.9)]


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=6), st.randoms())
def test_the_ranking_is_by_the_mean_whatever_the_order_of_seeds(scores: list[list[float]], rng: Any) -> None:
    def finalists(values: list[list[float]]) -> list[tuple[str, list[Trial]]]:
        return [(str(n), [run(f"{n}-{i}", v) for i, v in enumerate(of)]) for n, of in enumerate(values)]

    order = ranked(*finalists(scores))
    means = [mean or 0.0 for _, mean in order]
    assert means == sorted(means, reverse=True)
    assert dict(order) == {str(n): pytest.approx(sum(of) / 3, abs=1e-12) for n, of in enumerate(scores)}
    assert ranked(*finalists([rng.sample(of, 3) for of in scores])) == order

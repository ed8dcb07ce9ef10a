"""ASHA: its decision with literals, its course on simulated time, and one sweep on the real Ray Tune."""

import heapq
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popgpt.config import UserError
from popgpt.sweep.asha import WORST, AshaScheduler, Score, goes_on, least_served

NAN = float("nan")
RUNGS = ((100, 300),)


def make(metric: str = "exact_match", rungs: Any = RUNGS, max_t: int = 900) -> AshaScheduler:
    return AshaScheduler(metric, rungs, 3, max_t)


def tell(asha: AshaScheduler, trial: str, iteration: int, value: float | None, tokens: float | None = 0.5) -> bool:
    asha.add(trial)
    return asha.judge(trial, {"iteration": iteration, "exact_match": value, "token_accuracy": tokens})


@pytest.mark.parametrize(
    ("new", "recorded", "decision"),
    [
        ((0.1, 0.0), [], True),  # the first has nothing to stand behind
        ((0.2, 0.0), [(0.1, 0.0)], True),  # one place for up to five: the best so far
        ((0.1, 0.0), [(0.2, 0.0)], False),
        ((0.2, 0.0), [(0.1, 0.0)] * 4 + [(0.3, 0.0)], True),  # six at the rung: two places
        ((0.2, 0.0), [(0.1, 0.0)] * 3 + [(0.3, 0.0)], False),  # five: still one
        ((0.0, 0.6), [(0.0, 0.5)], True),  # a tie of the metric goes to token accuracy
        ((0.0, 0.4), [(0.0, 0.5)], False),
        ((0.1, 0.5), [(0.1, 0.5)], False),  # an equal stands behind
        ((0.1, 0.5), [WORST], True),
        (WORST, [], False),  # no finite score, no going on
        (WORST, [WORST] * 8, False),
    ],
)
def test_decision(new: Score, recorded: list[Score], decision: bool) -> None:
    assert goes_on(new, recorded, 3) is decision


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60, unique=True), st.integers(2, 5))
def test_at_a_rung_the_best_always_goes_on_and_the_rest_thin_out(scores: list[Score], factor: int) -> None:
    passed = [s for i, s in enumerate(scores) if goes_on(s, scores[:i], factor)]
    assert max(scores) in passed
    worst_order = sorted(scores)
    assert sum(goes_on(s, worst_order[:i], factor) for i, s in enumerate(worst_order)) == len(scores)
    best_order = sorted(scores, reverse=True)
    assert sum(goes_on(s, best_order[:i], factor) for i, s in enumerate(best_order)) <= max(1, len(scores) // factor)


def test_a_trial_is_judged_at_a_rung_once_by_its_first_report_past_it() -> None:
    asha = make()
    assert tell(asha, "a", 50, 0.0)
    assert tell(asha, "a", 120, 0.5)
    assert tell(asha, "a", 140, 0.1)
    assert asha.state()["scores"] == [{"100": {"a": [0.5, 0.5]}, "300": {}}]


def test_a_report_that_passes_rungs_is_judged_at_each() -> None:
    asha = make()
    assert tell(asha, "a", 100, 0.2)
    assert tell(asha, "b", 350, 0.3)
    assert asha.state()["scores"] == [{"100": {"a": [0.2, 0.5], "b": [0.3, 0.5]}, "300": {"b": [0.3, 0.5]}}]
    assert not tell(asha, "c", 350, 0.25)
    assert asha.reason("c") == "asha: rung 100: exact_match 0.25 below 0.3"
    assert "c" not in asha.state()["scores"][0]["300"]


def test_reasons_say_what_was_compared() -> None:
    asha = make()
    tell(asha, "a", 100, 0.0, 0.31)
    tell(asha, "tie", 100, 0.0, 0.12)
    tell(asha, "equal", 100, 0.0, 0.31)
    tell(asha, "nan", 100, NAN)
    tell(asha, "last", 900, 0.9)
    assert [asha.reason(t) for t in ("a", "tie", "equal", "nan", "last")] == [
        None,
        "asha: rung 100: exact_match 0 equal, token_accuracy 0.12 below 0.31",
        "asha: rung 100: exact_match 0 equal to an earlier trial's",
        "asha: rung 100: exact_match is not a finite number",
        "asha: max_t 900 reached",
    ]


def test_a_loss_is_better_when_lower() -> None:
    asha = make("val_loss")
    for trial, loss in (("a", 1.0), ("b", 0.9), ("c", 1.25)):
        asha.add(trial)
        asha.judge(trial, {"iteration": 100, "val_loss": loss})
    assert (asha.reason("b"), asha.reason("c")) == (None, "asha: rung 100: val_loss 1.25 above 0.9")


def test_a_report_without_the_metric_is_no_evaluation() -> None:
    asha = make()
    asha.add("a")
    assert asha.judge("a", {"iteration": 100, "train_loss": 1.0})
    assert asha.judge("a", {"exact_match": 1.0})
    assert not tell(asha, "a", 110, None)


def test_a_failed_trial_is_the_worst_until_it_reports_again() -> None:
    asha = make()
    tell(asha, "a", 100, 0.5)
    asha.fail("a")
    assert asha.state()["scores"][0] == {"100": {"a": [0.5, 0.5]}, "300": {"a": [None, None]}}
    asha.add("a")
    assert tell(asha, "a", 320, 0.6)
    assert asha.state()["scores"][0]["300"] == {"a": [0.6, 0.5]}


def test_state_goes_through_json_and_decides_alike() -> None:
    asha, again = make(rungs=((100, 300), (300,))), make(rungs=((100, 300), (300,)))
    for i, value in enumerate([0.1, 0.3, NAN, 0.2, 0.0]):
        tell(asha, str(i), 100, value)
    asha.fail("1")
    again.load_state(json.loads(json.dumps(asha.state(), allow_nan=False)))
    assert again.state() == asha.state()
    for i, value in enumerate([0.2, 0.4, 0.1]):
        assert tell(asha, f"new{i}", 300, value) == tell(again, f"new{i}", 300, value)
    stopped = next(iter(asha.state()["reasons"]))
    assert not tell(again, stopped, 900, 1.0), "what was stopped stays stopped"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make("val_loss"), "asha: metric=val_loss should be exact_match"),
        (make(rungs=((50,),)), r"asha: rungs=\[\(50,\)\] should be \[\(100, 300\)\]"),
        (make(max_t=901), "asha: max_t=901 should be 900"),
    ],
)
def test_state_of_other_rungs_is_refused(other: AshaScheduler, message: str) -> None:
    with pytest.raises(UserError, match=message):
        other.load_state(make().state())


def test_brackets_share_the_budget() -> None:
    rungs = ((100, 300), (300,))
    counts = [0, 0]
    for _ in range(30):
        counts[least_served(counts, rungs, 900)] += 1
    assert counts == [20, 10]  # 300 iterations a trial, then 600: twice as many of the first


def simulate(qualities: list[float], workers: int, asha: AshaScheduler, every: int = 50) -> dict[str, int]:
    """Iterations that each trial got when `workers` run at a time, a trial's speed depending on its number.

    Exact match rises as quality * (1 - exp(-iteration / 200)); a report comes every `every` iterations.
    """
    waiting = iter(enumerate(qualities))
    spent: dict[str, int] = {}
    events: list[tuple[float, int]] = []

    def start(now: float) -> None:
        for i, _ in [*_next(waiting)]:
            asha.add(str(i))
            spent[str(i)] = 0
            heapq.heappush(events, (now + _seconds(i), i))

    for _ in range(workers):
        start(0.0)
    while events:
        now, i = heapq.heappop(events)
        spent[str(i)] += every
        value = qualities[i] * (1 - math.exp(-spent[str(i)] / 200))
        if asha.judge(str(i), {"iteration": spent[str(i)], "exact_match": value, "token_accuracy": value}):
            heapq.heappush(events, (now + _seconds(i), i))
        else:
            start(now)
    return spent


def _next(waiting: Iterator[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    item = next(waiting, None)
    return iter([item] if item else [])


def _seconds(i: int) -> float:
    return 1 + (i * 7 % 5) / 4


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_on_simulated_time_the_best_is_found_at_a_fraction_of_the_iterations(workers: int) -> None:
    qualities = [((i * 37) % 64) / 64 for i in range(64)]
    spent = simulate(qualities, workers, make())
    best = str(max(range(64), key=lambda i: qualities[i]))
    assert len(spent) == 64
    assert spent[best] == 900
    assert sum(spent.values()) < 64 * 900 / 3


def test_simulation_is_golden() -> None:
    spent = simulate([0.5, 0.1, 0.9, 0.3, 0.7, 0.8, 1.0, 0.2], 2, make())
    assert spent == {"0": 900, "1": 100, "2": 900, "3": 100, "4": 100, "5": 300, "6": 900, "7": 100}


def test_on_ray_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    import ray
    from ray import tune

    def trainable(config: dict[str, Any]) -> None:
        if config["q"] == 0.5:
            raise RuntimeError("broken")
        for iteration in (100, 200, 300, 400):
            row = {"iteration": iteration, "exact_match": config["q"], "token_accuracy": config["q"]}
            tune.report(row if iteration != 200 else {"iteration": 200, "train_loss": 1.0})

    asha = make(max_t=1000)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        results = tune.Tuner(
            trainable,
            param_space={"id": tune.sample_from(lambda c: f"q={c['q']}"), "q": tune.grid_search([0.9, 0.1, 0.5, NAN])},
            tune_config=tune.TuneConfig(scheduler=asha, max_concurrent_trials=1, reuse_actors=True),
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()
    finally:
        ray.shutdown()
    last = {str(r.config["q"]): r.metrics.get("iteration") for r in results if r.config}
    assert last == {"0.9": 400, "0.1": 100, "0.5": None, "nan": 100}
    assert len(results.errors) == 1
    assert asha.state()["reasons"] == {
        "q=0.1": "asha: rung 100: exact_match 0.1 below 0.9",
        "q=nan": "asha: rung 100: exact_match is not a finite number",
    }

"""ASHA: its decision with literals, its course on simulated time, and one sweep on the real Ray Tune."""

import gc
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.asha import replay
from popgpt.sweep.asha import WORST, AshaScheduler, PromotingScheduler, Score, goes_on, least_served, to_promote
from popgpt.text.errors import UserError

NAN = float("nan")
RUNGS = ((100, 300),)


def make(metric: str = "exact_match", rungs: Any = RUNGS, max_t: int = 900) -> AshaScheduler:
    return AshaScheduler(metric, rungs, 3, max_t)


def promoting(metric: str = "exact_match", rungs: Any = RUNGS, max_t: int = 900) -> PromotingScheduler:
    return PromotingScheduler(metric, rungs, 3, max_t)


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


A, B, C, D, E, F = (0.6, 0.0), (0.5, 0.0), (0.4, 0.0), (0.3, 0.0), (0.2, 0.0), (0.1, 0.0)


@pytest.mark.parametrize(
    ("scores", "held", "least", "promoted"),
    [
        ([], [], 0, None),
        ([A, B], [0, 1], 0, None),  # fewer than eta: no place
        ([A, B], [0, 1], 1, 0),  # nobody else is to come
        ([C, A, B], [0, 1, 2], 0, 1),
        ([C, A, B], [0, 2], 0, None),  # the best has gone on, or ended
        ([C, A, B], [0, 2], 1, None),
        ([F, E, D, C, B, A], [0, 1, 2, 3, 4, 5], 0, 5),  # six: two places
        ([F, E, D, C, B, A], [0, 1, 2, 3, 4], 0, 4),
        ([F, E, D, C, B, A], [0, 1, 2, 3], 0, None),
        ([C, (0.4, 0.1), B, A, E, F], [0, 1], 0, None),  # token accuracy decides of C's two, for the third place
        ([(0.0, 0.1), (0.0, 0.3), (0.0, 0.2)], [0, 1, 2], 0, 1),  # so it does where nobody is right yet
        ([B, B, B], [0, 1, 2], 0, 0),  # of equals the earlier
        ([WORST, WORST, WORST], [0, 1, 2], 1, None),  # no finite score, no promotion
    ],
)
def test_promotion(scores: list[Score], held: list[int], least: int, promoted: int | None) -> None:
    found = to_promote({str(i): s for i, s in enumerate(scores)}, [str(i) for i in held], 3, least)
    assert found == (None if promoted is None else str(promoted))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=60), st.integers(2, 5))
def test_of_a_rung_its_best_are_promoted_best_first(scores: list[Score], factor: int) -> None:
    rung = {str(i): s for i, s in enumerate(scores)}
    held, promoted = set(rung), []
    while found := to_promote(rung, held, factor):
        held.remove(found)
        promoted.append(rung[found])
    assert promoted == sorted(scores, reverse=True)[: len(scores) // factor]


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


def simulate(qualities: list[float], workers: int, asha: AshaScheduler) -> dict[str, int]:
    """Iterations that each trial got when `workers` run at a time, a trial's speed depending on its number.

    Exact match rises as quality * (1 - exp(-iteration / 200)); a report comes every 50 iterations.
    """
    curves = {str(i): curve(quality, 1 + (i * 7 % 5) / 4) for i, quality in enumerate(qualities)}
    reported, _ = replay(asha, curves, list(curves), workers)
    return {name: 50 * count for name, count in reported.items()}


def curve(quality: float, seconds: float) -> list[dict[str, float]]:
    values = [(at, quality * (1 - math.exp(-at / 200))) for at in range(50, 901, 50)]
    return [
        {"iteration": at, "exact_match": value, "token_accuracy": value, "train_seconds": at / 50 * seconds}
        for at, value in values
    ]


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


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_promotion_on_simulated_time_takes_fewer_iterations_and_finds_the_best(workers: int) -> None:
    qualities = [((i * 37) % 64) / 64 for i in range(64)]
    spent = simulate(qualities, workers, promoting())
    best = str(max(range(64), key=lambda i: qualities[i]))
    assert spent[best] == 900
    assert min(spent.values()) == 100
    assert sum(spent.values()) < sum(simulate(qualities, workers, make()).values())


def test_promotion_in_order() -> None:
    """One worker: three begin before the best of them goes on; what is promoted comes before what is new."""
    asha = promoting()
    idle = list("abcdefg")
    ran = []
    values = dict(zip(idle, (0.1, 0.3, 0.2, 0.6, 0.5, 0.4, 0.0), strict=True))
    while name := asha.next(idle, running=False):
        idle.remove(name)
        to = asha.state()["to"][name]
        ran.append(f"{name}{to}")
        assert tell(asha, name, to - 50, values[name])
        assert not tell(asha, name, to, values[name])
        idle += [name] * asha.holds(name)
    assert ran == ["a100", "b100", "c100", "b300", "d100", "d300", "e100", "f100", "e300", "d900", "g100"]
    assert sorted(idle) == ["a", "b", "c", "e", "f", "g"]
    assert asha.reason("e") == "asha: rung 300: exact_match 0.5, not promoted"
    assert asha.reason("d") == "asha: max_t 900 reached"


def test_one_that_runs_is_waited_for_before_fewer_than_eta_go_on() -> None:
    asha = promoting()
    assert asha.next(["a", "b"], running=False) == "a"
    assert asha.next(["b"], running=True) == "b"
    tell(asha, "a", 100, 0.1)
    assert asha.holds("a")
    assert asha.next(["a"], running=True) is None
    tell(asha, "b", 100, 0.2)
    assert asha.next(["a", "b"], running=False) == "b"
    assert asha.next(["a"], running=True) is None


def test_what_was_cut_short_goes_on_first() -> None:
    asha, again = promoting(), promoting()
    for name in "abc":
        asha.add(name)
        asha.judge(name, {"iteration": 100 if name != "c" else 50, "exact_match": 0.5})
    again.load_state(json.loads(json.dumps(asha.state())))
    assert again.next(["a", "b", "c", "d"], running=False) == "c"


def test_a_report_that_passes_rungs_is_held_at_the_highest() -> None:
    asha = promoting()
    assert not tell(asha, "a", 350, 0.5)
    assert asha.state()["scores"] == [{"100": {"a": [0.5, 0.5]}, "300": {"a": [0.5, 0.5]}}]
    assert asha.state()["to"] == {"a": 300}


def test_a_failed_trial_is_never_promoted_and_may_be_run_again() -> None:
    asha = promoting()
    for name in "abc":
        asha.add(name)
    asha.fail("a")
    assert not asha.holds("a")
    tell(asha, "b", 100, 0.0)
    tell(asha, "c", 100, NAN)
    assert asha.reason("c") == "asha: rung 100: exact_match is not a finite number"
    assert asha.next(["b", "c"], running=False) == "b"
    assert asha.next(["a"], running=False) == "a"
    assert not tell(asha, "a", 100, 0.4)
    assert asha.holds("a")


@pytest.mark.parametrize("done", range(1, 40, 3))
def test_promotion_goes_on_from_its_state_as_if_nothing_had_been(done: int) -> None:
    """One worker, killed after so many reports: what was running goes on, and the rest is as it would have been."""
    qualities = [((i * 5) % 8) / 8 for i in range(8)]
    curves = {str(i): curve(quality, 1.0) for i, quality in enumerate(qualities)}
    whole, _ = replay(promoting(), curves, list(curves), 1)
    first = promoting()
    cut = {name: rows[:] for name, rows in curves.items()}
    idle, told = list(curves), dict.fromkeys(curves, 0)
    again: PromotingScheduler | None = None
    while name := (again or first).next(idle, running=False):
        asha = again or first
        idle.remove(name)
        while asha.judge(name, cut[name][told[name]]):
            told[name] += 1
            if sum(told.values()) == done and again is None:
                again = promoting()
                again.load_state(json.loads(json.dumps(first.state())))
                idle = sorted([*idle, name])
                break
        else:
            told[name] += 1
            idle += [name] * asha.holds(name)
    assert told == whole


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_on_ray_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    monkeypatch.setenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
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
        gc.collect()
    last = {str(r.config["q"]): r.metrics.get("iteration") for r in results if r.config}
    assert last == {"0.9": 400, "0.1": 100, "0.5": None, "nan": 100}
    assert len(results.errors) == 1
    assert asha.state()["reasons"] == {
        "q=0.1": "asha: rung 100: exact_match 0.1 below 0.9",
        "q=nan": "asha: rung 100: exact_match is not a finite number",
    }

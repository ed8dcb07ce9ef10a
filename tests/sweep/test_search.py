"""Proposals by TPE: of the space, a function of the record, and better than chance."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from popgpt.config import dump_yaml
from popgpt.lines.shuffle import derive_key
from popgpt.sweep.draws import sample
from popgpt.sweep.events import Ended, Failed, Reported, Started
from popgpt.sweep.record import FILE, Record
from popgpt.sweep.schema import Sweep
from popgpt.sweep.search import STARTUP, propose
from popgpt.sweep.space import load_sweep

Outcome = Callable[[dict[str, Any]], dict[str, float]]
FULL = {
    "learning_rate": {"loguniform": [1e-4, 1e-1]},
    "dropout": {"uniform": [0, 0.5]},
    "d_model": {"choice": [48, 64, 80]},
    "d_head": {"divisors_of": "d_model", "between": [4, 32]},
    "n_layer": {"randint": [1, 6]},
    "optimizer": {"choice": ["muon", "adamw"]},
    "beta2": {"uniform": [0.9, 0.999], "when": {"optimizer": "adamw"}},
}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("search")

    def load(space: dict[str, Any] = FULL, **keys: Any) -> Sweep:
        (folder / "base.yaml").write_text(dump_yaml({"max_iters": 90, "d_model": 64, "d_head": 16}))
        given = {"config": "base.yaml", "space": space, "search": "optuna", "num_samples": 12, "finalists": 0, **keys}
        given.setdefault("asha", {"grace_period": 10, "reduction_factor": 3})
        (folder / "space.yaml").write_text(dump_yaml(given))
        return load_sweep(folder / "space.yaml")

    return load


def smooth(config: dict[str, Any]) -> dict[str, float]:
    """Scores whose best is near learning_rate 3e-3, dropout 0.1, d_model 64, d_head 16, 4 layers, and muon."""
    far = (math.log10(config["learning_rate"]) + 2.5) ** 2 / 2 + 4 * (config["dropout"] - 0.1) ** 2
    far += math.log2(config["d_model"] / 64) ** 2 + math.log2(config["d_head"] / 16) ** 2 / 8
    far += (config["n_layer"] - 4) ** 2 / 20 + 0.3 * (config["optimizer"] == "adamw")
    far += 10 * (config.get("beta2", 0.97) - 0.97) ** 2
    return {"exact_match": math.exp(-far), "token_accuracy": 0.5, "val_loss": far}


def play(record: Record, name: str, outcome: Outcome, how: str = "completed") -> None:
    """A trial that is evaluated once and then ends as `how` says."""
    record.propose(name)
    row = {"iteration": 90 if how == "completed" else 30, **outcome(record.trials[name].config)}
    record.apply(name, Started())
    if how != "broken":
        record.apply(name, Reported([row]))
    if how != "running":
        record.apply(name, Failed("nan") if how in ("failed", "broken") else Ended("asha: rung 30"))


def played(sweep: Sweep, outcome: Outcome = smooth, how: Sequence[str] = ("completed",)) -> list[dict[str, Any]]:
    """The parameters of all trials, one at a time, which end as `how` says in turn."""
    record = Record(sweep, sample(sweep))
    for number, name in enumerate(record.trials):
        play(record, name, outcome, how[number % len(how)])
    return [trial.config for trial in record.trials.values()]


def belongs(sweep: Sweep, values: dict[str, Any]) -> bool:
    """Whether a trial is one that random search might draw."""
    config = sweep.config(values)
    for name, domain in sweep.space.items():
        if domain.when and getattr(config, domain.when[0]) not in domain.when[1]:
            if name in values:
                return False
        elif domain.kind == "divisors_of":
            of, low, high = domain.values
            if not low <= values[name] <= high or getattr(config, of) % values[name]:
                return False
        elif domain.kind == "choice":
            if values[name] not in domain.values:
                return False
        elif not domain.values[0] <= values[name] <= domain.values[1] or float(f"{values[name]:.6g}") != values[name]:
            return False
    return list(values) == [name for name in sweep.space if name in values]


SPACES = st.fixed_dictionaries(
    {
        "learning_rate": st.sampled_from([FULL["learning_rate"], {"uniform": [1e-3, 1e-2]}, {"choice": [1e-3, 1e-2]}]),
        "d_model": st.sampled_from([{"choice": [48, 64, 80]}, {"randint": [30, 90]}, {"choice": [64]}]),
        "d_head": st.sampled_from(
            [{"divisors_of": "d_model"}, {"divisors_of": "d_model", "between": [1, 32]}, {"choice": [8, 16, 20]}]
        ),
    },
    optional={
        "n_layer": st.sampled_from([{"randint": [1, 3]}, {"choice": [1, 2], "when": {"d_model": [48, 64]}}]),
        "optimizer": st.just(FULL["optimizer"]),
        "beta2": st.just(FULL["beta2"]),
    },
)
ENDS = st.lists(st.sampled_from(["completed", "stopped", "failed", "broken", "running"]), min_size=1, max_size=5)
QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)


def noise(config: dict[str, Any]) -> dict[str, float]:
    value = derive_key(repr(config)) % 1000 / 1000
    return {"exact_match": 0.0 if value < 0.5 else value, "token_accuracy": value, "val_loss": value}


@QUICK
@given(SPACES, ENDS, st.integers(0, 9), st.sampled_from(["exact_match", "val_loss"]))
def test_what_is_proposed_is_new_of_the_space_and_makes_a_config(
    load: Any, space: dict[str, Any], how: list[str], seed: int, metric: str
) -> None:
    space = {name: space[name] for name in FULL if name in space}  # what depends on others stands below them
    sweep = load(space, seed=seed, metric=metric, num_samples=STARTUP + 4)
    trials = played(sweep, noise, ["completed", *how])
    assert len(trials) == len(sample(sweep))
    assert all(belongs(sweep, values) for values in trials)
    assert all(values not in trials[:number] for number, values in enumerate(trials))


@QUICK
@given(ENDS, st.integers(0, 9))
def test_a_proposal_is_a_function_of_the_record(
    load: Any, tmp_path_factory: pytest.TempPathFactory, how: list[str], seed: int
) -> None:
    """Asked again, by a later process that has but sweep.json, and in a sweep that has grown."""
    sweep, folder = load(seed=seed, num_samples=STARTUP + 3), tmp_path_factory.mktemp("record")
    record = Record(sweep, sample(sweep))
    for number, name in enumerate(list(record.trials)[:-1]):
        play(record, name, noise, how[number % len(how)])
    record.write(folder)
    before = json.loads((folder / FILE).read_text())
    last = list(record.trials)[-1]
    found = []
    for count in (STARTUP + 3, STARTUP + 3, STARTUP + 9):
        again = Record(load(seed=seed, num_samples=count), sample(load(seed=seed, num_samples=count)))
        again.restore(before)
        assert again.propose(last)
        found.append(again.trials[last].config)
    assert record.propose(last)
    assert not record.propose(last)
    assert found == [record.trials[last].config] * 3


def test_tpe_finds_better_than_random_search_does(load: Any) -> None:
    def best(search: str, seed: int) -> float:
        sweep = load(search=search, seed=seed, num_samples=24)
        return min(smooth(values)["val_loss"] for values in played(sweep))

    by_tpe, at_random = (statistics.mean(best(search, seed) for seed in range(8)) for search in ("optuna", "random"))
    assert by_tpe < 0.7 * at_random


def test_only_the_order_of_scores_counts_and_token_accuracy_breaks_ties(load: Any) -> None:
    def tied(config: dict[str, Any]) -> dict[str, float]:
        return {"exact_match": 0.0, "token_accuracy": smooth(config)["exact_match"]}

    by_score = played(load(), smooth)
    assert played(load(metric="val_loss"), smooth) == by_score
    assert played(load(), tied) == by_score
    assert played(load(), lambda config: {"exact_match": 0.0, "token_accuracy": 0.0}) != by_score


def test_the_first_trials_are_the_points_and_then_random_searchs(load: Any) -> None:
    points = [{"learning_rate": 0.5, "d_model": 100, "d_head": 25}, {"optimizer": "muon"}]
    sweep = load(points_to_evaluate=points)
    trials = played(sweep, noise)
    assert trials[:2] == points
    assert trials[:STARTUP] == sample(sweep)[:STARTUP] == sample(load(search="random", points_to_evaluate=points))[:5]
    assert trials[STARTUP:] != sample(sweep)[STARTUP:]
    many = [{"n_layer": 1 + number % 6, "d_model": 16 * (2 + number // 6)} for number in range(STARTUP + 4)]
    sweep = load(points_to_evaluate=many)
    assert played(sweep, noise)[: STARTUP + 4] == sample(sweep)[: STARTUP + 4]


def test_trials_that_run_at_a_time_are_not_alike(load: Any) -> None:
    sweep = load({"learning_rate": FULL["learning_rate"]}, num_samples=STARTUP + 6)
    record = Record(sweep, sample(sweep))
    for number, name in enumerate(record.trials):
        scores = {"exact_match": 0.5, "token_accuracy": 0.5}
        play(record, name, lambda config, scores=scores: scores, "completed" if number < STARTUP else "running")
    rates = sorted(math.log10(trial.config["learning_rate"]) for trial in list(record.trials.values())[STARTUP:])
    assert min(b - a for a, b in itertools.pairwise(rates)) > 0.01


def test_nothing_is_proposed_before_enough_trials_have_ended(load: Any) -> None:
    sweep = load()
    assert played(sweep, how=["running"]) == sample(sweep)


def test_a_finite_space_is_tried_whole(load: Any) -> None:
    space = {"d_model": {"choice": [32, 48, 80]}, "d_head": {"choice": [16, 20, 24]}}
    trials = played(load(space, num_samples=50), lambda config: {"exact_match": config["d_model"], "token_accuracy": 0})
    assert sorted((t["d_model"], t["d_head"]) for t in trials) == [(32, 16), (48, 16), (48, 24), (80, 16), (80, 20)]
    wide = played(load({"n_layer": {"randint": [1, 12]}}, num_samples=50), lambda config: {"exact_match": 0.5})
    assert sorted(t["n_layer"] for t in wide) == list(range(1, 13))


def test_failed_trials_rank_last_and_stopped_ones_by_how_far_they_got(load: Any) -> None:
    """Where low rates fail or stop early, and high ones end, TPE goes high, whatever the scores."""
    space = {"learning_rate": FULL["learning_rate"]}
    for bad in ("failed", "broken", "stopped"):
        sweep = load(space, num_samples=30)
        record = Record(sweep, sample(sweep))
        for name in record.trials:
            record.propose(name)
            low = record.trials[name].config["learning_rate"] < 1e-2
            score = {"exact_match": 0.9 if low else 0.1, "token_accuracy": 0.5}
            play(record, name, lambda config, score=score: score, bad if low else "completed")
        late = [trial.config["learning_rate"] for trial in list(record.trials.values())[10:]]
        assert sum(rate > 1e-2 for rate in late) > len(late) / 2, f"a third would be chance; {bad}"


def test_the_record_plans_what_rests_on_scores(load: Any, tmp_path: Path) -> None:
    sweep = load()
    record = Record(sweep, sample(sweep))
    assert [trial.status for trial in record.trials.values()] == ["waiting"] * STARTUP + ["planned"] * 7
    assert record.open_trials() == record.unfinished() == list(record.trials)
    assert not record.choose_finalists()
    record.write(tmp_path)
    written = json.loads((tmp_path / FILE).read_text())["trials"]
    assert [(each["config"], each["status"]) for each in written[STARTUP:]] == [({}, "planned")] * 7
    at_random = load(search="random")
    assert {trial.status for trial in Record(at_random, sample(at_random)).trials.values()} == {"waiting"}
    assert propose(at_random, sample(at_random), []) == sample(at_random)[0]

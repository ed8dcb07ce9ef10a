"""A sweep's record: stages, what a later process takes up, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from popgpt.sweep.asha import scheduler
from popgpt.sweep.content import Content
from popgpt.sweep.draws import sample
from popgpt.sweep.events import Ended, Failed, Paused, Reported, Started, Status
from popgpt.sweep.record import FILE, Record
from popgpt.sweep.report import findings
from popgpt.sweep.schema import Sweep
from popgpt.sweep.space import load_sweep
from popgpt.text.errors import UserError

BASE = {"max_iters": 90, "seed": 7, "dropout": 0.1, "d_model": 64, "d_head": 16}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(*words: str, base: dict[str, Any] = BASE, **keys: Any) -> Sweep:
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
        space = {"learning_rate": {"loguniform": [1e-3, 1e-1]}, "n_layer": {"choice": [1, 2]}}
        given = {"config": "base.yaml", "num_samples": 4, "space": space, "finalists": 2, "finalist_seeds": 1, **keys}
        given.setdefault("asha", {"grace_period": 10, "reduction_factor": 3})
        (tmp_path / "space.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
        return load_sweep(tmp_path / "space.yaml", words)

    return load


def new(sweep: Sweep) -> Record:
    return Record(sweep, sample(sweep))


def play(record: Record, name: str, iteration: int, value: float, event: str = "ended") -> None:
    """A run that is evaluated once and then ends."""
    row = {"iteration": iteration, "exact_match": value, "token_accuracy": value}
    record.apply(name, Started())
    record.apply(name, Reported([row]))
    ends = {"ended": Ended(None if iteration == 90 else f"asha: rung {iteration}"), "paused": Paused()}
    record.apply(name, (ends | {"failed": Failed("broken")})[event])


def written(record: Record, tmp_path: Path) -> dict[str, Any]:
    record.write(tmp_path)
    return json.loads((tmp_path / FILE).read_text())  # type: ignore[no-any-return]


def played(load: Any) -> Record:
    """Four trials have ended: 0000 whole, 0001 and 0002 stopped, 0003 failed."""
    record = new(load())
    for name, iteration, value in (("0000", 90, 0.5), ("0001", 30, 0.625), ("0002", 10, 0.25)):
        play(record, name, iteration, value)
    play(record, "0003", 30, 0.75, "failed")
    return record


def test_finalists_are_laid_out_once_all_trials_have_ended(load: Any, tmp_path: Path) -> None:
    record = new(load())
    assert (record.choose_finalists(), record.finalists) == (False, [])
    record = played(load)
    assert record.winner() is record.trials["0003"]
    assert record.choose_finalists()
    assert record.finalists == ["0001", "0000"]
    assert record.open_finals() == ["0001", "0001-s1", "0000-s1"]
    assert [record.seed(name) for name in record.runs] == [7, 7, 7, 7, 8, 8]
    assert record.repeats["0001-s1"].config == record.trials["0001"].config | {"seed": 8}
    assert [record.finalist_of(name) for name in ("0000", "0002", "0001-s1")] == ["0000", None, "0001"]
    assert not record.choose_finalists()

    play(record, "0001", 90, 0.75)
    play(record, "0001-s1", 90, 0.25)
    play(record, "0000-s1", 90, 0.625)
    assert record.unfinished() == []
    assert record.winner() is record.trials["0000"]
    found = written(record, tmp_path)
    assert (found["best"]["id"], found["best"]["exact_match"]) == ("0000", 0.5)
    assert [(each["id"], each["mean"]) for each in found["finalists"]] == [("0000", 0.5625), ("0001", 0.5)]
    assert [(each["id"], each["of"]) for each in found["repeats"]] == [("0001-s1", "0001"), ("0000-s1", "0000")]
    assert found["trials"][1]["stopped_by"] == "asha: rung 30"
    assert found["iterations"] == 90 + 90 + 10 + 30 + 90 + 90


def test_a_later_process_goes_on_with_the_finalists(load: Any, tmp_path: Path) -> None:
    record = played(load)
    record.choose_finalists()
    play(record, "0001-s1", 90, 0.25)
    record.apply("0001", Started())
    record.interrupt()
    again = new(load())
    again.restore(written(record, tmp_path))
    assert sorted(again.finalists) == ["0000", "0001"]
    assert (again.open_trials(), sorted(again.open_finals())) == ([], ["0000-s1", "0001"])
    assert again.runs == record.runs


def test_with_more_trials_the_finalists_are_chosen_anew(load: Any, tmp_path: Path) -> None:
    record = played(load)
    record.choose_finalists()
    play(record, "0000-s1", 90, 0.625)
    record.apply("0001", Started())
    record.interrupt()
    again = new(load("num_samples=6"))
    again.restore(written(record, tmp_path))
    assert again.open_trials() == ["0004", "0005"]
    for name in again.open_trials():
        play(again, name, 90, 0.875)
    assert again.choose_finalists()
    assert again.finalists == ["0004", "0005"]
    assert again.trials["0001"].status == "stopped"
    assert again.trials["0001"].reason == "asha: rung 30"
    assert again.repeats["0001-s1"].status == "stopped"
    assert again.open_finals() == ["0004-s1", "0005-s1"]
    assert again.repeats["0000-s1"].status == "completed"


def test_one_that_is_held_is_open_until_it_has_ended_and_again_where_more_are_to_run(load: Any, tmp_path: Path) -> None:
    record = new(load())
    for name in record.trials:
        play(record, name, 10, 0.5, "paused")
    assert {trial.status for trial in record.trials.values()} == {"paused"}
    assert {trial.reason for trial in record.trials.values()} == {None}
    assert (len(record.open_trials()), record.states_kept("0000"), record.choose_finalists()) == (4, None, False)
    for name in record.trials:
        record.apply(name, Ended("asha: rung 10"))
    record.reopen(lambda name: True)
    assert record.open_trials() == [], "nothing is to run that they could be promoted among"

    more = new(load("num_samples=5"))
    more.restore(written(record, tmp_path))
    more.reopen(lambda name: name in ("0000", "0002"))
    assert more.open_trials() == ["0000", "0002", "0004"]
    assert [(trial.status, trial.reason) for trial in more.trials.values()] == [
        ("paused", None),
        ("stopped", "asha: rung 10"),
        ("paused", None),
        ("stopped", "asha: rung 10"),
        ("waiting", None),
    ]


@pytest.mark.parametrize(("retry", "opened"), [(False, []), (True, ["0003"])])
def test_what_failed_runs_again_where_that_is_asked(load: Any, tmp_path: Path, retry: bool, opened: list[str]) -> None:
    again = new(load())
    assert again.restore(written(played(load), tmp_path), retry_failed=retry) == 1
    assert again.open_trials() == opened
    assert again.trials["0003"].metrics[-1]["iteration"] == 30


def test_a_failed_repeat_runs_again_as_a_finalists(load: Any, tmp_path: Path) -> None:
    record = played(load)
    record.choose_finalists()
    play(record, "0001", 90, 0.75)
    play(record, "0001-s1", 30, 0.25, "failed")
    play(record, "0000-s1", 90, 0.25)
    record.put(replace(record.trials["0003"], status=Status.STOPPED))
    assert record.winner() is record.trials["0000"]
    again = new(load())
    again.restore(written(record, tmp_path), retry_failed=True)
    assert (again.open_trials(), again.open_finals()) == ([], ["0001-s1"])


def test_with_fewer_trials_than_finalists_all_that_did_not_fail_are_finalists(load: Any) -> None:
    record = new(load("num_samples=1", "finalists=3"))
    play(record, "0000", 90, 0.5)
    assert record.choose_finalists()
    assert (record.finalists, record.open_finals()) == (["0000"], ["0000-s1"])
    play(record, "0000-s1", 90, 0.25)
    assert (record.unfinished(), record.winner()) == ([], record.trials["0000"])

    record = new(load("num_samples=1", "finalists=3"))
    play(record, "0000", 30, 0.5, "failed")
    assert not record.choose_finalists()
    assert (record.unfinished(), record.finalists) == ([], [])


def test_without_finalists_the_best_trial_wins(load: Any, tmp_path: Path) -> None:
    record = new(load("finalists=0"))
    for number, name in enumerate(record.trials):
        play(record, name, 90, number / 8)
    assert not record.choose_finalists()
    assert (record.unfinished(), record.winner()) == ([], record.trials["0003"])
    assert not {"finalists", "repeats"} & written(record, tmp_path).keys()


def test_states_are_kept_where_something_may_go_on_from_them(load: Any) -> None:
    record = played(load)
    assert [record.states_kept(name) for name in record.trials] == [0, 1, 1, 1]
    record.choose_finalists()
    assert {name: record.states_kept(name) for name in record.runs} == {
        "0000": 0,
        "0001": None,
        "0002": 0,
        "0003": 1,
        "0001-s1": None,
        "0000-s1": None,
    }
    record = new(load("finalists=0"))
    play(record, "0000", 10, 0.5)
    assert record.states_kept("0000") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1"], "seed=1 was 0 when"),
        (["metric=val_loss"], "metric='val_loss' was 'exact_match' when"),
        (["search=optuna"], "search='optuna' was 'random' when"),
        (["finalists=3"], "finalists=3 was 2 when"),
        (["finalist_seeds=2"], "finalist_seeds=2 was 1 when"),
        (["n_layer={choice: [1, 2, 3]}"], "space.n_layer={'kind': 'choice', 'values': [1, 2, 3], 'when': None} was"),
        (["n_layer=1"], "space.n_layer=None was {'kind': 'choice'"),
        (["batch_size=2"], "config.batch_size=2 was 128 when"),
        (["max_iters=80"], "config.max_iters=80 was 90 when"),
        (["config.seed=8"], "config.seed=8 was 7 when"),
        (["asha.grace_period=20"], "asha.grace_period=20 was 10 when"),
        (["asha.max_t=80"], "asha.max_t=80 was None when"),
        (["asha=null"], "asha.grace_period=None was 10 when"),
        (["num_samples=3"], "num_samples=3 makes 3 trials, but this sweep has 4: a sweep can only grow"),
    ],
)
def test_another_sweep_is_refused_by_the_key(load: Any, tmp_path: Path, words: list[str], said: str) -> None:
    before = written(new(load()), tmp_path)
    with pytest.raises(UserError) as refused:
        new(load(*words)).restore(before)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_the_base_config_counts_by_what_it_says(load: Any, tmp_path: Path) -> None:
    before = written(new(load()), tmp_path)
    for base in ({**BASE, "batch_size": 128}, {**BASE, "mlflow_log": False, "device": "cpu", "experiment": "e"}):
        new(load(base=base)).restore(before)
    with pytest.raises(UserError, match=r"^config\.dropout=0\.0 was 0\.1 when this sweep was started; --resume goes"):
        new(load(base={**BASE, "dropout": 0.0})).restore(before)


def test_a_sweep_from_before_there_was_a_choice_of_search_goes_on(load: Any, tmp_path: Path) -> None:
    before = written(new(load()), tmp_path)
    del before["sweep"]["search"]
    new(load()).restore(before)
    with pytest.raises(UserError, match=r"^search='optuna' was 'random' when"):
        new(load("search=optuna")).restore(before)


def test_the_order_of_the_space_counts(load: Any, tmp_path: Path) -> None:
    before = written(new(load()), tmp_path)
    space = {"n_layer": {"choice": [1, 2]}, "learning_rate": {"loguniform": [1e-3, 1e-1]}}
    with pytest.raises(UserError, match=r"^space=\['n_layer', 'learning_rate'\] was in the order"):
        new(load(space=space)).restore(before)


SPACES = st.fixed_dictionaries(
    {"learning_rate": st.sampled_from([{"loguniform": [1e-3, 1e-1]}, {"choice": [1e-3, 1e-2]}])},
    optional={
        "n_layer": st.sampled_from([{"grid": [1, 2]}, {"randint": [1, 3]}]),
        "d_model": st.sampled_from([{"choice": [48, 64]}, {"grid": [32, 64, 80]}]),
        "d_head": st.sampled_from([{"divisors_of": "d_model", "between": [8, 32]}, {"choice": [16, 20]}]),
        "optimizer": st.just({"choice": ["muon", "adamw"]}),
        "beta2": st.just({"uniform": [0.9, 0.99], "when": {"optimizer": "adamw"}}),
    },
)


@given(SPACES, st.integers(1, 6), st.integers(0, 6), st.integers(0, 3), st.booleans())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_more_samples_add_trials_and_change_none(
    load: Any, space: dict[str, Any], few: int, more: int, seed: int, points: bool
) -> None:
    space = dict(sorted(space.items(), key=lambda item: item[0] in ("d_head", "beta2")))  # those depend on others
    keys = {"space": space, "seed": seed, "asha": {"grace_period": 10, "reduction_factor": 3, "brackets": 2}}
    keys |= {"points_to_evaluate": [{"learning_rate": 1e-3}]} if points else {}
    small, large = load(f"num_samples={few}", **keys), load(f"num_samples={few + more}", **keys)
    first, whole = sample(small), sample(large)
    assert whole[: len(first)] == first

    one, then, at_once = scheduler(small), scheduler(large), scheduler(large)
    assert one
    assert then
    assert at_once
    for number in range(len(first)):
        one.add(str(number))
    then.load_state(json.loads(json.dumps(one.state())))
    for number in range(len(whole)):
        at_once.add(str(number))
        if number >= len(first):
            then.add(str(number))
    assert then.state() == at_once.state()


def test_what_a_trial_takes_of_a_gpu_is_asked_once(load: Any, tmp_path: Path) -> None:
    record, again = new(load()), new(load())
    record.gpu = {"total": 80, "context": 1, "peak": 9}
    again.restore(written(record, tmp_path))
    assert again.gpu == record.gpu


def test_without_further_seeds_a_finalist_is_trained_to_the_end_and_wins_by_its_own_score(
    load: Any, tmp_path: Path
) -> None:
    record = new(load(finalist_seeds=0))
    for name, iteration, value in (("0000", 90, 0.5), ("0001", 30, 0.625), ("0002", 10, 0.25), ("0003", 10, 0.0)):
        play(record, name, iteration, value)
    assert record.choose_finalists()
    assert (record.open_finals(), record.repeats) == (["0001"], {})
    play(record, "0001", 90, 0.75)
    assert record.unfinished() == []
    assert [(each["id"], each["mean"], len(each["seeds"])) for each in record.results()] == [
        ("0001", 0.75, 1),
        ("0000", 0.5, 1),
    ]
    assert record.winner() is record.trials["0001"]
    content = Content.from_json(written(record, tmp_path))
    assert findings.about_finalists(content).startswith("Trained to the full budget, each with its own seed only")

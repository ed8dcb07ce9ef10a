import itertools
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from popgpt.config import dump_yaml, make_config, merge, parse_overrides
from popgpt.metrics.metric import score
from popgpt.sweep.domain import Domain
from popgpt.sweep.draws import sample
from popgpt.sweep.events import Ended, Reported
from popgpt.sweep.record import Record
from popgpt.sweep.schema import Asha, Sweep, TrialResources, rungs
from popgpt.sweep.space import load_sweep, warnings
from popgpt.text.errors import UserError

SPACE = {
    "learning_rate": {"loguniform": [1e-3, 1e-2]},
    "d_model": {"choice": [64, 96]},
    "d_head": {"choice": [16, 32]},
    "dropout": {"uniform": [0, 0.1]},
    "warmup_iters": {"randint": [0, 3]},
}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(space: Any = SPACE, base: dict[str, Any] | None = None, **keys: Any) -> Path:
        (tmp_path / "configs").mkdir(exist_ok=True)
        (tmp_path / "configs" / "base.yaml").write_text(dump_yaml({"max_iters": 900} if base is None else base))
        (tmp_path / "spaces").mkdir(exist_ok=True)
        path = tmp_path / "spaces" / "s.yaml"
        path.write_text(dump_yaml({"config": "../configs/base.yaml", "space": space, **keys}))
        return path

    return write


def test_a_sweep_is_read_with_its_defaults(write: Any) -> None:
    sweep = load_sweep(write(num_samples=3, out_dir="there"))
    assert sweep.base == {"max_iters": 900, "best_by": "exact_match"}
    assert sweep.space["learning_rate"] == Domain("loguniform", (1e-3, 1e-2))
    assert (sweep.metric, sweep.num_samples, sweep.out_dir, sweep.seed) == ("exact_match", 3, "there", 0)
    assert sweep.asha == Asha(grace_period=100, reduction_factor=3, brackets=1)
    assert sweep.max_t == 900
    assert (sweep.finalists, sweep.finalist_seeds) == (3, 2)
    assert sweep.resources == TrialResources(cpus_per_trial="auto", gpus_per_trial="auto", max_concurrent="auto")


def test_overrides_reach_the_sweep_or_the_base(write: Any) -> None:
    words = ["num_samples=2", "asha.grace_period=50", "max_iters=500", "seed=4", "config.seed=5", "out_dir=7"]
    sweep = load_sweep(write(asha={"reduction_factor": 2}), words)
    assert (sweep.num_samples, sweep.seed, sweep.out_dir, sweep.max_t) == (2, 4, "7", 500)
    assert sweep.asha == Asha(grace_period=50, reduction_factor=2)
    assert sweep.base == {"max_iters": 500, "seed": 5, "best_by": "exact_match"}
    assert load_sweep(write(), ["asha=null"]).asha is None


def test_naming_a_swept_parameter_pins_it(write: Any) -> None:
    sweep = load_sweep(write(), ["n_embd=64", "n_head=4"])
    assert set(sweep.space) == {"learning_rate", "dropout", "warmup_iters"}
    assert {(c.d_model, c.d_head, c.n_head) for c in map(sweep.config, sample(sweep))} == {(64, 16, 4)}
    again = load_sweep(write(), ["d_model={choice: [32]}"])
    assert again.space["d_model"] == Domain("choice", (32,))


def test_pinning_leaves_the_other_draws(write: Any) -> None:
    free, pinned = (sample(load_sweep(write(), words)) for words in ([], ["dropout=0.0"]))
    assert [t["learning_rate"] for t in free] == [t["learning_rate"] for t in pinned]


def test_a_plain_value_in_the_space_is_fixed(write: Any) -> None:
    sweep = load_sweep(write({"d_model": {"choice": [64]}, "n_layer": 3}))
    assert list(sweep.space) == ["d_model"]
    assert sweep.config({"d_model": 64}).n_layer == 3


def test_samples_are_a_prefix_of_more_samples(write: Any) -> None:
    few, many = (sample(load_sweep(write(num_samples=n))) for n in (3, 9))
    assert many[:3] == few
    assert sample(load_sweep(write(num_samples=3, seed=1))) != few


def test_first_sample_is_golden(write: Any) -> None:
    golden = {"learning_rate": 0.00510751, "d_model": 96, "d_head": 16, "dropout": 0.0672207, "warmup_iters": 0}
    assert sample(load_sweep(write(num_samples=1))) == [golden]


def test_a_command_repeats_a_trial_exactly(write: Any) -> None:
    sweep = load_sweep(write(num_samples=20))
    for trial in sample(sweep):
        words = [f"{key}={value}" for key, value in trial.items()]
        assert make_config(merge(sweep.base, parse_overrides(words))) == sweep.config(trial)


def test_combinations_that_the_config_refuses_are_never_drawn(write: Any) -> None:
    space = {"d_model": {"choice": [32, 48, 80]}, "d_head": {"choice": [16, 20, 24]}}
    drawn = {(t["d_model"], t["d_head"]) for t in sample(load_sweep(write(space, num_samples=50)))}
    assert drawn == {(32, 16), (48, 16), (48, 24), (80, 16), (80, 20)}


def test_a_view_is_swept_where_rows_can_hold_it(write: Any) -> None:
    space = {"view": {"choice": ["plain", "reversed", "worked"]}, "block_size": {"choice": [32, 64]}}
    drawn = {(t["view"], t["block_size"]) for t in sample(load_sweep(write(space, num_samples=50)))}
    assert drawn == {("plain", 32), ("plain", 64), ("reversed", 32), ("reversed", 64), ("worked", 64)}


def test_a_finite_space_is_drawn_without_repeats_until_it_is_exhausted(write: Any) -> None:
    space = {"d_model": {"choice": [32, 64]}, "n_layer": {"randint": [1, 3]}}
    trials = sample(load_sweep(write(space, num_samples=10)))
    assert {tuple(t.values()) for t in trials} == set(itertools.product((32, 64), (1, 2, 3)))
    assert len(trials) == 6


def test_a_grid_is_enumerated_num_samples_times(write: Any) -> None:
    space = {"d_model": {"grid": [32, 64]}, "dropout": {"uniform": [0.0, 0.5]}, "n_layer": {"grid": [1, 2]}}
    trials = sample(load_sweep(write(space, num_samples=3)))
    assert [(t["d_model"], t["n_layer"]) for t in trials] == [(32, 1), (32, 2), (64, 1), (64, 2)] * 3
    assert len({t["dropout"] for t in trials}) == 12


def test_grid_points_that_the_config_refuses_are_left_out(write: Any) -> None:
    space = {"d_model": {"grid": [32, 40]}, "d_head": {"grid": [16, 20]}}
    trials = sample(load_sweep(write(space, num_samples=5)))
    assert trials == [{"d_model": 32, "d_head": 16}, {"d_model": 40, "d_head": 20}]


def test_divisors_follow_the_drawn_width(write: Any) -> None:
    space = {"d_model": {"choice": [48, 64]}, "d_head": {"divisors_of": "n_embd", "between": [8, 32]}}
    drawn = {(t["d_model"], t["d_head"]) for t in sample(load_sweep(write(space, num_samples=20)))}
    assert drawn == {(48, 8), (48, 12), (48, 16), (48, 24), (64, 8), (64, 16), (64, 32)}
    pinned = sample(load_sweep(write(space, num_samples=20), ["d_model=24"]))
    assert {t["d_head"] for t in pinned} == {8, 12, 24}


def test_a_condition_leaves_a_parameter_out(write: Any) -> None:
    space = {
        "optimizer": {"choice": ["muon", "adamw"]},
        "beta2": {"choice": [0.95, 0.99], "when": {"optimizer": "adamw"}},
        "n_layer": {"grid": [1, 2], "when": {"optimizer": ["muon"]}},
    }
    drawn = {tuple(t.items()) for t in sample(load_sweep(write(space, num_samples=6)))}
    muon = {(("optimizer", "muon"), ("n_layer", n)) for n in (1, 2)}
    assert drawn == muon | {(("optimizer", "adamw"), ("beta2", b)) for b in (0.95, 0.99)}


def test_points_to_evaluate_come_first_and_count(write: Any) -> None:
    space = {"d_model": {"choice": [32, 64]}, "n_layer": {"choice": [1, 2]}}
    points = [{"n_layer": 2, "n_embd": 64}]
    trials = sample(load_sweep(write(space, points_to_evaluate=points, num_samples=3)))
    assert trials[0] == {"d_model": 64, "n_layer": 2}
    assert len({tuple(t.items()) for t in trials}) == len(trials) == 3
    assert len(sample(load_sweep(write(space, points_to_evaluate=points, num_samples=9)))) == 4
    assert sample(load_sweep(write(space, points_to_evaluate=points), ["d_model=32"])) == [
        {"n_layer": 2},
        {"n_layer": 1},
    ]


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"space": {"learning_rat": {"choice": [1e-3]}}},
        "unknown parameter space.learning_rat; did you mean learning_rate?",
    ),
    ({"space": {"d_model": {"choice": []}}}, "space.d_model: choice=[] should be a list of values"),
    ({"space": {"d_model": {"choise": [1]}}}, "did you mean choice?"),
    ({"space": {"d_model": {"choice": [1], "grid": [1]}}}, "should have one of the keys choice, uniform"),
    ({"space": {"d_model": [64, 128]}}, "space.d_model=[64, 128] should be a value or {choice: [64, 128]}"),
    ({"space": {"d_model": {"choice": [64, 64]}}}, "should name each value once"),
    ({"space": {"d_model": {"choice": [64.5]}}}, "space.d_model=64.5 should be an integer"),
    ({"space": {"d_model": {"uniform": [64, 128]}}}, "a whole number takes randint: [64, 128]"),
    ({"space": {"d_model": {"randint": [64, 128.5]}}}, "should be two whole numbers"),
    ({"space": {"dropout": {"choice": [0.0, 1.5]}}}, "space.dropout=1.5 should be less than 1"),
    ({"space": {"dropout": {"uniform": [0.5, 0.1]}}}, "should have its lower bound first"),
    ({"space": {"dropout": {"uniform": [0.5]}}}, "should be two numbers"),
    ({"space": {"learning_rate": {"loguniform": [0, 1]}}}, "should have bounds above 0"),
    ({"space": {"learning_rate": -1.0}}, "space.learning_rate=-1.0 should be greater than 0"),
    ({"space": {"out_dir": {"choice": ["a"]}}}, "space.out_dir is no hyperparameter"),
    ({"space": {"train_lines": {"choice": [10]}}}, "space.train_lines describes the data"),
    *(
        ({"space": {name: {"choice": [True, 3]}}}, f"space.{name} is no hyperparameter; set it in the config")
        for name in ("best_by", "always_save_checkpoint", "min_workers", "worker_timeout", "max_failures")
    ),
    (
        {"space": {"d_head": {"choice": [8]}, "n_head": {"choice": [8]}}},
        "space.n_head and space.d_head are one parameter",
    ),
    (
        {"space": {"d_model": {"choice": [8]}, "n_embd": {"choice": [8]}}},
        "space.n_embd and space.d_model are one parameter",
    ),
    (
        {"space": {"d_head": {"divisors_of": "d_modle"}}},
        "space.d_head: divisors_of='d_modle' should name a parameter; did",
    ),
    ({"space": {"d_head": {"divisors_of": "dropout"}}}, "should be a whole number, as d_model is"),
    ({"space": {"d_head": {"divisors_of": "d_model", "between": [3]}}}, "should be two whole numbers"),
    ({"space": {"d_head": {"choice": [8], "between": [3, 8]}}}, "between=[3, 8] goes with divisors_of only"),
    (
        {"space": {"d_head": {"divisors_of": "d_model"}, "d_model": {"choice": [8]}}},
        "depends on d_model, which should stand above",
    ),
    (
        {"space": {"beta2": {"choice": [0.9], "when": {"optimizer": "adam"}}}},
        "space.optimizer='adam' should be 'muon' or 'adamw'",
    ),
    ({"space": {"beta2": {"choice": [0.9], "when": "adamw"}}}, "should be {parameter: value}"),
    ({"points_to_evaluate": [{"d_mod": 8}]}, "points_to_evaluate: d_mod=8 is not in the space; did you mean d_model?"),
    ({"points_to_evaluate": [{"dropout": 2}]}, "points_to_evaluate: dropout=2 should be less than 1"),
    ({"metric": "accuracy"}, "metric='accuracy' should be 'exact_match', 'token_accuracy' or 'val_loss'"),
    ({"search": "optna"}, "search='optna' should be 'random' or 'optuna'"),
    ({"serch": "optuna"}, "unknown parameter serch='optuna'; did you mean search?"),
    (
        {"search": "optuna", "space": {"n_layer": {"grid": [1, 2]}}},
        "space.n_layer: a grid leaves nothing to search for; give {choice: [1, 2]} under search='optuna'",
    ),
    ({"num_sample": 4}, "unknown parameter num_sample=4; did you mean num_samples?"),
    ({"num_samples": 0}, "num_samples=0 should be greater than 0"),
    ({"asha": {"grace": 3}}, "unknown parameter asha.grace=3"),
    ({"asha": {"grace_period": 900}}, "asha.grace_period=900 should be below max_t=900"),
    ({"asha": {"brackets": 3}}, "asha.brackets=3 should be at most 2"),
    ({"asha": {"max_t": 1000}}, "asha.max_t=1000 should be at most max_iters=900"),
    ({"resources": {"gpus_per_trial": -1}}, "resources.gpus_per_trial=-1 should be greater than or equal to 0"),
    ({"resources": {"cpus_per_trial": "all"}}, "resources.cpus_per_trial='all' should be a number or 'auto'"),
    ({"resources": {"max_concurrent": 0}}, "resources.max_concurrent=0 should be greater than 0 or 'auto'"),
    ({"base": {"max_iter": 5}}, "unknown parameter max_iter=5; did you mean max_iters?"),
    ({"config": "nowhere.yaml"}, "nowhere.yaml: No such file or directory"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_mistakes_are_refused_in_one_line(write: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_sweep(write(**keys))
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("learning_rat=1", "unknown key learning_rat=1; did you mean learning_rate?"),
        ("grace_period=1", "unknown key grace_period=1; did you mean asha.grace_period?"),
        ("d_model=-1", "d_model=-1 should be greater than 0"),
        ("num_samples=x", "num_samples='x' should be an integer"),
        ("finalists=-1", "finalists=-1 should be greater than or equal to 0"),
        ("finalist_seeds=-1", "finalist_seeds=-1 should be greater than or equal to 0"),
    ],
)
def test_wrong_overrides_are_refused(write: Any, word: str, message: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        load_sweep(write(), [word])
    assert message in str(error.value)


@pytest.mark.parametrize("kind", ["choice", "grid"])
def test_a_space_of_refusals_gives_the_reason_of_one(write: Any, kind: str) -> None:
    space = {"d_model": {kind: [50, 70]}, "d_head": {kind: [16, 32]}, "dropout": {"uniform": [0, 0.1]}}
    with pytest.raises(UserError, match=r"refuses every combination of the space: d_head=.* does not divide d_model="):
        sample(load_sweep(write(space, base={"d_model": 64})))


@given(st.floats(1e-6, 1e-2), st.floats(1.01, 1e3), st.integers(0, 2**32), st.sampled_from(["uniform", "loguniform"]))
def test_draws_stay_inside_their_bounds(low: float, factor: float, seed: int, kind: str) -> None:
    domain = Domain(kind, (low, low * factor))
    trials = sample(_sweep({"learning_rate": domain}, seed))
    assert all(low <= t["learning_rate"] <= low * factor for t in trials)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True), st.integers(0, 99))
def test_what_is_drawn_makes_a_config(widths: list[int], seed: int) -> None:
    sweep = _sweep(
        {"d_model": Domain("choice", (64, *[w for w in widths if w != 64])), "d_head": Domain("randint", (1, 64))}, seed
    )
    assert all(sweep.config(t).d_head == t["d_head"] for t in sample(sweep))


def _sweep(space: dict[str, Domain], seed: int) -> Sweep:
    return Sweep(
        "s", {"min_lr": 0.0}, space, (), "exact_match", 3, "o", seed, Asha(), 1000, TrialResources(), 0, 2, "random"
    )


def test_rungs_lie_below_max_t() -> None:
    assert rungs(Asha(grace_period=100, reduction_factor=3), 900) == ((100, 300),)
    assert rungs(Asha(grace_period=100, reduction_factor=3, brackets=2), 901) == ((100, 300, 900), (300, 900))


def test_scores_order_by_metric_then_token_accuracy() -> None:
    assert score({"exact_match": 0.5, "token_accuracy": 0.1}, "exact_match") == (0.5, 0.1)
    assert score({"val_loss": 0.5}, "val_loss") == (-0.5, float("-inf"))
    worst = float("-inf"), float("-inf")
    nothing: list[dict[str, Any]] = [{}, {"val_loss": float("nan")}, {"val_loss": float("inf")}, {"val_loss": None}]
    assert all(score(row, "val_loss") == worst for row in nothing)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml")), ids=lambda p: p.name
)
def test_shipped_spaces_load_and_sample(path: Path) -> None:
    sweep = load_sweep(path)
    assert len(sample(sweep)) == sweep.num_samples
    assert {"learning_rate", "d_model", "d_head", "dropout", "block_size"} <= set(sweep.space)


ADAMW = {"optimizer": {"choice": ["muon", "adamw"]}}
LONGEST = [
    ({**ADAMW, "max_iters": {"choice": [150, 200], "when": {"optimizer": "adamw"}}}, {}, 900),
    ({**ADAMW, "max_iters": {"choice": [150, 200], "when": {"optimizer": ["adamw", "muon"]}}}, {}, 200),
    ({"max_iters": {"choice": [150, 200], "when": {"optimizer": "muon"}}, "n_layer": {"choice": [1, 2]}}, {}, 200),
    ({"max_iters": {"choice": [150, 200], "when": {"optimizer": "adamw"}}, "n_layer": {"choice": [1, 2]}}, {}, 900),
    ({"max_iters": {"choice": [150, 1200]}}, {}, 1200),
    ({"max_iters": {"choice": [150, 200]}}, {"points_to_evaluate": [{"max_iters": 300}]}, 300),
    (
        {"max_iters": {"choice": [150, 200]}, "n_layer": {"choice": [1, 2]}},
        {"points_to_evaluate": [{"n_layer": 2}]},
        900,
    ),
    ({"max_iters": {"divisors_of": "train_lines", "between": [100, 30_000]}}, {}, 25_000),
    (
        {"batch_size": {"choice": [600, 700]}, "max_iters": {"divisors_of": "batch_size", "between": [100, 340]}},
        {},
        300,
    ),
    (
        {"batch_size": {"randint": [600, 2**19]}, "max_iters": {"divisors_of": "batch_size", "between": [101, 340]}},
        {},
        340,
    ),
    ({"n_layer": {"randint": [1, 2]}, "max_iters": {"choice": [200], "when": {"n_layer": [1, 2]}}}, {}, 200),
    ({"n_layer": {"randint": [1, 3]}, "max_iters": {"choice": [200], "when": {"n_layer": [1, 2]}}}, {}, 900),
]


@pytest.mark.parametrize(("space", "keys", "longest"), LONGEST)
def test_the_longest_budget_is_of_what_trials_can_have(
    write: Any, space: dict[str, Any], keys: dict[str, Any], longest: int
) -> None:
    sweep = load_sweep(write(space, num_samples=40, **keys))
    assert sweep.max_t == longest
    assert load_sweep(write(space, asha=None, **keys)).max_t == longest
    assert max(sweep.config(trial).max_iters for trial in sample(sweep)) <= longest


def test_a_trial_whose_condition_does_not_hold_is_not_cut_short(write: Any) -> None:
    space = {**ADAMW, "max_iters": {"choice": [150, 200], "when": {"optimizer": "adamw"}}}
    record = Record(
        load_sweep(write(space, num_samples=9)), [{"optimizer": "muon"}, {"optimizer": "adamw", "max_iters": 200}]
    )
    for name in record.trials:
        record.apply(name, Reported([{"iteration": 200, "exact_match": 0.5}]))
        record.apply(name, Ended("asha: rung 200"))
    assert [trial.status for trial in record.trials.values()] == ["stopped", "completed"]


def test_divisors_of_what_follows_from_swept_parameters(write: Any) -> None:
    space = {"max_iters": {"choice": [300, 700]}, "eval_interval": {"divisors_of": "lr_decay_iters", "between": [5, 9]}}
    drawn = {(trial["max_iters"], trial["eval_interval"]) for trial in sample(load_sweep(write(space, num_samples=20)))}
    assert drawn == {(300, 5), (300, 6), (700, 5), (700, 7)}
    wrong = {"max_iters": {"divisors_of": "lr_decay_iters"}}
    with pytest.raises(
        UserError, match="max_iters depends on lr_decay_iters, which follows from it; give lr_decay_iters"
    ):
        load_sweep(write(wrong))
    assert load_sweep(write(wrong, base={"lr_decay_iters": 800})).max_t == 800


@pytest.mark.parametrize(
    "of", ["isolate_lines", "mask_before_token", "learning_rate", "seed", "min_workers", "max_failures"]
)
@pytest.mark.parametrize("of_base", [True, False])
def test_divisors_are_of_sizes_only(write: Any, of: str, of_base: bool) -> None:
    space = {"d_head": {"divisors_of": of}} if of_base else {of: {"divisors_of": "d_model"}}
    if not of_base and of == "seed":  # which takes any whole number
        assert sample(load_sweep(write(space)))
        return
    with pytest.raises(UserError, match=r"whole number|min_workers is no hyper|max_failures is no hyper") as refused:
        load_sweep(write(space))
    assert len(str(refused.value).splitlines()) == 1


HUGE: list[dict[str, Any]] = [
    {"max_iters": {"randint": [2**30, 2**31]}, "eval_interval": {"divisors_of": "max_iters", "between": [1, 2**31]}},
    {"seed": {"randint": [0, 2**63 - 10]}},
    {"d_model": {"choice": [50, 70, 90]}, "d_head": {"randint": [1000, 60_000]}, "n_layer": {"choice": [1]}},
    {**ADAMW, "n_layer": {"choice": [1, 2], "when": {"optimizer": "adamw"}}},
    {"dropout": {"choice": [number / 5000 for number in range(4000)]}},
    {"d_model": {"randint": [64, 128]}, "d_head": {"grid": [16, 32, 48]}, "n_layer": {"choice": [1, 2]}},
]


@pytest.mark.parametrize("space", HUGE, ids=lambda space: ",".join(space))
def test_nothing_takes_for_ever(write: Any, space: dict[str, Any]) -> None:
    begun = time.process_time()
    for count in (1500, 10**100):
        with suppress(UserError):
            sample(load_sweep(write(space, num_samples=count)))
    assert time.process_time() - begun < 4


def test_a_grid_of_too_many_points_is_refused(write: Any) -> None:
    space = {name: {"grid": list(range(1, 101))} for name in ("n_layer", "warmup_iters", "eval_interval", "eval_iters")}
    with pytest.raises(
        UserError, match=r"num_samples=8 for each of the grid's 100000000 points makes 800000000 trials"
    ):
        load_sweep(write(space))


def test_all_mistakes_of_a_space_are_told_at_once(write: Any) -> None:
    space = {"lr": 1e-3, "d_model": {"values": [1]}, "dropout": {"choice": [2.0]}, "n_layer": 0}
    path = write(space, num_trials=4, asha={"eta": 2, "grace_period": 0}, resources={"cpu": 1})
    with pytest.raises(UserError) as refused:
        load_sweep(path)
    told = [line.removeprefix(f"{path}: ") for line in str(refused.value).splitlines()]
    for said in (
        "unknown parameter num_trials=4; did you mean num_samples?",
        "unknown parameter asha.eta=2; did you mean reduction_factor?",
        "asha.grace_period=0 should be greater than 0",
        "unknown parameter resources.cpu=1; did you mean cpus_per_trial?",
        "unknown parameter space.lr; did you mean learning_rate?",
        "space.dropout=2.0 should be less than 1",
        "space.n_layer=0 should be greater than 0",
    ):
        assert said in told
    assert any("should have one of the keys" in line and line.endswith("; did you mean choice?") for line in told)
    assert len(told) == 8


def test_a_fixed_min_lr_beside_swept_rates_is_mentioned(write: Any) -> None:
    rates = {"learning_rate": {"loguniform": [1e-4, 1e-2]}}
    (told,) = warnings(load_sweep(write({**rates, "min_lr": 1e-3})))
    assert told == (
        "min_lr=0.001 is the same for each learning_rate from 0.0001 to 0.01; trials of a learning_rate below it are "
        "refused; left out, it would be a tenth of each"
    )
    (told,) = warnings(load_sweep(write(rates, base={"min_lr": 1e-5})))
    assert "refused" not in told
    assert warnings(load_sweep(write(rates))) == []
    assert warnings(load_sweep(write({**rates, "min_lr": {"choice": [1e-5, 1e-6]}}))) == []


def test_the_finalists_further_seeds_are_seeds(write: Any) -> None:
    with pytest.raises(UserError, match=f"finalist_seeds=2 after seed={2**63 - 2} should stay below {2**63}"):
        load_sweep(write(base={"seed": 2**63 - 2}))
    assert load_sweep(write(base={"seed": 2**63 - 2}, finalist_seeds=0)).finalist_seeds == 0


def test_a_base_that_is_a_space_is_refused(write: Any) -> None:
    path = write()
    with pytest.raises(UserError, match="a search space, not a config"):
        load_sweep(path, [f"config={path}"])

import json

from popgpt.sweep import ranking
from popgpt.sweep.events import Status
from popgpt.sweep.trial import Trial

NAN = float("nan")


def row(iteration: int, exact: float, tokens: float = 0.5, **more: float) -> dict[str, float]:
    return {"iteration": iteration, "exact_match": exact, "token_accuracy": tokens, **more}


def trial(name: str, *rows: dict[str, float], status: str = "completed", reason: str | None = None) -> Trial:
    return Trial(name, {"d_model": 64}, Status(status), reason, [*rows])


TRIALS = [
    trial("nan", row(100, NAN), status="stopped", reason="asha: rung 100: exact_match is not a finite number"),
    trial("tie", row(100, 0.5, 0.6)),
    trial("first", row(100, 0.5, 0.7), row(200, 0.2, 0.9), {"iteration": 210, "train_loss": 1.0}),
    trial("broken", status="failed", reason="RuntimeError: out of memory"),
    trial("equal", row(100, 0.5, 0.7)),
    trial("top", row(100, 0.1), row(200, 0.9, exact_match_n=200, exact_match_low=0.85, exact_match_high=0.94)),
]


def test_trials_rank_by_their_best_evaluation() -> None:
    order = [t.id for t in ranking.ranked(TRIALS, "exact_match")]
    assert order == ["top", "first", "equal", "tie", "nan", "broken"]


def test_a_loss_ranks_lowest_first() -> None:
    trials = [trial(str(x), {"iteration": 1, "val_loss": x}) for x in (0.3, NAN, 0.1, 0.2)]
    assert [t.id for t in ranking.ranked(trials, "val_loss")] == ["0.1", "0.2", "0.3", "nan"]


def test_summary_is_json_and_names_the_best() -> None:
    content = json.loads(json.dumps(ranking.summary(TRIALS, "exact_match"), allow_nan=False))
    assert content["best"] == {
        "id": "top",
        "config": {"d_model": 64},
        "status": "completed",
        "reason": None,
        "iterations": 200,
        "exact_match": 0.9,
        "exact_match_n": 200,
        "exact_match_low": 0.85,
        "exact_match_high": 0.94,
        "token_accuracy": 0.5,
        "iteration": 200,
    }
    assert [t["id"] for t in content["trials"]] == [t.id for t in TRIALS]
    assert [t["iterations"] for t in content["trials"]] == [100, 100, 210, 0, 100, 200]
    assert content["trials"][0]["metrics"] == [{"iteration": 100, "exact_match": None, "token_accuracy": 0.5}]
    assert content["iterations"] == 710


def test_a_sweep_in_which_nothing_was_evaluated_has_no_best() -> None:
    assert ranking.summary([], "exact_match")["best"] is None
    assert ranking.best([TRIALS[0], TRIALS[3]], "exact_match") is None

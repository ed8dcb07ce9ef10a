from __future__ import annotations

from dataclasses import replace

from popgpt.sweep.report import findings
from tests.sweep.report.contents import DONE, FINALISTS, SMALL, row, sweep, trial


def test_the_answer_is_the_score_on_test_and_says_how_it_was_chosen() -> None:
    assert findings.answer(DONE) == [
        "Trial 0000 answers 81.25% of the test split exactly (95% interval 75.00% to 86.00%, 2,000 lines).",
        "It was chosen on the val split, among 3 trials by exact match. It was scored once on the test split.",
    ]
    words = findings.answer(replace(DONE, finalists=FINALISTS))
    assert "by mean exact match over seeds, among 2 finalists of 3 trials" in words[1]
    words = findings.answer(replace(DONE, finalists=FINALISTS[:1]))
    assert "by mean exact match over seeds; it was the only one." in words[1]


def test_what_was_selected_on_is_not_the_result() -> None:
    words = findings.answer(SMALL)
    assert words[0] == "The winner has not been scored on the test split."
    assert words[1] == "Best so far: trial 0000, exact match on val 87.5% (78.8% to 88.8%)."
    assert words[2].endswith("it is not the result.")
    unfinished = sweep(*SMALL.trials, trial("0003", {}, status="interrupted"))
    assert findings.answer(unfinished)[0] == "Not finished: 1 of 4 trials is still open."


def test_the_command_repeats_the_winner() -> None:
    assert findings.command(DONE, "/x") == "python -m popgpt.train '/s/my sweep/best/config.yaml' out_dir=out/again"
    assert findings.command(SMALL, "/x") == "python -m popgpt.train /x/trials/0000/config.yaml out_dir=out/again"
    assert findings.command(sweep(), "/x") is None
    assert findings.config_yaml(SMALL) == "max_iters: 100\nseed: 7\nlearning_rate: 0.005\noptimizer: muon\n"


def test_compute_tells_run_saved_and_lost() -> None:
    spent = findings.compute(SMALL)
    assert (spent.run, spent.saved, spent.lost, spent.full) == (110, 90, 100, 300)
    assert (spent.train_seconds, spent.seconds_saved) == (11.0, 9.0)
    assert spent.rungs == [(10, 2, 1), (30, 1, 0), (90, 1, 0)]


def test_a_swept_length_bounds_its_own_trial() -> None:
    content = sweep(trial("a", {"max_iters": 40}, row(40, 0.5)), trial("b", {"max_iters": 400}, row(100, 0.5)))
    assert [content.budget(each) for each in content.trials] == [40, 100]
    assert findings.compute(content).full == 140


def test_trials_are_compared_where_most_of_them_came() -> None:
    level = findings.comparison(SMALL)
    assert level is not None
    assert (level.metric, level.iteration, level.scores) == ("exact_match", 10, {"0000": 0.125, "0001": 0.0625})
    whole = [trial(str(n), {}, row(10, 0.1), row(100, n / 10)) for n in range(4)]
    level = findings.comparison(sweep(*whole, trial("cut", {}, row(10, 0.9), status="failed")))
    assert level is not None
    assert (level.iteration, level.scored, level.scores) == (100, 5, {"0": 0.0, "1": 0.1, "2": 0.2, "3": 0.3})


def test_equal_scores_are_compared_by_token_accuracy() -> None:
    rows = [trial(str(n), {}, row(100, 0.0, token_accuracy=n / 4)) for n in range(3)]
    level = findings.comparison(sweep(*rows))
    assert level is not None
    assert (level.metric, level.scores) == ("token_accuracy", {"0": 0.0, "1": 0.25, "2": 0.5})
    assert "Their exact match is all the same there." in findings.compared(sweep(*rows), level)

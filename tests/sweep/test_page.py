from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popgpt import report
from popgpt.sweep import findings, importance
from popgpt.sweep import report as ranking
from popgpt.sweep.importance import Importance, Study
from popgpt.sweep.markdown import markdown, plain
from popgpt.sweep.page import page

VOID = {"meta", "wbr", "br", "img", "link", "input"}
NOTHING = Study(0, None, (), "Too few to say.")
SPACE = {
    "learning_rate": {"kind": "loguniform", "values": [1e-3, 1e-2], "when": None},
    "optimizer": {"kind": "choice", "values": ["muon", "adamw"], "when": None},
    "beta2": {"kind": "uniform", "values": [0.9, 0.999], "when": ["optimizer", ["adamw"]]},
}


def row(iteration: int, exact: float | None, **more: Any) -> dict[str, Any]:
    interval = {} if exact is None else {"exact_match_low": exact * 0.9, "exact_match_high": exact * 0.9 + 0.1}
    scores = {"exact_match": exact, "exact_match_n": 200, "token_accuracy": 0.5, "val_loss": 1.25}
    return {"iteration": iteration, **scores, **interval, "train_seconds": iteration / 10, **more}


def trial(name: str, config: dict[str, Any], *rows: dict[str, Any], status: str = "completed", **more: Any) -> Any:
    return {"id": name, "config": config, "status": status, "reason": None, "metrics": list(rows), **more}


def sweep(*trials: Any, metric: str = "exact_match", space: Mapping[str, Any] = SPACE, **more: Any) -> dict[str, Any]:
    """The content of a sweep.json: rungs at 10, 30 and 90 of 100 iterations."""
    asha = {"grace_period": 10, "reduction_factor": 3, "brackets": 1, "max_t": None}
    definition = {"metric": metric, "max_t": 100, "space": space, "asha": asha, "base": {"max_iters": 100, "seed": 7}}
    content = {**ranking.summary(trials, metric), "sweep": definition, "asha": None, **more}
    return json.loads(json.dumps(content, allow_nan=False))  # type: ignore[no-any-return]


def without_finalists(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "sweep": {**content["sweep"], "finalists": 0}}


SMALL = sweep(
    trial("0000", {"learning_rate": 0.005, "optimizer": "muon"}, row(10, 0.125), row(100, 0.875)),
    trial(
        "0001",
        {"learning_rate": 0.001, "optimizer": "adamw", "beta2": 0.95},
        row(10, 0.0625),
        status="stopped",
        reason="asha: rung 10: exact_match 0.0625 below 0.125",
    ),
    trial("0002", {"learning_rate": 0.01, "optimizer": "muon"}, status="failed", reason="RuntimeError: <b>&"),
)
TEST = {"exact_match": 0.8125, "exact_match_low": 0.75, "exact_match_high": 0.86, "exact_match_n": 2000}
DONE = {**SMALL, "best": {**SMALL["best"], "run_dir": "/s/my sweep/best", "test": TEST}}
FINALISTS = [
    {"id": "0001", "seeds": [{"seed": 1, **TEST}], "mean": 0.7},
    {"id": "0000", "seeds": [{"seed": 1, **TEST}, {"seed": 2, **TEST, "exact_match": 0.8}], "mean": 0.8063},
]


class Reader(HTMLParser):
    """Takes a page apart, and fails where an element is left open or closed twice."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)
        if "td" in self.open:
            self.rows[-1][-1] += data


def read(content: dict[str, Any], study: Study = NOTHING) -> Reader:
    """The page, checked for what holds of every one: it parses, runs nothing, and needs nothing from elsewhere."""
    text = page(content, study, "/s/my sweep")
    assert markdown(content, study, "/s/my sweep").startswith("# Sweep my sweep\n")
    reader = Reader(text)
    assert not {"script", "link", "img", "iframe", "object", "b"} & {tag for tag, _ in reader.elements}
    for _, attributes in reader.elements:
        assert not any(name.startswith("on") or name in ("src", "href") for name in attributes)
    assert not re.search(r"https?:|url\(|@import|\bnan\b|\binf\b", text, flags=re.IGNORECASE)
    return reader


def test_the_answer_is_the_score_on_test_and_says_how_it_was_chosen() -> None:
    assert findings.answer(DONE) == [
        "Trial 0000 answers 81.25% of the test split exactly (95% interval 75.00% to 86.00%, 2,000 lines).",
        "It was chosen on the val split, among 3 trials by exact match. It was scored once on the test split.",
    ]
    words = findings.answer({**DONE, "finalists": FINALISTS})
    assert "by mean exact match over seeds, among 2 finalists of 3 trials" in words[1]
    words = findings.answer({**DONE, "finalists": FINALISTS[:1]})
    assert "by mean exact match over seeds; it was the only one." in words[1]


def test_what_was_selected_on_is_not_the_result() -> None:
    words = findings.answer(SMALL)
    assert words[0] == "The winner has not been scored on the test split."
    assert words[1] == "Best so far: trial 0000, exact match on val 87.5% (78.8% to 88.8%)."
    assert words[2].endswith("it is not the result.")
    unfinished = sweep(*SMALL["trials"], trial("0003", {}, status="interrupted"))
    assert findings.answer(unfinished)[0] == "Not finished: 1 of 4 trials is still open."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({**DONE, "finalists": FINALISTS}, "Trained to the full budget with further seeds."),
        (DONE, "None were trained with further seeds, so the choice rests on one run of each trial."),
        (sweep(*SMALL["trials"], trial("0003", {}, status="running")), "None yet"),
        (without_finalists(sweep(*SMALL["trials"], trial("0003", {}, status="running"))), "None were trained"),
    ],
)
def test_the_finalists_section_says_what_is_known(content: dict[str, Any], said: str) -> None:
    assert any(words.startswith(said) for words in read(content).words)
    assert said in markdown(content, NOTHING, "x")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (sweep(), "The sweep has no trials."),
        (sweep(trial("a", {}, status="failed")), "No trial has a score, so there is no winner."),
        (sweep(trial("a", {}, status="waiting")), "No trial has a score yet."),
    ],
)
def test_a_sweep_without_scores_says_so(content: dict[str, Any], said: str) -> None:
    assert said in findings.answer(content)
    assert said in read(content).words


def test_the_command_repeats_the_winner() -> None:
    assert findings.command(DONE, "/x") == "python -m popgpt.train '/s/my sweep/best/config.yaml' out_dir=out/again"
    assert findings.command(SMALL, "/x") == "python -m popgpt.train /x/trials/0000/config.yaml out_dir=out/again"
    assert findings.command(sweep(), "/x") is None
    assert findings.config_yaml(SMALL) == "max_iters: 100\nseed: 7\nlearning_rate: 0.005\noptimizer: muon\n"


def test_the_page_has_the_numbers_of_the_sweep() -> None:
    reader = read({**DONE, "finalists": FINALISTS})
    finalist, first, second, third = (cells for cells in reader.rows if cells and cells[0] in ("0000", "1", "2", ""))
    assert finalist == ["0000", "80.63%", "81.2% (75.0% to 86.0%)", "80.0% (75.0% to 86.0%)"]
    start = ["1", "0000", "87.5%", "", "78.8% to 88.8%", "100", "completed"]
    assert first == [*start, "0.005", "muon", "-", "50.0%", "1.25", ""]
    assert second[:3] == ["2", "0001", "6.2%"]
    assert second[-1] == "asha: rung 10: exact_match 0.0625 below 0.125"
    assert third[:7] == ["", "0002", "", "", "", "0", "failed"]
    assert third[-1] == "RuntimeError: <b>&"


def test_the_text_has_the_numbers_of_the_sweep() -> None:
    text = markdown({**DONE, "finalists": FINALISTS}, NOTHING, "sweeps/x")
    assert "**Trial 0000 answers 81.25% of the test split exactly" in text
    assert "| 1 | 0000 | 0.005 | muon | - | 87.5% (78.8% to 88.8%) | 100 | completed |" in text
    assert "| - | 0 | failed: RuntimeError: &lt;b&gt;&amp; |" not in text
    assert "| failed: RuntimeError: &lt;b&gt;&amp; |" in text
    assert "110 iterations of 300. ASHA saved 90 (30%). 100 were not run" in text
    assert "| 10 | 2 | 1 |" in text


def test_markdown_shows_text_as_it_is() -> None:
    assert plain("a|b\n_c_ d_e `<x>`") == r"a\|b \_c\_ d_e \`&lt;x&gt;\`"


def test_compute_tells_run_saved_and_lost() -> None:
    spent = findings.compute(SMALL)
    assert (spent.run, spent.saved, spent.lost, spent.full) == (110, 90, 100, 300)
    assert (spent.train_seconds, spent.seconds_saved) == (11.0, 9.0)
    assert spent.rungs == [(10, 2, 1), (30, 1, 0), (90, 1, 0)]


def test_a_swept_length_bounds_its_own_trial() -> None:
    content = sweep(trial("a", {"max_iters": 40}, row(40, 0.5)), trial("b", {"max_iters": 400}, row(100, 0.5)))
    assert [findings.budget(content, each) for each in content["trials"]] == [40, 100]
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


HOSTILE = "<script>alert('&')</script>\"|`_*ü\u2028\ud800"


def test_whatever_a_sweep_names_is_text() -> None:
    config = {"optimizer": HOSTILE, "<b>|": None}
    named = trial(
        HOSTILE, config, row(10, 0.5), row(100, 0.75), status="failed", reason=f"Error: {HOSTILE}\n<img src=x>"
    )
    content = sweep(named, trial("b", {"optimizer": "muon"}, row(10, 0.25)), space={})
    reader = read(content)
    assert any(HOSTILE in cells for cells in reader.rows)
    before, command, after = markdown(content, NOTHING, "x").split("```")
    assert "popgpt.train" in command
    assert "<" not in before + after


def test_bars_are_drawn_for_what_is_known() -> None:
    known = (Importance("optimizer", 0.625, 0.05, 3), Importance("learning_rate", -0.02, 0.05, 3))
    reader = read(SMALL, Study(30, 0.75, known, "Of what differs ..."))
    assert "62%" in reader.words
    assert "| optimizer | 62% ± 10% | 3 |" in markdown(SMALL, Study(30, 0.75, known, ""), "x")


SCORES = st.one_of(st.none(), st.just(math.nan), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": st.floats(1e-5, 1.0),
        "optimizer": st.one_of(st.none(), st.booleans(), st.text(max_size=5)),
        "d_model": st.integers(1, 1000),
        "beta2": st.one_of(st.floats(0, 1), st.just("x")),
    },
)


@st.composite
def sweeps(draw: st.DrawFn) -> dict[str, Any]:
    trials = []
    for number in range(draw(st.integers(0, 6))):
        iterations = sorted(draw(st.sets(st.integers(1, 100), max_size=4)))
        rows = [row(at, draw(SCORES), val_loss=draw(st.floats(0, 50))) for at in iterations]
        status = draw(st.sampled_from(["completed", "stopped", "failed", "waiting", "running", "interrupted"]))
        trials.append(trial(str(number), draw(CONFIGS), *rows, status=status, reason=draw(st.none() | st.text())))
    metric = draw(st.sampled_from(["exact_match", "token_accuracy", "val_loss"]))
    content = sweep(*trials, metric=metric, space=draw(st.sampled_from([SPACE, {}])))
    if draw(st.booleans()):
        content["sweep"]["asha"] = None
    if draw(st.booleans()):
        del content["sweep"]
    return content


@settings(max_examples=60, deadline=None)
@given(sweeps())
def test_every_sweep_has_a_page(content: dict[str, Any]) -> None:
    reader = read(content, importance.study(content))
    ranked = [cells[1] for cells in reader.rows if len(cells) > 6]
    assert ranked == [each["id"] for each in ranking.ranking(content["trials"], content["metric"])]


def learned(n: int, signal: float) -> dict[str, Any]:
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
def test_importance_says_when_it_cannot_say(content: dict[str, Any], said: str) -> None:
    found = importance.study(content)
    assert said in found.note
    assert found.parameters == ()


def test_a_report_is_made_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps(DONE))
    report.main([str(tmp_path)])
    assert capsys.readouterr().out == f"report: {tmp_path / 'report.html'}\n"
    assert "81.25%" in (tmp_path / "report.html").read_text()
    assert "81.25%" in (tmp_path / "report.md").read_text()


def test_a_report_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sweep.json").write_text('{"trials": [{}]}')
    assert not report.attempt(tmp_path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the report was not made: KeyError" in caplog.text

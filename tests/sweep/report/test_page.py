from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popgpt.sweep import ranking
from popgpt.sweep.content import Content
from popgpt.sweep.report import findings, importance
from popgpt.sweep.report.importance import Importance, Study
from popgpt.sweep.report.markdown import markdown
from popgpt.sweep.report.page import page
from tests.sweep.report.contents import DONE, FINALISTS, NOTHING, SMALL, SPACE, row, sweep, trial, without_finalists

VOID = {"meta", "wbr", "br", "img", "link", "input"}


class Reader(HTMLParser):
    """Takes a page apart, and fails where an element is left open or closed twice."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.styles: list[str] = []
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
        if self.open:
            (self.styles if self.open[-1] == "style" else self.words).append(data)
        if "td" in self.open:
            self.rows[-1][-1] += data


def read(content: Content, study: Study = NOTHING) -> Reader:
    """The page, checked for what holds of every one: it parses, runs nothing, and needs nothing from elsewhere."""
    text = page(content, study, "/s/my sweep")
    assert markdown(content, study, "/s/my sweep").startswith("# Sweep my sweep\n")
    reader = Reader(text)
    assert not {"script", "link", "img", "iframe", "object", "b"} & {tag for tag, _ in reader.elements}
    attributes = [item for _, named in reader.elements for item in named.items()]
    assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attributes)
    drawn = [value or "" for name, value in attributes if name != "aria-label"]
    said = [*reader.words, *(value or "" for name, value in attributes if name == "aria-label")]
    assert not re.search(r"https?:|url\(|@import", "\n".join(drawn + reader.styles), flags=re.IGNORECASE)
    assert not not_finite(drawn), "a mark without a place"
    known = not_finite([json.dumps(asdict(content))])
    assert not_finite(said) <= known, "a number that is none; words may be so called"
    return reader


def not_finite(texts: list[str]) -> set[str]:
    """What may be a number that is not finite: a user's words may be so called too."""
    return {found.lower() for text in texts for found in re.findall(r"\b(?:nan|inf|infinity)\b", text, re.IGNORECASE)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (replace(DONE, finalists=FINALISTS), "Trained to the full budget with further seeds."),
        (DONE, "None were trained with further seeds, so the choice rests on one run of each trial."),
        (sweep(*SMALL.trials, trial("0003", {}, status="running")), "None yet"),
        (without_finalists(sweep(*SMALL.trials, trial("0003", {}, status="running"))), "None were trained"),
    ],
)
def test_the_finalists_section_says_what_is_known(content: Content, said: str) -> None:
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
def test_a_sweep_without_scores_says_so(content: Content, said: str) -> None:
    assert said in findings.answer(content)
    assert said in read(content).words


def test_the_page_has_the_numbers_of_the_sweep() -> None:
    reader = read(replace(DONE, finalists=FINALISTS))
    finalist, first, second, third = (cells for cells in reader.rows if cells and cells[0] in ("0000", "1", "2", ""))
    assert finalist == ["0000", "80.63%", "81.2% (75.0% to 86.0%)", "80.0% (75.0% to 86.0%)"]
    start = ["1", "0000", "87.5%", "", "78.8% to 88.8%", "100", "completed"]
    assert first == [*start, "0.005", "muon", "-", "50.0%", "1.25", ""]
    assert second[:3] == ["2", "0001", "6.2%"]
    assert second[-1] == "asha: rung 10: exact_match 0.0625 below 0.125"
    assert third[:7] == ["", "0002", "", "", "", "0", "failed"]
    assert third[-1] == "RuntimeError: <b>&"


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


@pytest.mark.parametrize("word", ["INF", "nan", "-inf", "url(", "http:"])
def test_a_value_may_be_called_like_a_number_or_an_address(word: str) -> None:
    read(sweep(trial("a", {"optimizer": word}, row(10, 0.5), reason=word), space={}))


@pytest.mark.parametrize(
    "mark",
    ['<circle cx="nan"></circle>', '<polyline points="1,2 3,-inf"></polyline>', "<td>nan</td>", "<p>1 of inf</p>"],
)
def test_a_number_that_is_not_finite_is_seen(monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    monkeypatch.setattr("tests.sweep.report.test_page.page", lambda *of: f"<table><tr>{mark}</tr></table>")
    with pytest.raises(AssertionError, match=r"a mark without a place|a number that is none"):
        read(SMALL)


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
def sweeps(draw: st.DrawFn) -> Content:
    trials = []
    for number in range(draw(st.integers(0, 6))):
        iterations = sorted(draw(st.sets(st.integers(1, 100), max_size=4)))
        rows = [row(at, draw(SCORES), val_loss=draw(st.floats(0, 50))) for at in iterations]
        status = draw(st.sampled_from(["completed", "stopped", "failed", "waiting", "running", "interrupted"]))
        trials.append(trial(str(number), draw(CONFIGS), *rows, status=status, reason=draw(st.none() | st.text())))
    metric = draw(st.sampled_from(["exact_match", "token_accuracy", "val_loss"]))
    content = sweep(*trials, metric=metric, space=draw(st.sampled_from([SPACE, {}])))
    if draw(st.booleans()):
        content.definition["asha"] = None
    if draw(st.booleans()):
        content = replace(content, definition={})
    return content


@settings(max_examples=60, deadline=None)
@given(sweeps())
def test_every_sweep_has_a_page(content: Content) -> None:
    reader = read(content, importance.study(content))
    ranked = [cells[1] for cells in reader.rows if len(cells) > 6]
    assert ranked == [each.id for each in ranking.ranked(content.trials, content.metric)]

"""A sweep on disk: sweep.json, the whole state, and events.jsonl, a line for each change since; both are read as one.

So to write an event costs what it says, however much came before. `written` in sweep.json counts how often that file
was written; each line of events.jsonl says which of these it follows, so that lines that a kill left count for nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from popgpt.config import explain_error, make_config, merge
from popgpt.metrics.metric import MetricName
from popgpt.metrics.row import row_problem, scores_problem
from popgpt.storage.folder import nested_json, parse_json, read_json, split_lines, write_atomic
from popgpt.sweep import finals, ranking
from popgpt.sweep.domain import KINDS
from popgpt.sweep.events import ENDED, Status
from popgpt.sweep.schema import Asha
from popgpt.sweep.trial import SCORES, Trial, json_safe
from popgpt.text.errors import UserError, shortened
from popgpt.training.folder import SWEEP

FILE = SWEEP
EVENTS = "events.jsonl"
MOST_BRACKETS = 1000
ROW_LEVEL = 4  # in sweep.json: whole, trials, trial, metrics; a row is one line
Json = dict[str, Any]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Number = Annotated[float, Field(ge=-1e300, le=1e300)] | None
Id = Annotated[str, Field(pattern=r"^[0-9]{4,9}(-s[0-9]{1,9})?$")]
Rung = Annotated[str, Field(pattern=r"^[0-9]{1,15}$")]
Score = Annotated[list[Number], Field(min_length=2, max_length=2)]
if TYPE_CHECKING:
    StatusText = str
else:
    StatusText = Literal[tuple(status.value for status in Status)]  # what a strict model accepts from JSON


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Trial(_Part):
    id: Id
    config: dict[str, Any]
    status: StatusText
    reason: str | None
    metrics: list[dict[str, Any]]
    stopped_by: str | None = None


class _Repeat(_Trial):
    of: Id


class _Seed(_Part):
    seed: Count
    run: Id
    status: StatusText


class _Finalist(_Part):
    id: Id
    seeds: Annotated[list[_Seed], Field(min_length=1)]
    mean: Number


class _Best(_Part):
    id: Id
    iteration: Count | None = None
    run_dir: str | None = None
    seed: Count | None = None
    test: dict[str, Any] | None = None


class _Domain(_Part):
    kind: Literal[KINDS]  # type: ignore[valid-type]
    values: list[Any]
    when: Annotated[list[Any], Field(min_length=2, max_length=2)] | None = None


class _Definition(_Part):
    space: dict[str, _Domain]
    points: list[dict[str, Any]] = []
    base: dict[str, Any]
    asha: Asha | None
    max_t: Annotated[int, Field(gt=0, lt=2**53)]


class _AshaState(_Part):
    metric: str
    reduction_factor: Count
    max_t: Count
    scores: list[dict[Rung, dict[Id, Score]]]
    bracket: dict[Id, Count]
    failed: dict[Id, Count]
    reasons: dict[Id, str]
    to: dict[Id, Count] | None = None


class _Gpu(_Part):
    total: Count
    context: Count
    peak: Count


class _Sweep(_Part):
    metric: MetricName
    best: _Best | None
    trials: list[_Trial]
    repeats: list[_Repeat] = []
    finalists: list[_Finalist] = []
    sweep: _Definition
    asha: _AshaState | None = None
    gpu: _Gpu | None = None
    written: Count = 0


class _Change(_Part):
    bracket: Count
    failed: Count | None = None
    reasons: str | None = None
    to: Count | None = None
    scores: dict[Rung, Score]


class _Event(_Part):
    after: Count
    id: Id
    config: dict[str, Any]
    status: StatusText
    reason: str | None
    rows: list[dict[str, Any]]
    asha: dict[Id, _Change]


def write(out_dir: Path, content: Json) -> None:
    """Replace sweep.json, and remove events.jsonl, whose events are in it."""
    write_atomic(out_dir / FILE, nested_json(content, ROW_LEVEL).encode())
    (out_dir / EVENTS).unlink(missing_ok=True)


def append(out_dir: Path, event: Mapping[str, Any], sync: bool) -> None:
    """Append an event to events.jsonl. sync: return when it is on the disk, where a power failure leaves it."""
    with open(out_dir / EVENTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")
        file.flush()
        if sync:
            os.fsync(file.fileno())


def read(out_dir: Path) -> Json:
    """Return what sweep.json would hold if it were written now. Raises UserError if the files are not a sweep's."""
    path = out_dir / FILE
    while True:
        content = read_json(path)
        found = os.stat(path).st_ino
        check(content, str(path))
        events = list(_events(out_dir / EVENTS, content.get("written", 0)))
        if os.stat(path).st_ino == found:
            break
    if events:
        runs = {entry["id"]: Trial.from_json(entry) for entry in (*content["trials"], *content.get("repeats", []))}
        for line, event in events:
            if problem := _apply(content, runs, event):
                raise UserError(f"{out_dir / EVENTS}: line {line}: {problem}")
        content |= _derived_anew(content, runs)
        check(content, f"{path} with {EVENTS}")
    return content


def derived(
    trials: Sequence[Trial], repeats: Sequence[Trial], results: Iterable[Mapping[str, Any]], metric: str
) -> Json:
    """Return the part of sweep.json that follows from the runs. results: those of `finals.result`."""
    ranked = finals.ranked(results, metric)
    ended = all(each["status"] in ENDED for result in ranked for each in result["seeds"])
    winner = next((trial for trial in trials if ranked and ended and trial.id == ranked[0]["id"]), None)
    found = ranking.summary(trials, metric, winner)
    found["iterations"] += sum(repeat.iterations for repeat in repeats)
    found |= {"finalists": json_safe(ranked)} if ranked else {}
    return found | ({"repeats": [repeat.to_json(metric) for repeat in repeats]} if repeats else {})


def _derived_anew(content: Json, runs: Mapping[str, Trial]) -> Json:
    """Return `derived` of a content whose runs have changed."""
    metric = content["metric"]
    results = [
        finals.result(each["id"], [runs[s["run"]] for s in each["seeds"]], [s["seed"] for s in each["seeds"]], metric)
        for each in content.get("finalists", [])
    ]
    trials, repeats = ([runs[entry["id"]] for entry in content.get(kind, [])] for kind in ("trials", "repeats"))
    return derived(trials, repeats, results, metric)


def check(content: Json, called: str) -> None:
    """Raise UserError, naming the key, if `content` can't be that of a sweep.json."""
    _validate(_Sweep, content, called)
    problem = next(_disagreements(content), None)
    if problem:
        raise UserError(f"{called}: {problem}")
    for trial in (*content["trials"], *content.get("repeats", [])):
        make_config(merge(content["sweep"]["base"], trial["config"]), f"{called}: trial {trial['id']}")


def _validate(model: type[BaseModel], value: Any, called: str) -> None:
    """Raise UserError, naming the first key that is not as the model has it."""
    if not isinstance(value, dict):
        raise UserError(f"{called}: should be a JSON object, not {shortened(value)}")
    try:
        model.model_validate(value)
    except ValidationError as error:
        said = explain_error(error.errors()[0], {}, called)
        raise UserError(re.sub(r"a dictionary or instance of \w+$", "an object", said)) from None


def _disagreements(content: Json) -> Iterator[str]:
    """Yield, in words, where parts of sweep.json disagree."""
    trials = [trial["id"] for trial in content["trials"]]
    runs = {run["id"]: run for run in (*content["trials"], *content.get("repeats", []))}
    if trials != [f"{number:04d}" for number in range(len(trials))]:
        yield f"trials are {shortened(trials)}, should be 0000, 0001 and so on"
    for run in runs.values():
        for row in run["metrics"]:
            if problem := row_problem(row):
                yield f"trial {run['id']}: metrics: {problem}"
    for kind, names in (
        ("repeats", [run["of"] for run in content.get("repeats", [])]),
        ("finalists", [each["id"] for each in content.get("finalists", [])]),
        ("best", [content["best"]["id"]] if content["best"] else []),
    ):
        yield from (f"{kind}: there is no trial {name}" for name in names if name not in trials)
    for finalist in content.get("finalists", []):
        for each in finalist["seeds"]:
            if each["run"] not in runs:
                yield f"finalists: there is no run {each['run']}"
            if problem := scores_problem({name: each.get(name) for name in SCORES}):
                yield f"finalists: {problem}"
    test = (content["best"] or {}).get("test")
    if test is not None:
        if test.get("exact_match") is None:
            yield "best: test lacks exact_match"
        yield from (f"best: test: {problem}" for problem in [scores_problem(test)] if problem)
    if (content["sweep"]["asha"] or {}).get("brackets", 1) > MOST_BRACKETS:
        yield "sweep: asha: brackets are too many"
    if content.get("asha"):
        promotes = (content["sweep"]["asha"] or {}).get("rule", "promote") == "promote"
        yield from (f"asha: {problem}" for problem in _asha_disagreements(content["asha"], trials, promotes))


def _asha_disagreements(asha: Json, trials: Sequence[str], promotes: bool) -> Iterator[str]:
    """Yield, in words, where parts of ASHA's state disagree."""
    brackets = asha["bracket"]
    for name, number in brackets.items():
        if name not in trials or number >= len(asha["scores"]):
            yield f"there is no trial {name} or no bracket {number}"
    by_trial = {kind: asha[kind] for kind in ("failed", "reasons", "to") if asha.get(kind) is not None}
    for kind, of in by_trial.items():
        yield from (f"{kind}: trial {name} is in no bracket" for name in of if name not in brackets)
    for number, bracket in enumerate(asha["scores"]):
        for at, scores in bracket.items():
            odd = (name for name in scores if brackets.get(name) != number)
            yield from (f"scores: trial {name} is not in the bracket of rung {at}" for name in odd)
    for name, at in asha["failed"].items():
        if name not in asha["scores"][brackets[name]].get(str(at), {}):
            yield f"failed: trial {name} has no score at rung {at}"
    if promotes and (asha.get("to") is None or set(asha["to"]) != set(brackets)):
        yield "to: should say of each trial where it is held next"


def _events(path: Path, written: int) -> Iterator[tuple[int, Json]]:
    """Yield the events since sweep.json was written, with their line numbers. A line that was cut off is left out."""
    try:
        lines = split_lines(path.read_bytes())
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        if line.endswith(b"\n"):
            called = f"{path}: line {number}"
            event = parse_json(line, called)
            _validate(_Event, event, called)
            for row in event["rows"]:
                if problem := row_problem(row):
                    raise UserError(f"{called}: {problem}")
            if event["after"] == written:
                yield number, event


def _apply(content: Json, runs: dict[str, Trial], event: Json) -> str | None:
    """Apply an event to `runs` and to ASHA's state in `content`.

    Returns what is wrong with the event, in words, or None.
    """
    run, asha = runs.get(event["id"]), content.get("asha")
    if run is None:
        return f"there is no trial {event['id']}"
    runs[run.id] = run.apply_event(event)
    for name, change in event["asha"].items():
        if not asha or change["bracket"] >= len(asha["scores"]):
            return f"asha: there is no bracket {change['bracket']}"
        change_asha(asha, name, change)
    return None


def change_asha(asha: Json, name: str, change: Json) -> None:
    """Change ASHA's state of a trial as `AshaScheduler.changes` says."""
    for kind in ("bracket", "failed", "reasons", "to"):
        if change.get(kind) is not None:
            asha[kind][name] = change[kind]
        elif kind in asha:
            asha[kind].pop(name, None)
    for at, scores in asha["scores"][change["bracket"]].items():
        if change["scores"].get(at) != scores.get(name):
            scores.pop(name, None)
            if at in change["scores"]:
                scores[name] = change["scores"][at]

"""A sweep on disk: what is read back after any event, kill or mutation, and what an event costs."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.record import drive, new_record
from popgpt import report
from popgpt.sweep import journal
from popgpt.sweep.draws import sample
from popgpt.sweep.events import Ended, Event, Reported, Started
from popgpt.sweep.record import Record
from popgpt.sweep.report import files
from popgpt.text.errors import UserError

Content = dict[str, Any]


def silent(name: str, event: Event) -> None:
    """Show nothing."""


def whole(record: Record, scratch: Path) -> Content:
    """What sweep.json would hold, were it written now."""
    scratch.mkdir(exist_ok=True)
    written = record._written
    record.write(scratch)
    record._written = written
    return {**json.loads((scratch / journal.FILE).read_text()), "written": written}


@pytest.mark.parametrize("rule", ["promote", "stop", None])
def test_what_is_read_after_each_event_is_what_would_be_written(tmp_path: Path, rule: str | None) -> None:
    asha = {"grace_period": 50, "reduction_factor": 2, "brackets": 2, "rule": rule} if rule else None
    record = new_record(tmp_path, 6, 200, asha=asha)
    for count, _ in enumerate(drive(record, tmp_path, silent), 1):
        if count % 4 == 0:
            assert journal.read(tmp_path) == whole(record, tmp_path / "scratch")
    assert count > 20
    statuses = {trial["status"] for trial in journal.read(tmp_path)["trials"]}
    assert statuses == ({"completed", "stopped"} if rule else {"completed"})


def test_with_finalists_too_and_a_later_process_takes_it_up(tmp_path: Path) -> None:
    record = new_record(tmp_path, 3, 100, finalists=1, finalist_seeds=1)
    list(drive(record, tmp_path, silent))
    assert record.choose_finalists()
    record.write(tmp_path)
    assert not (tmp_path / journal.EVENTS).exists()
    for name in record.open_finals():
        rows = [{"iteration": 100, "exact_match": 0.5, "token_accuracy": 0.5}]
        for event in (Started(), Reported(rows), Ended()):
            record.apply(name, event)
            record.append(tmp_path, name, rows if isinstance(event, Reported) else (), {})
            assert journal.read(tmp_path) == whole(record, tmp_path / "scratch")
    again = Record(record.sweep, sample(record.sweep))
    again.restore(journal.read(tmp_path))
    assert (again.runs, again.finalists, again.asha) == (record.runs, record.finalists, record.asha)
    assert record.winner() == again.winner()


def test_an_event_costs_what_it_says_not_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = new_record(tmp_path, 27, 200)
    sizes, longest, before = [], 0, 0
    whole_written: list[int] = []
    monkeypatch.setattr(journal, "write_atomic", lambda path, content: whole_written.append(len(content)))
    for name in drive(record, tmp_path, silent):
        size = (tmp_path / journal.EVENTS).stat().st_size
        sizes.append(size - before)
        before = size
        longest = max(longest, len(record.trials[name].metrics))
    assert len(whole_written) == 1, "at the start"
    assert longest >= 20
    tenth = len(sizes) // 10
    assert max(sizes[-tenth:]) <= 1.2 * max(sizes[:tenth])
    assert sum(sizes) < 2 * len(json.dumps([trial.metrics for trial in record.trials.values()]))


def test_a_kill_at_any_byte_of_an_event_leaves_those_before_it(tmp_path: Path) -> None:
    record, out_dir = new_record(tmp_path, 3, 100), tmp_path / "out"
    out_dir.mkdir()
    contents = [journal.read(out_dir) for _ in drive(record, out_dir, silent)]
    content = (out_dir / journal.EVENTS).read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) == len(contents)
    for number, end in enumerate(ends[:-1], 1):
        for cut in {end, end + 1, (end + ends[number]) // 2, ends[number] - 1}:
            (out_dir / journal.EVENTS).write_bytes(content[:cut])
            assert journal.read(out_dir) == contents[number - 1]
    (out_dir / journal.EVENTS).write_bytes(content)
    record.write(tmp_path)
    shutil.copy(tmp_path / journal.FILE, out_dir / journal.FILE)
    assert journal.read(out_dir) == whole(record, tmp_path / "scratch"), "killed before the old events were removed"


def test_a_report_can_be_made_at_any_time(tmp_path: Path) -> None:
    record = new_record(tmp_path, 4, 100)
    for count, _ in enumerate(drive(record, tmp_path, silent)):
        if count in (0, 3, 9):
            files.write_report(tmp_path)
    assert (tmp_path / files.HTML).exists()


def test_a_row_of_sweep_json_is_a_line(tmp_path: Path) -> None:
    record = new_record(tmp_path, 2, 100)
    list(drive(record, tmp_path, silent))
    record.write(tmp_path)
    lines = [line.strip().rstrip(",") for line in (tmp_path / journal.FILE).read_text().splitlines()]
    assert json.dumps(record.trials["0000"].metrics[0]) in lines


def put(*path: Any, value: Any) -> Callable[[Content], None]:
    """Has the value at a path be another."""

    def mutate(content: Content) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return mutate


MUTATIONS = [
    (put("metric", value="speed"), "metric='speed' should be 'exact_match'"),
    (put("best", value=[]), r"best=\[\] should be"),
    (put("best", "id", value="0099"), "best: there is no trial 0099"),
    (put("best", "test", value={"val_loss": 0.5}), "best: test lacks exact_match"),
    (put("trials", value={}), "trials={} should be a list"),
    (put("trials", 0, "id", value="../../etc"), "trials.0.id='../../etc' should match pattern"),
    (put("trials", 0, "id", value="0007"), "trials are .*, should be 0000, 0001 and so on"),
    (put("trials", 0, "status", value="lost"), "trials.0.status='lost' should be 'planned'"),
    (put("trials", 0, "config", value=[1]), r"trials.0.config=\[1\] should be"),
    (put("trials", 0, "config", "max_iters", value="ten"), "trial 0000: max_iters='ten' should be an integer"),
    (put("trials", 0, "config", "colour", value=1), "trial 0000: unknown parameter colour=1"),
    (put("trials", 0, "metrics", value=None), "trials.0.metrics=None should be a list"),
    (put("trials", 0, "metrics", 0, value=[]), r"trials.0.metrics.0=\[\] should be"),
    (put("trials", 0, "metrics", 0, "iteration", value=1.5), "trial 0000: metrics: iteration=1.5 should be"),
    (put("trials", 0, "metrics", 0, "train_loss", value="low"), "metrics: 'train_loss'='low' should be a number"),
    (put("repeats", value=[{}]), "repeats.0.id is missing"),
    (put("finalists", value=[{"id": "0077", "seeds": [], "mean": None}]), "finalists.0.seeds=.* should have at least"),
    (
        put(
            "finalists", value=[{"id": "0077", "seeds": [{"seed": 1, "run": "0000", "status": "failed"}], "mean": None}]
        ),
        "finalists: there is no trial 0077",
    ),
    (
        put(
            "finalists", value=[{"id": "0000", "seeds": [{"seed": 1, "run": "0099", "status": "failed"}], "mean": None}]
        ),
        "finalists: there is no run 0099",
    ),
    (put("sweep", value=None), "sweep=None should be"),
    (put("sweep", "base", value={"max_iters": []}), r"max_iters=\[\] should be"),
    (put("sweep", "space", "n_layer", value=[]), r"sweep.space.n_layer=\[\] should be"),
    (put("sweep", "asha", "brackets", value=10**9), "brackets are too many"),
    (put("sweep", "max_t", value=0), "sweep.max_t=0 should be"),
    (put("asha", value="none"), "asha='none' should be"),
    (put("asha", "bracket", value={}), "asha: "),
    (put("asha", "bracket", "0099", value=0), "asha: there is no trial 0099"),
    (put("asha", "failed", value={"0000": 5}), "asha: failed: trial 0000 has no score at rung 5"),
    (put("asha", "to", value={}), "asha: to: should say"),
    (put("gpu", value={"total": "all"}), "gpu.total='all' should be an integer"),
    (put("written", value=-1), "written=-1 should be"),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """A sweep.json in the midst of a sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    record = new_record(folder, 3, 100)
    for count, _ in enumerate(drive(record, folder, silent)):
        if count == 12:
            break
    return journal.read(folder)


@pytest.mark.parametrize("number", range(len(MUTATIONS)))
def test_what_is_no_sweep_is_refused_in_one_line(tmp_path: Path, sound: Content, number: int) -> None:
    mutate, said = MUTATIONS[number]
    journal.check(sound, "x")
    content = copy.deepcopy(sound)
    mutate(content)
    (tmp_path / journal.FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=said) as refused:
        report.main([str(tmp_path)])
    assert str(refused.value).startswith(f"{tmp_path}/sweep.json: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: not valid JSON"),
        ("[]", r"line 1: should be a JSON object, not \[\]"),
        ('{"after": 1}', "line 1: id is missing"),
        (
            '{"after": 1, "id": "0099", "config": {}, "status": "running", "reason": null, "rows": [], "asha": {}}',
            "line 1: there is no trial 0099",
        ),
        (
            '{"after": 1, "id": "0000", "config": {}, "status": "running", "reason": null, "rows": [{}], "asha": {}}',
            "line 1: iteration=None should be",
        ),
    ],
)
def test_an_event_that_is_none_is_refused_by_its_line(tmp_path: Path, line: str, said: str) -> None:
    new_record(tmp_path, 2, 100).write(tmp_path)
    (tmp_path / journal.EVENTS).write_text(f"{line}\n")
    with pytest.raises(UserError, match=f"events.jsonl: {said}"):
        journal.read(tmp_path)

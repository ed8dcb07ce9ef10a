"""What is seen while a sweep goes on."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from popgpt.sweep.events import Ended, Started, Status
from popgpt.sweep.progress import SweepProgress, describe_budget
from popgpt.sweep.trial import Trial
from tests.sweep.test_tables import SPACES, sweep
from tests.terminal.test_program import Broken


def record_of(trials: list[Trial]) -> Any:
    runs = {trial.id: trial for trial in trials}

    def unfinished() -> list[str]:
        return [name for name, trial in runs.items() if trial.status in ("running", "waiting")]

    settings = SimpleNamespace(metric="exact_match", max_t=2000)
    return SimpleNamespace(runs=runs, sweep=settings, unfinished=unfinished)


def picture(progress: SweepProgress, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None, file=io.StringIO())
    progress._console = console
    console.print(progress._picture())
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 20), (40, 10), (40, 4), (200, 60)])
@pytest.mark.parametrize("count", [4, 200])
def test_what_is_left_is_seen_on_every_terminal(width: int, height: int, count: int) -> None:
    progress = SweepProgress(record_of(sweep(count, SPACES[6])), Console(file=io.StringIO()))
    lines = picture(progress, width, height)
    assert len(lines) <= height
    assert "so far" in " ".join(lines[-4:])
    assert "at most" in " ".join(lines[-4:])


def test_the_picture_follows_the_record() -> None:
    progress = SweepProgress(record := record_of(sweep(20, SPACES[1])), Console(file=io.StringIO()))
    assert "starting the first trials" in "".join(picture(progress, 80, 24)[-2:])
    trial = record.runs["0017"]
    assert trial.status == "running"
    row = {**record.runs["0000"].metrics[0], "iteration": 1500, "exact_match": 0.9876}
    record.runs["0017"] = replace(trial.add_rows([row]), status=Status.COMPLETED)
    lines = picture(progress, 80, 24)
    assert lines[1].startswith("0017")
    assert "98.8%" in lines[1]
    assert "completed" in lines[1]
    assert "starting" not in "".join(lines)


def test_the_picture_costs_what_has_changed() -> None:
    """Not what was recorded before: it is drawn twice a second."""

    class Rows(list[Any]):
        walks = 0

        def __iter__(self) -> Any:
            Rows.walks += 1
            return super().__iter__()

    trials = [replace(each, metrics=Rows(each.metrics)) for each in sweep(20, SPACES[1])]
    progress = SweepProgress(record := record_of(trials), Console(file=io.StringIO()))
    picture(progress, 80, 24)
    before = Rows.walks
    picture(progress, 80, 24)
    assert Rows.walks == before
    rows = [*record.runs["0000"].metrics, {"iteration": 1001, "train_loss": 1.0}]
    record.runs["0000"] = replace(record.runs["0000"], metrics=Rows(rows))
    before = Rows.walks
    picture(progress, 80, 24)
    assert before < Rows.walks <= before + 3


def test_a_sweep_that_has_no_row_yet_says_that_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    trials = [replace(each, metrics=[], status=Status.WAITING) for each in sweep(2, SPACES[1])]
    console = Console(file=io.StringIO(), width=80)
    with SweepProgress(record_of(trials), console, patience=0.01) as progress:
        progress("0000", Started())
        time.sleep(0.1)
    assert capsys.readouterr().err == "starting the first trials ...\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_sweep_goes_on_where_nobody_watches(terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Broken(terminal)
    console = Console(file=broken, force_terminal=terminal)  # type: ignore[arg-type]
    trial = Trial("0000", {"d_model": 64}, Status.RUNNING)
    sweep = SimpleNamespace(metric="exact_match", max_t=9)
    record = SimpleNamespace(runs={"0000": trial}, sweep=sweep, unfinished=lambda: ["0000"])
    with SweepProgress(record, console) as progress:  # type: ignore[arg-type]
        progress("0000", Started())
        progress("0000", Ended())
    assert broken.attempts == 1
    assert capsys.readouterr() == ("", "")


def test_what_a_sweep_may_yet_spend() -> None:
    said = "1,200 iterations done, at most 5,000 left"
    assert describe_budget(1200, 5000, 0, 12.2) == f"{said}; 0:00:12 so far"
    assert describe_budget(1200, 5000, 500, 60) == f"{said}; 0:01:00 so far, at most 0:10:00 left"

"""What is seen while a sweep goes on, and that a long wait is said."""

from __future__ import annotations

import io
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from popgpt.terminal.progress import SweepProgress, waiting, waiting_for
from tests.terminal.test_tables import SPACES, sweep


def record_of(trials: list[Any]) -> Any:
    runs = {trial["id"]: trial for trial in trials}

    def unfinished() -> list[str]:
        return [name for name, trial in runs.items() if trial["status"] in ("running", "waiting")]

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
    progress = SweepProgress(record_of([each.trial for each in sweep(count, SPACES[6])]), Console(file=io.StringIO()))
    lines = picture(progress, width, height)
    assert len(lines) <= height
    assert "so far" in " ".join(lines[-4:])
    assert "at most" in " ".join(lines[-4:])


def test_the_picture_follows_the_record() -> None:
    trials = [each.trial for each in sweep(20, SPACES[1])]
    progress = SweepProgress(record := record_of(trials), Console(file=io.StringIO()))
    assert "starting the first trials" in "".join(picture(progress, 80, 24)[-2:])
    trial = record.runs["0017"]
    assert trial["status"] == "running"
    trial["metrics"].append({**record.runs["0000"]["metrics"][0], "iteration": 1500, "exact_match": 0.9876})
    trial["status"] = "completed"
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

    trials = [each.trial | {"metrics": Rows(each.trial["metrics"])} for each in sweep(20, SPACES[1])]
    progress = SweepProgress(record := record_of(trials), Console(file=io.StringIO()))
    picture(progress, 80, 24)
    before = Rows.walks
    picture(progress, 80, 24)
    assert Rows.walks == before
    record.runs["0000"]["metrics"].append({"iteration": 1001, "train_loss": 1.0})
    picture(progress, 80, 24)
    assert before < Rows.walks <= before + 3


def test_a_long_wait_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("starting Ray", after=0.01):
        time.sleep(0.1)
    with waiting_for("opening", waiting("never", after=60), after=60):
        time.sleep(0.01)
    assert capsys.readouterr().err == "starting Ray ...\n"


def test_a_wait_ends_with_what_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), waiting("starting Ray", after=0.05):
        raise KeyboardInterrupt
    time.sleep(0.1)
    assert capsys.readouterr().err == ""
    assert not [thread for thread in threading.enumerate() if thread.name == "waiting"]


def test_only_the_entering_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting_for("starting Ray", waiting("never", after=60), after=0.3):
        time.sleep(0.5)
    assert capsys.readouterr().err == ""


def test_a_sweep_that_has_no_row_yet_says_that_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    trials = [each.trial | {"metrics": [], "status": "waiting"} for each in sweep(2, SPACES[1])]
    console = Console(file=io.StringIO(), width=80)
    with SweepProgress(record_of(trials), console, patience=0.01) as progress:
        progress("0000", "started")
        time.sleep(0.1)
    assert capsys.readouterr().err == "starting the first trials ...\n"

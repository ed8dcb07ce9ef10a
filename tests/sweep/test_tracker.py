"""A sweep as MLflow has it, told event by event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from popgpt import tracking
from popgpt.data.dataset import ensure_dataset
from popgpt.sweep.draws import sample
from popgpt.sweep.record import Record
from popgpt.sweep.space import load_sweep
from popgpt.sweep.tracker import SweepTracker
from popgpt.tracking import sender
from tests.conftest import TINY
from tests.services import Inside, client


@pytest.fixture
def here(tmp_path: Path, shared_data: Path, empty_store: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a search space of two learning rates in space.yaml and an empty MLflow store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(sender, "Helper", Inside)
    monkeypatch.setattr(tracking.run, "_senders", {})
    base = {**TINY, "data_dir": str(shared_data), "max_iters": 9, "mlflow_log": True, "experiment": "sums"}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    space = {"config": "base.yaml", "out_dir": "sweep", "num_samples": 1, "finalists": 0}
    (tmp_path / "space.yaml").write_text(
        yaml.safe_dump({**space, "space": {"learning_rate": {"grid": [0.1, 0.2]}}, "asha": {"grace_period": 1}})
    )
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    (tmp_path / "sweep").mkdir()
    return tmp_path


def row(iteration: int, seconds: float) -> dict[str, Any]:
    scores = {"exact_match": 0.1 * iteration, "val_loss": 1.0, "token_accuracy": 0.5}
    return {"iteration": iteration, "train_seconds": seconds, "train_loss": 1.0, **scores}


class Told:
    """A sweep whose record and tracker are told the same, as `tune` has it."""

    def __init__(self, here: Path) -> None:
        sweep = load_sweep("space.yaml", [])
        self.record, self.out_dir = Record(sweep, sample(sweep)), here / "sweep"
        self.tracker = SweepTracker(
            self.record, self.out_dir, ensure_dataset(sweep.config()), sweep.config(), resume=False
        )

    def __call__(self, name: str, event: str, *rows: dict[str, Any], reason: str | None = None) -> None:
        self.record.take(name, event, {"rows": rows}, reason)
        self.tracker.take(name, event, {"rows": rows})

    def runs(self) -> dict[str, Any]:
        """The runs by their trial; the parent as ``."""
        assert tracking.flush(600)
        api = client(tracking.tracking_uri())
        runs = api.search_runs([api.get_experiment_by_name("sums").experiment_id])
        return {run.data.tags.get("trial", ""): run for run in runs}


def seconds(run: Any) -> float:
    return (run.info.end_time - run.info.start_time) / 1000


def test_statuses_and_times_are_a_trials_own_and_a_name_has_one_meaning(here: Path) -> None:
    tell = Told(here)
    for name in ("0000", "0001"):
        tell(name, "started")
        tell(name, "reported", row(1, 2.0))
        tell(name, "paused")
    tell("0001", "started")
    runs = tell.runs()
    assert {name: (run.info.status, run.data.tags["status"]) for name, run in runs.items()} == {
        **{"": ("RUNNING", "running"), "0000": ("SCHEDULED", "paused"), "0001": ("RUNNING", "running")}
    }
    assert runs[""].data.params == {}, "those of the base config are nobody's"
    tell("0001", "reported", *(row(i, i * 2.0) for i in range(2, 10)))
    tell("0001", "ended")
    tell("0000", "ended", reason="asha: rung 1")
    test = {"exact_match": 0.25, "exact_match_n": 60, "val_loss": 2.0, "by_operation": {"+": {"exact_match": 0.5}}}
    tell.tracker.finish("failed", {"id": "0001", "run_dir": str(here / "sweep"), "test": test})
    runs = tell.runs()
    assert {name: (run.info.status, run.data.tags["status"]) for name, run in runs.items()} == {
        **{"": ("FINISHED", "completed"), "0000": ("KILLED", "stopped"), "0001": ("FINISHED", "completed")}
    }
    assert [seconds(runs[name]) for name in ("0000", "0001")] == [2.0, 18.0]
    assert runs["0001"].data.params["learning_rate"] == "0.2"
    assert runs[""].data.params == runs["0001"].data.params
    assert runs[""].data.metrics == {
        **{"test_exact_match": 0.25, "test_exact_match_n": 60, "test_loss": 2.0, "test_exact_match/add": 0.5}
    }
    assert not [name for name in runs["0001"].data.metrics if name.startswith("test_")]


def test_a_trial_that_is_held_when_the_sweep_ends_is_not_said_to_wait(here: Path) -> None:
    tell = Told(here)
    tell("0000", "started")
    tell("0000", "reported", row(1, 2.0))
    tell("0000", "paused")
    tell.tracker.finish("interrupted", None)
    assert {name: run.info.status for name, run in tell.runs().items()} == {"": "KILLED", "0000": "KILLED"}

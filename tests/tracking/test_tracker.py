"""A new tracker is one file and one line of the table: all else, the process that it runs in included, is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from popgpt import tracking
from popgpt.config import make_config
from popgpt.storage.folder import Folder
from popgpt.tracking import identity, run
from popgpt.tracking.tracker import TRACKERS, TrackerSpec


def test_a_new_tracker_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recorded.jsonl"
    monkeypatch.setattr(run, "_senders", {})
    new = TrackerSpec("JSON lines", "tests.tracking.json_lines:JsonLines", lambda config: True, lambda: str(path))
    monkeypatch.setitem(TRACKERS, "json_lines", new)
    config = make_config({"mlflow_log": False})
    recorded = tracking.start(config, experiment="tests", name="a run", params={"d_model": 64}, folder=tmp_path / "run")
    recorded.log([{"iteration": 1, "train_loss": 2.5}])
    recorded.set_status("paused")
    recorded.artifact(path)
    recorded.finish("completed", {"exact_match": 0.5, "iteration": 1})
    assert tracking.services() == "JSON lines"
    assert tracking.flush(600)
    for sender in recorded.senders:
        sender.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"event": "start", "name": "a run", "params": {"d_model": "64"}},
        {"event": "metric", "name": "train_loss", "value": 2.5, "iteration": 1},
        {"event": "metric", "name": "final_exact_match", "value": 0.5, "iteration": 1},
        {"event": "finish", "status": "completed"},
    ]
    kept = identity.read(Folder(tmp_path / "run"))
    assert kept
    assert kept.ids == {"json_lines": kept.token}
    assert kept.unsent == {"json_lines": []}


def test_what_a_tracker_that_cannot_backfill_was_not_sent_is_kept_and_sent_when_the_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_senders", {})
    path = tmp_path / "later" / "recorded.jsonl"
    new = TrackerSpec("JSON lines", "tests.tracking.json_lines:JsonLines", lambda config: True, lambda: str(path))
    monkeypatch.setitem(TRACKERS, "json_lines", new)
    config, out_dir = make_config({"mlflow_log": False}), tmp_path / "run"
    for resume in (False, True):
        recorded = tracking.start(config, experiment="e", name="n", params={}, folder=out_dir, resume=resume)
        recorded.log([{"iteration": 1 + resume, "train_loss": 2.5}])
        assert tracking.flush(60) is resume
        kept = identity.read(Folder(out_dir))
        assert kept
        waiting = [kind for kind, _ in kept.unsent["json_lines"]]
        assert waiting == ([] if resume else ["log_metrics"])
        for sender in recorded.senders:
            sender.close()
        run._senders.clear()
        path.parent.mkdir(exist_ok=True)
    logged = [json.loads(line) for line in path.read_text().splitlines()]
    assert [each["iteration"] for each in logged if each["event"] == "metric"] == [1, 2]

"""The winner of a sweep: its folder is copied to OUT/best and scored once on the test split."""

from __future__ import annotations

import shutil
from pathlib import Path

from popgpt.data.dataset import Dataset
from popgpt.metrics.row import METRICS_FILE, Row
from popgpt.storage.folder import Folder
from popgpt.sweep.record import Record, trial_folder
from popgpt.sweep.recovery import recover_rows
from popgpt.sweep.tracker import SweepTracker
from popgpt.terminal.progress import waiting, waiting_for
from popgpt.training import folder
from popgpt.training.checkpoint import load_best, open_model
from popgpt.training.evaluation import evaluate_split
from popgpt.training.state import result_scores
from popgpt.training.world import pick_device


def score_winner(record: Record, out_dir: Path, dataset: Dataset, tracker: SweepTracker) -> Row | None:
    """Copy the winner's folder to OUT/best and score it on the test split. Returns what sweep.json's `best` says of it
    beside its scores on val, or None if no trial has a score.

    Of a finalist it is the run with the sweep's own seed. If nothing has changed since an earlier process scored the
    winner, that score stands.
    """
    winner = record.winner()
    if winner is None:
        return None
    name, best = winner.id, out_dir / "best"
    found = {"id": name, "run_dir": str(best), "seed": record.seed(name)}
    at = winner.best_row(record.sweep.metric)["iteration"]
    if (record.scored.get("id"), record.scored.get("iteration")) == (name, at) and best.is_dir():
        return {**found, "test": record.scored["test"]}
    if missing := copy_winner(record, out_dir, name, best):
        tracker.add_rows(name, missing)
    model, _ = open_model(best, pick_device("auto"))
    with waiting("scoring the winner on the test split"):
        return {**found, "test": evaluate_split(model, dataset, "test")}


def copy_winner(record: Record, out_dir: Path, name: str, best: Path) -> list[Row]:
    """Copy the outcome of a trial to `best` once its process has ended, and add to the record what it lacks of it.

    The workers of a group train on until they hear that they are to stop, maybe to a better evaluation, and may be
    ended between its ckpt.pt and its result.json. Returns the rows that the record lacked.
    """
    trained, new = trial_folder(out_dir, name), out_dir / ".best.new"
    for old in (best, new):
        shutil.rmtree(old, ignore_errors=True)
    new.mkdir()
    with waiting_for(f"waiting for the process of trial {name} to end", folder.claimed(Folder(trained))):
        for file in (*folder.outcome(Folder(trained)), METRICS_FILE):
            shutil.copy(trained / file, new)
    scores = load_best(new)["scores"]
    folder.write_result(Folder(new), folder.read_result(Folder(new)) | result_scores(scores))
    missing = recover_rows(record, out_dir, name, max(scores["iteration"], record.runs[name].iterations) + 1)
    new.rename(best)
    return missing

"""When two runs are the same, whatever happened to them meanwhile."""

from __future__ import annotations

from typing import Any

import torch

from popgpt.config import Config
from popgpt.files import Folder
from popgpt.training import checkpoint, folder
from popgpt.training.loop import Row

CLOCK = ("lines_per_second", "checkpoint")  # of result.json: what differs by time and place


def timeless(rows: list[Row]) -> list[Row]:
    """Rows without what the clock says."""
    return [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in rows]


def logged(config: Config) -> list[Row]:
    return timeless(folder.read_metrics(Folder(config.out_dir)))


def losses(config: Config) -> list[float]:
    return [row["train_loss"] for row in logged(config)]


def same_states(first: Config, second: Config) -> bool:
    """Whether the last states of two runs are equal to the bit: weights, optimizers and counts."""
    return same_values(*(comparable(checkpoint.load_latest(Folder(config.out_dir))) for config in (first, second)))


def same_runs(first: Config, second: Config) -> bool:
    """Whether two runs left the same: the names of their files, every state, metrics.jsonl and result.json."""
    return same_values(left(first), left(second))


def left(config: Config) -> Row:
    """All that a run leaves, without what the clock says."""
    run_folder = Folder(config.out_dir)
    result = timeless([folder.read_result(run_folder)])[0]
    states = {name: checkpoint.load(run_folder, name) for name in run_folder.names() if name.endswith(".pt")}
    return {
        "names": run_folder.names() - {folder.MARK, folder.DRIVER_LOCK, folder.WRITER_LOCK},
        "states": {name: comparable(state) for name, state in states.items()},
        "metrics": logged(config),
        "result": {key: value for key, value in result.items() if key not in CLOCK},
    }


def comparable(state: Row | None) -> Row:
    """A state without what the clock says and where it lies."""
    assert state is not None
    passing = ("config", "train_seconds")
    return {key: value for key, value in state.items() if key not in passing} | {"scores": timeless([state["scores"]])}


def same_values(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_values(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_values, first, second))
    return bool(first == second)

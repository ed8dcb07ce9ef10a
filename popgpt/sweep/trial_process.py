"""What the process of a trial runs. It is sent by name, so that the process imports this, not what runs a sweep."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch

from popgpt.cluster.process import limit_exit_time, take_cores
from popgpt.config import make_config
from popgpt.data.batches import make_rows
from popgpt.data.dataset import dataset_path, open_dataset
from popgpt.metrics.row import Row
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import folder
from popgpt.training.loop import explain_errors, fit
from popgpt.training.probe import gpu_memory
from popgpt.training.world import World, pick_device

open_once = functools.lru_cache(maxsize=4)(open_dataset)


def run_trial(config: dict[str, Any], resources: dict[str, float], memory: float | None) -> None:
    """Train one trial, as `train_trial`, and tell Ray Tune in a line why it failed. `config`: its id and values."""
    from ray import tune

    try:
        train_trial(config["values"], resources, memory)
    except Exception as error:
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        tune.report({"error": words.splitlines()[0]})
        raise


def train_trial(values: dict[str, Any], resources: dict[str, float], memory: float | None = None) -> None:
    """Train one trial of a sweep, in the process that Ray Tune started for it and may end once it said stop.

    Args:
        values: the trial's parameters.
        resources: CPU and GPU of each of its workers.
        memory: the part of its GPU's memory that its tensors may take; None: all.
    """
    limit_exit_time()
    config = make_config(values)
    report = TrialReport()
    if config.workers == 1:
        take_cores(resources["CPU"])
        if memory is not None:
            torch.cuda.set_per_process_memory_fraction(memory)
        world = World(pick_device("cuda" if resources["GPU"] else "cpu"))
        fit(config, open_once(dataset_path(config)), world, report, report.stopped, wait_for_save=True)
    else:
        from popgpt.cluster.group import train_on_workers

        train_on_workers(config, resources, report, report.stopped, wait_for_save=True)
    folder.drop_states(Folder(config.out_dir), keep=1)
    if report.stopped():
        sys.exit(0)


def measure_gpu_memory(values: dict[str, Any]) -> dict[str, int]:
    """Return what `probe.gpu_memory` says of a trial, in a process that Ray gives a whole GPU. Raises UserError."""
    limit_exit_time()
    config = make_config({**values, "device": "cuda"})
    dataset = open_dataset(dataset_path(config))
    with explain_errors(config):
        return gpu_memory(config, dataset, make_rows(config, dataset, "train", config.seed))


class TrialReport:
    """Gathers logged rows and hands them to Ray Tune with the next evaluation, where ASHA decides."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._stopped = False

    def __call__(self, row: Row) -> None:
        from ray import tune

        self._rows.append(row)
        if "exact_match" in row and not self._stopped:
            rows, self._rows = self._rows, []
            try:
                tune.report({**row, "rows": rows})
            except SystemExit:
                self._stopped = True

    def stopped(self) -> bool:
        """Return whether Ray Tune has stopped this trial.

        Ray Tune raises SystemExit in the report. The trial ends as at Ctrl-C instead, its state saved.
        """
        return self._stopped

"""Moments of a run at which to disturb it, and what it was doing then."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from popgpt.config import Config
from popgpt.metrics.row import METRICS_FILE
from popgpt.storage.folder import Folder
from popgpt.training import folder
from popgpt.training.writer import TEMPORARY
from tests.nodes import wait_for

# A run of some seconds: rows come at every iteration, a state at every twentieth.
RUN = {
    **{"max_iters": 320, "eval_interval": 20, "log_interval": 1, "dropout": 0.1, "workers": 2},
    **{"val_lines": 120, "dataset": "calculator-faults", "worker_timeout": 120.0},
}


@dataclass(frozen=True)
class Moment:
    """A moment of a run: in a phase of it, and which of them a seed decides.

    Phases: starting (before the first row), training, evaluating, writing (a state).
    """

    phase: str
    seed: int

    def __str__(self) -> str:
        return f"{self.phase}-{self.seed}"

    def wait(self, config: Config, start_seconds: float, wait_for: Callable[..., Any] = wait_for) -> None:
        """Return in that moment of the run in config.out_dir, which begins now."""
        chosen = random.Random(str(self))
        if self.phase == "starting":
            time.sleep(chosen.uniform(0, start_seconds))
            return
        row = chosen.randrange(2 * config.max_iters // 3)
        if self.phase == "evaluating":  # what follows the row before that of an evaluation
            row = max(1, row // config.eval_interval) * config.eval_interval - 1
        wait_for(lambda: rows(config) >= row, f"iteration {row}")
        if self.phase == "writing":
            wait_for(lambda: writing(config) or finished(config), "a state being written", every=0.0002)
        elif self.phase == "training":
            time.sleep(chosen.uniform(0, 0.1))


MOMENTS = [
    *(Moment("starting", seed) for seed in range(2)),
    *(Moment("training", seed) for seed in range(4)),
    *(Moment("evaluating", seed) for seed in range(2)),
    *(Moment("writing", seed) for seed in range(2)),
]


def one_run_and_many(sample: list[Moment]) -> list[Any]:
    """Parameters for a test: `sample`, in one run that is disturbed at each, as a slow one; and each of MOMENTS, in a
    run of its own, marked `soak`.
    """
    return [
        pytest.param(sample, marks=pytest.mark.slow, id="-".join(map(str, sample))),
        *(pytest.param([moment], marks=pytest.mark.soak, id=f"soak-{moment}") for moment in MOMENTS),
    ]


def rows(config: Config) -> int:
    """How many rows were logged."""
    try:
        return Folder(config.out_dir).read_lines(METRICS_FILE).count(b"\n")
    except FileNotFoundError:
        return 0


def writing(config: Config) -> bool:
    """Whether a file of the run is half written."""
    return any(TEMPORARY.match(name) for name in Folder(config.out_dir).names())


def finished(config: Config) -> bool:
    return folder.read_result(Folder(config.out_dir)).get("status") == "completed"


def phase(config: Config) -> str:
    """What the run in out_dir is doing, as far as its folder tells."""
    logged = rows(config)
    if writing(config):
        return "writing"
    if not logged:
        return "starting"
    return "evaluating" if (logged + 1) % config.eval_interval == 0 else "training"

"""The losses of a few short runs of a fixed seed, kept in losses.json: `python -m tests.golden` makes them anew.

They change where the data, its order, the initial weights, dropout, the model, the loss or the optimizers do. A change
that is meant to leave training as it is leaves them; one that is not says so by a new file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from popgpt.config import Config, make_config, read_yaml
from popgpt.data.dataset import ensure_dataset
from popgpt.metrics.row import Row
from popgpt.training.loop import fit
from popgpt.training.world import World
from tests.conftest import TINY

FILE = Path(__file__).parent / "losses.json"
CALCULATOR = Path(__file__).parent / "calculator.yaml"
SMALL: dict[str, Any] = {**TINY, "d_model": 32, "batch_size": 8, "dropout": 0.1, "warmup_iters": 10, "max_iters": 50}
START: dict[str, Any] = {**read_yaml(CALCULATOR), "train_lines": 20_000, "lr_decay_iters": 1000, "max_iters": 50}
CASES: dict[str, dict[str, Any]] = {
    "small, muon": SMALL,
    "small, adamw": {**SMALL, "optimizer": "adamw"},
    "small, windows": {**SMALL, "align_to_lines": False, "isolate_lines": False},
    "calculator, muon": START,
    "calculator, adamw": {**START, "optimizer": "adamw", "max_iters": 20},
}


def config_of(case: str, folder: Path) -> Config:
    """What a case trains; of the calculator the first iterations of calculator.yaml, on fewer lines."""
    places = {"out_dir": str(folder / case), "data_dir": str(folder / "data" / case.split(",")[0])}
    length = {"eval_interval": CASES[case]["max_iters"], "eval_iters": 1, "log_interval": 1}
    return make_config({**CASES[case], **places, **length, "device": "cpu"})


def losses(case: str, folder: Path) -> list[float]:
    """The loss of each iteration, trained here."""
    config, rows = config_of(case, folder), list[Row]()
    fit(config, ensure_dataset(config), World(torch.device("cpu")), rows.append)
    return [row["train_loss"] for row in rows]


def kept() -> dict[str, list[float]]:
    """The losses in the file."""
    return json.loads(FILE.read_text())  # type: ignore[no-any-return]


def deviation(case: str, folder: Path) -> float:
    """The largest relative difference between the losses in the file and those trained here."""
    pairs = zip(kept()[case], losses(case, folder), strict=True)
    return max(abs(here - there) / there for there, here in pairs)

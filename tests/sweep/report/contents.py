"""Contents of sweep.json to make reports of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from popgpt.sweep import ranking
from popgpt.sweep.content import Content
from popgpt.sweep.events import Status
from popgpt.sweep.report.importance import Study
from popgpt.sweep.trial import Trial

NOTHING = Study(0, None, (), "Too few to say.")
SPACE = {
    "learning_rate": {"kind": "loguniform", "values": [1e-3, 1e-2], "when": None},
    "optimizer": {"kind": "choice", "values": ["muon", "adamw"], "when": None},
    "beta2": {"kind": "uniform", "values": [0.9, 0.999], "when": ["optimizer", ["adamw"]]},
}


def row(iteration: int, exact: float | None, **more: Any) -> dict[str, Any]:
    interval = {} if exact is None else {"exact_match_low": exact * 0.9, "exact_match_high": exact * 0.9 + 0.1}
    scores = {"exact_match": exact, "exact_match_n": 200, "token_accuracy": 0.5, "val_loss": 1.25}
    return {"iteration": iteration, **scores, **interval, "train_seconds": iteration / 10, **more}


def trial(name: str, config: dict[str, Any], *rows: dict[str, Any], status: str = "completed", **more: Any) -> Trial:
    return Trial(name, config, Status(status), metrics=[*rows], **more)


def sweep(*trials: Trial, metric: str = "exact_match", space: Mapping[str, Any] = SPACE) -> Content:
    """The content of a sweep.json: rungs at 10, 30 and 90 of 100 iterations."""
    asha = {"grace_period": 10, "reduction_factor": 3, "brackets": 1, "max_t": None}
    definition = {"metric": metric, "max_t": 100, "space": space, "asha": asha, "base": {"max_iters": 100, "seed": 7}}
    content = {**ranking.summary(trials, metric), "sweep": definition, "asha": None}
    return Content.from_json(json.loads(json.dumps(content, allow_nan=False)))


def without_finalists(content: Content) -> Content:
    return replace(content, definition={**content.definition, "finalists": 0})


SMALL = sweep(
    trial("0000", {"learning_rate": 0.005, "optimizer": "muon"}, row(10, 0.125), row(100, 0.875)),
    trial(
        "0001",
        {"learning_rate": 0.001, "optimizer": "adamw", "beta2": 0.95},
        row(10, 0.0625),
        status="stopped",
        reason="asha: rung 10: exact_match 0.0625 below 0.125",
    ),
    trial("0002", {"learning_rate": 0.01, "optimizer": "muon"}, status="failed", reason="RuntimeError: <b>&"),
)
TEST = {"exact_match": 0.8125, "exact_match_low": 0.75, "exact_match_high": 0.86, "exact_match_n": 2000}
DONE = replace(SMALL, best={**SMALL.best, "run_dir": "/s/my sweep/best", "test": TEST})
FINALISTS = [
    {"id": "0001", "seeds": [{"seed": 1, **TEST}], "mean": 0.7},
    {"id": "0000", "seeds": [{"seed": 1, **TEST}, {"seed": 2, **TEST, "exact_match": 0.8}], "mean": 0.8063},
]

"""What a run leaves, in a form in which two runs compare: plain values, without what the clock says."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import torch

from popgpt.config import Config, make_config, merge
from popgpt.metrics.row import Row
from popgpt.model.gpt import GPT
from popgpt.storage.folder import Folder
from popgpt.training import checkpoint, folder
from popgpt.training.optim import ALONE, make_optimizers
from popgpt.training.run import Run, capture

PASSING = ("config", "checkpoint", "lines_per_second")  # of a state or result.json: what differs by place or time


def left(config: Config) -> Row:
    """All that a run leaves: the names of its files, every state to the bit, metrics.jsonl and result.json."""
    run_folder = Folder(config.out_dir)
    names = run_folder.names() - {folder.MARK, folder.DRIVER_LOCK, folder.WRITER_LOCK}
    return {
        "names": names,
        "states": {name: plain(checkpoint.load(run_folder, name)) for name in names if name.endswith(".pt")},
        "metrics": logged(config),
        "result": plain(folder.read_result(run_folder)),
    }


def same_states(first: Config, second: Config) -> bool:
    """Whether the last states of two runs are equal to the bit: weights, optimizers and counts."""
    ours, others = (checkpoint.load_latest(Folder(config.out_dir)) for config in (first, second))
    return ours is not None and plain(ours) == plain(others)


def logged(config: Config) -> list[Row]:
    return timeless(folder.read_metrics(Folder(config.out_dir)))


def losses(config: Config) -> list[float]:
    return [row["train_loss"] for row in logged(config)]


def timeless(rows: list[Row]) -> list[Row]:
    """Rows without what the clock says."""
    return [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in rows]


def plain(value: Any) -> Any:
    """`value` with every tensor in it as a hash, and without what the clock says."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if key not in PASSING and not str(key).endswith("_seconds")}
        return {key: plain(part) for key, part in kept.items()}
    if isinstance(value, list | tuple):
        return list(map(plain, value))
    return value


SMALL = {"n_layer": 1, "d_model": 8, "d_head": 8, "block_size": 8, "max_iters": 100, "warmup_iters": 2}
CHARACTERS = "\n+0123456789="
SCORES = {"val_loss": 1.5, "token_accuracy": 0.5, "exact_match": 0.25, "by_operation": {"+": {"exact_match": 0.25}}}


def some_state(iteration: int, **over: Any) -> Row:
    """The state of a small run after `iteration` steps on made-up gradients. over: of its config."""
    config = make_config(merge(SMALL, over))
    model = GPT(config, len(CHARACTERS))
    run = Run(model, make_optimizers(model, config, ALONE), iteration=iteration)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimizer in run.optimizers if iteration else ():
        optimizer.step()
    run.scores = {"iteration": iteration, **SCORES} if iteration else None
    meta: Any = SimpleNamespace(
        vocabulary=SimpleNamespace(characters=CHARACTERS), separator="=", symbols="+", longest_answer=3, fingerprint="f"
    )
    return capture(run, config, SimpleNamespace(meta=meta))  # type: ignore[arg-type]

"""A run: what training changes, how it begins or goes on, and what is kept of it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch

from popgpt.config import SEPARATOR, Config, UserError
from popgpt.data.dataset import Dataset
from popgpt.files import Folder, absolute
from popgpt.metrics import score
from popgpt.model.gpt import GPT
from popgpt.training import checkpoint, folder
from popgpt.training.optim import make_optimizers
from popgpt.training.world import World

logger = logging.getLogger(__name__)
Row = dict[str, Any]
WEIGHTS = ("n_layer", "d_model", "n_head", "block_size", "bias")
ORDER = ("seed", "rows_per_iteration", "align_to_lines", "isolate_lines", "mask_before_token", "mask_per_line")
COUNTS = ("iteration", "lines", "tokens", "train_seconds", "skipped", "scores")
PASSING = ("lines", "tokens", "train_seconds", "save_seconds", "save_wait_seconds")


@dataclass
class Run:
    """What training changes."""

    model: GPT
    optimizers: list[torch.optim.Optimizer]
    iteration: int = 0
    lines: int = 0
    tokens: int = 0
    train_seconds: float = 0.0
    skipped: int = 0  # iterations in a row, the last one included
    scores: Row | None = None  # of ckpt.pt
    init_from: str = "scratch"  # what its first process started from


def begin(config: Config, dataset: Dataset, world: World) -> Run:
    """The run whose state is in out_dir; where there is none, a new one that starts as `init_from` says."""
    model = GPT(config, len(dataset.meta.vocabulary)).to(world.device)
    run = Run(model, make_optimizers(model, config, world), init_from=config.init_from)
    state = checkpoint.load_latest(Folder(config.out_dir))
    if state:
        restore(run, state, config, dataset)
        on = f" on {world.size} workers" if world.size > 1 else ""
        logger.info("going on with the run in %s after iteration %d%s", config.out_dir, run.iteration, on)
    elif config.init_from == "resume":
        raise UserError(f"out_dir={config.out_dir} holds no run to resume; start one with init_from=scratch")
    elif config.init_from != "scratch":
        state = checkpoint.load_best(config.init_from)
        check_same(state, config, dataset, WEIGHTS)
        model.load_state_dict(state["model"])
    if world.is_main:
        folder.write_config(original(config, run))
    return run


def original(config: Config, run: Run) -> Config:
    """The config that repeats the run, from where its first process started."""
    return config.model_copy(update={"init_from": run.init_from})


def restore(run: Run, state: dict[str, Any], config: Config, dataset: Dataset) -> None:
    """Make `run` what it was when `state` was saved."""
    check_same(state, config, dataset, (*WEIGHTS, *ORDER, "optimizer"))
    if config.max_iters < state["iteration"]:
        raise UserError(f"max_iters={config.max_iters} should be at least {state['iteration']}, where the run is")
    if state["fingerprint"] != dataset.meta.fingerprint:
        raise UserError(
            f"out_dir={config.out_dir} was trained on another dataset than {config.dataset}; start a new run"
        )
    run.model.load_state_dict(state["model"])
    for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    run.init_from = state["config"]["init_from"]
    for name in COUNTS:
        setattr(run, name, state[name])


def check_same(state: dict[str, Any], config: Config, dataset: Dataset, keys: tuple[str, ...]) -> None:
    """Refuse a state that was trained with other values of `keys` or on another alphabet."""
    trained = checkpoint.config_of(state)
    for key in keys:
        old, new = (
            dataset.meta.separator if value == SEPARATOR else value
            for value in (getattr(trained, key), getattr(config, key))
        )
        if old != new:
            raise UserError(f"{key}={getattr(config, key)!r} should be {getattr(trained, key)!r}, as in the checkpoint")
    if state["vocabulary"] != dataset.meta.vocabulary.characters:
        raise UserError(f"the checkpoint's alphabet {state['vocabulary']!r} is not that of dataset={config.dataset}")


def take_best(run: Run, evaluated: Row, config: Config) -> bool:
    """Whether ckpt.pt should be of this evaluation: it is the best so far, or always_save_checkpoint."""
    best = (
        config.always_save_checkpoint
        or run.scores is None
        or score(evaluated, config.best_by) > score(run.scores, config.best_by)
    )
    if best:
        run.scores = evaluated
    return best


def capture(run: Run, config: Config, dataset: Dataset) -> Row:
    """Everything the run goes on from; its tensors are the run's own."""
    meta = dataset.meta
    return {
        "config": original(config, run).model_dump(),
        "vocabulary": meta.vocabulary.characters,
        "separator": meta.separator,
        "symbols": meta.symbols,
        "longest_answer": meta.longest_answer,
        "fingerprint": meta.fingerprint,
        "model": run.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        **{name: getattr(run, name) for name in COUNTS},
    }


def summarize(run: Run, config: Config, dataset: Dataset, world: World, started: float) -> Row:
    """What result.json holds: the validation scores of ckpt.pt, and what the run cost.

    It is written with each state; its status is `interrupted` as long as max_iters is not reached.
    """
    scores = shown(run.scores or {})
    return {
        "status": "completed" if run.iteration >= config.max_iters else "interrupted",
        **({"split": "val"} if scores else {}),
        **scores,
        "last_iteration": run.iteration,
        "train_seconds": run.train_seconds,
        "wall_seconds": time.perf_counter() - started,
        "lines": run.lines,
        "tokens": run.tokens,
        "lines_per_second": run.lines / run.train_seconds if run.train_seconds else 0.0,
        "world_size": world.size,
        "threads": torch.get_num_threads(),
        "device": str(world.device),
        "dataset_fingerprint": dataset.meta.fingerprint,
        "checkpoint": absolute(Folder(config.out_dir).at(folder.BEST)) if scores else None,
    }


def shown(scores: Row) -> Row:
    """Of an evaluation's row, what result.json holds."""
    return {key: value for key, value in scores.items() if key not in PASSING}

"""A run: what training changes, how it begins or goes on, and what is kept of it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch

from popgpt.config import Config, may_agree
from popgpt.data.batches import count_left_out, make_rows
from popgpt.data.dataset import Dataset
from popgpt.metrics.metric import score
from popgpt.metrics.row import Row, RunResult
from popgpt.model.gpt import GPT
from popgpt.storage.folder import Folder, absolute
from popgpt.text.errors import UserError
from popgpt.training import checkpoint, folder
from popgpt.training.optim import make_optimizers
from popgpt.training.world import World

logger = logging.getLogger(__name__)
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
    elif state := given_weights(config, dataset):
        model.load_state_dict(state["model"])
    if world.is_main:
        folder.write_config(original(config, run))
    return run


def given_weights(config: Config, dataset: Dataset | None) -> dict[str, Any] | None:
    """The state whose weights a new run starts from; None where it starts from scratch.

    Args:
        dataset: None where it is not there yet: the alphabet is then not compared.
    Raises:
        UserError: a run was to be resumed and there is none, or init_from names no state of such a model.
    """
    if config.init_from == "scratch":
        return None
    if config.init_from == "resume":
        raise UserError(f"out_dir={config.out_dir} holds no run to resume; start one with init_from=scratch")
    state = checkpoint.load_best(config.init_from)
    check_same(state, config, dataset, WEIGHTS)
    return state


def check_can_begin(config: Config, dataset: Dataset | None) -> None:
    """Raises UserError where `begin` would, or the dataset makes no rows for the run. It writes nothing, so that the
    driver can ask before it starts anything.

    Args:
        dataset: None where it is not there yet, and then not asked about.
    """
    if dataset:
        for split in ("train", "val"):
            make_rows(config, dataset, split, config.seed)
    run_folder = Folder(config.out_dir)
    newest = folder.last_state(run_folder)
    if newest is None:
        given_weights(config, dataset)
    elif config.init_from == "resume":  # without it, all parameters are the run's own
        try:
            state = checkpoint.load(run_folder, newest)
        except UserError:
            return  # torn: `begin` goes on from an older one
        check_can_go_on(state, config, dataset)


def original(config: Config, run: Run) -> Config:
    """The config that repeats the run, from where its first process started."""
    return config.model_copy(update={"init_from": run.init_from})


def restore(run: Run, state: dict[str, Any], config: Config, dataset: Dataset) -> None:
    """Make `run` what it was when `state` was saved."""
    check_can_go_on(state, config, dataset)
    run.model.load_state_dict(state["model"])
    for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    run.init_from = checkpoint.config_of(state).init_from
    for name in COUNTS:
        setattr(run, name, state[name])


def check_can_go_on(state: dict[str, Any], config: Config, dataset: Dataset | None) -> None:
    """Refuse a state that a run of this config and dataset can't be gone on with from."""
    check_same(state, config, dataset, (*WEIGHTS, *ORDER, "optimizer"))
    if config.max_iters < state["iteration"]:
        raise UserError(f"max_iters={config.max_iters} should be at least {state['iteration']}, where the run is")
    if dataset and state["fingerprint"] != dataset.meta.fingerprint:
        raise UserError(
            f"out_dir={config.out_dir} was trained on another dataset than {config.dataset}; start a new run"
        )


def check_same(state: dict[str, Any], config: Config, dataset: Dataset | None, keys: tuple[str, ...]) -> None:
    """Refuse a state that was trained with other values of `keys` or on another alphabet."""
    trained = checkpoint.config_of(state)
    for key in keys:
        if not may_agree(key, getattr(trained, key), getattr(config, key)):
            raise UserError(f"{key}={getattr(config, key)!r} should be {getattr(trained, key)!r}, as in the checkpoint")
    if dataset and state["vocabulary"] != dataset.meta.vocabulary.characters:
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


def capture(run: Run, config: Config, dataset: Dataset) -> dict[str, Any]:
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


def summarize(run: Run, config: Config, dataset: Dataset, world: World, started: float) -> RunResult:
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
        "lines_left_out": count_left_out(config, dataset.meta),
        "checkpoint": absolute(Folder(config.out_dir).at(folder.BEST)) if scores else None,
    }


def shown(scores: Row) -> Row:
    """Of an evaluation's row, what result.json holds."""
    return {key: value for key, value in scores.items() if key not in PASSING}

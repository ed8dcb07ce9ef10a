"""One optimizer step, and the loop over them. The same `fit` runs alone and on every worker of a cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from popgpt.config import Config, UserError
from popgpt.data.batches import IGNORE_INDEX, Rows, make_rows
from popgpt.data.dataset import Dataset
from popgpt.data.shuffle import derive_key, mix
from popgpt.files import write_json
from popgpt.metrics import score
from popgpt.model.gpt import GPT
from popgpt.training import checkpoint, folder
from popgpt.training.evaluation import batch_loss, evaluate
from popgpt.training.optim import lr_at, make_optimizers, set_lr, trainable
from popgpt.training.world import World, keep_freed_memory

Row = dict[str, Any]
WEIGHTS = ("n_layer", "d_model", "n_head", "block_size", "bias")
ORDER = ("seed", "rows_per_iteration", "align_to_lines", "isolate_lines", "mask_before_token", "mask_per_line")


@dataclass
class Run:
    """What training changes."""

    model: GPT
    optimizers: list[torch.optim.Optimizer]
    iteration: int = 0
    lines: int = 0
    tokens: int = 0
    train_seconds: float = 0.0
    scores: Row | None = None  # of ckpt.pt
    init_from: str = "scratch"  # what its first process started from


def fit(
    config: Config,
    dataset: Dataset,
    world: World,
    report: Callable[[Row], None] = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Row:
    """Train to max_iters, or until some worker's `should_stop()`; return what result.json holds.

    Args:
        report: called by every worker with each logged row: iteration, train_loss, learning_rate, lines, tokens,
            train_seconds, and evaluate()'s scores where it was evaluated.
        should_stop: asked before every iteration; the state is saved before this returns.
    Raises:
        UserError: nothing to resume, a run that is in the way, a loss that is not finite.
    """
    started = time.perf_counter()
    keep_freed_memory()
    out_dir = Path(config.out_dir)
    with folder.claimed(out_dir) if world.is_main else nullcontext():
        run = begin(config, dataset, world)
        rows = make_rows(config, dataset, "train", config.seed)
        forward = torch.compile(run.model) if config.compile else run.model
        if world.is_main:
            folder.begin_metrics(out_dir, run.iteration)
        stopping = False
        while run.iteration < config.max_iters and not stopping:
            row, stopping = train_step(run, forward, rows, config, world, should_stop())
            due = run.iteration % config.eval_interval == 0 or run.iteration == config.max_iters
            if due:
                row |= evaluate(run.model, dataset, "val", config, world)
                check_finite(row["val_loss"], run.iteration, row["learning_rate"], config)
            logged = due or stopping or run.iteration % config.log_interval == 0
            if logged and world.is_main:
                folder.append_metrics(out_dir, row)
            if (due or stopping) and world.is_main:
                save(run, row if due else None, config, dataset)
                write_json(out_dir / folder.RESULT, summarize(run, config, dataset, world, started))
            if logged:
                report(row)
    return summarize(run, config, dataset, world, started)


def train_step(
    run: Run, forward: Callable[..., Tensor], rows: Rows, config: Config, world: World, stop: bool
) -> tuple[Row, bool]:
    """One optimizer step on the effective batch. Returns its row, and whether any worker wants to stop.

    This worker reads its share of the iteration's rows, batch_size at a time. Loss and gradient are sums over all
    unmasked targets, reduced over the workers and divided once by their number.
    """
    started = time.perf_counter()
    learning_rate = lr_at(run.iteration, config)
    set_lr(run.optimizers, learning_rate)
    share = world.share(config.rows_per_iteration)
    first = run.iteration * config.rows_per_iteration
    sums = np.zeros(5)
    for start in range(share.start, share.stop, config.batch_size):
        numbers = first + np.arange(start, min(start + config.batch_size, share.stop))
        batch = rows.at(numbers)
        loss, _ = batch_loss(forward, batch, config, world.device, dropout_keys(config, numbers, world.device))
        loss.backward()  # type: ignore[no-untyped-call]
        sums += (loss.item(), (batch.targets != IGNORE_INDEX).sum(), *rows.counts(batch), 0)
    sums[-1] = stop
    total, targets, lines, tokens, stops = world.sum(sums)
    parameters = trainable(run.model)
    check_finite(total, run.iteration + 1, learning_rate, config)
    targets = max(targets, 1)  # rows whose every target is masked teach nothing
    world.sum_gradients(parameters, targets)
    if config.grad_clip:
        torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
    for optimizer in run.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    run.iteration += 1
    run.lines += int(lines)
    run.tokens += int(tokens)
    run.train_seconds += time.perf_counter() - started
    return {
        "iteration": run.iteration,
        "train_loss": total / targets,
        "learning_rate": learning_rate,
        "lines": run.lines,
        "tokens": run.tokens,
        "train_seconds": run.train_seconds,
    }, stops > 0


def check_finite(loss: float, iteration: int, learning_rate: float, config: Config) -> None:
    """Raises UserError where a loss is not finite, with what to change and what there is to go on from."""
    if not math.isfinite(loss):
        saved = f"; the last good state is in {config.out_dir}" if folder.holds_state(Path(config.out_dir)) else ""
        raise UserError(
            f"the loss is not finite at iteration {iteration} (learning_rate={learning_rate:g}); "
            f"lower learning_rate, raise warmup_iters or set grad_clip{saved}"
        )


def dropout_keys(config: Config, row_numbers: np.ndarray, device: torch.device) -> Tensor | None:
    """int32 [B]: a key for each global row; a row number names its iteration too. None where dropout is 0."""
    if config.dropout == 0:
        return None
    keys = mix(row_numbers.astype(np.uint64) ^ np.uint64(derive_key("dropout", config.seed))) >> np.uint64(32)
    return torch.from_numpy(keys.astype(np.uint32).view(np.int32)).to(device)


def begin(config: Config, dataset: Dataset, world: World) -> Run:
    """A new run, or the one that `init_from` names."""
    model = GPT(config, len(dataset.meta.vocabulary)).to(world.device)
    run = Run(model, make_optimizers(model, config, world), init_from=config.init_from)
    if config.init_from == "resume":
        restore(run, checkpoint.load_latest(Path(config.out_dir)), config, dataset)
    elif config.init_from != "scratch":
        state = checkpoint.load_best(Path(config.init_from))
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
    for name in ("iteration", "lines", "tokens", "train_seconds", "scores"):
        setattr(run, name, state[name])


def check_same(state: dict[str, Any], config: Config, dataset: Dataset, keys: tuple[str, ...]) -> None:
    """Refuse a state that was trained with other values of `keys` or on another alphabet."""
    trained = checkpoint.config_of(state)
    for key in keys:
        if getattr(trained, key) != getattr(config, key):
            raise UserError(f"{key}={getattr(config, key)!r} should be {getattr(trained, key)!r}, as in the checkpoint")
    if state["vocabulary"] != dataset.meta.vocabulary.characters:
        raise UserError(f"the checkpoint's alphabet {state['vocabulary']!r} is not that of dataset={config.dataset}")


def save(run: Run, evaluated: Row | None, config: Config, dataset: Dataset) -> None:
    """Save the state; as ckpt.pt too where it was evaluated and is the best so far, or always_save_checkpoint."""
    best = evaluated is not None and (
        config.always_save_checkpoint
        or run.scores is None
        or score(evaluated, config.best_by) > score(run.scores, config.best_by)
    )
    if best:
        run.scores = evaluated
    meta = dataset.meta
    state = {
        "config": original(config, run).model_dump(),
        "vocabulary": meta.vocabulary.characters,
        "separator": meta.separator,
        "symbols": meta.symbols,
        "longest_answer": meta.longest_answer,
        "fingerprint": meta.fingerprint,
        "model": run.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        **{name: getattr(run, name) for name in ("iteration", "lines", "tokens", "train_seconds", "scores")},
    }
    checkpoint.save(state, Path(config.out_dir), best)


def summarize(run: Run, config: Config, dataset: Dataset, world: World, started: float) -> Row:
    """What result.json holds: the validation scores of ckpt.pt, and what the run cost.

    It is written with each state; its status is `interrupted` as long as max_iters is not reached.
    """
    scores = run.scores or {}
    return {
        "status": "completed" if run.iteration >= config.max_iters else "interrupted",
        **({"split": "val"} if scores else {}),
        **{key: value for key, value in scores.items() if key not in ("lines", "tokens", "train_seconds")},
        "last_iteration": run.iteration,
        "train_seconds": run.train_seconds,
        "wall_seconds": time.perf_counter() - started,
        "lines": run.lines,
        "tokens": run.tokens,
        "lines_per_second": run.lines / run.train_seconds if run.train_seconds else 0.0,
        "world_size": world.size,
        "device": str(world.device),
        "dataset_fingerprint": dataset.meta.fingerprint,
        "checkpoint": str((Path(config.out_dir) / folder.BEST).resolve()) if scores else None,
    }

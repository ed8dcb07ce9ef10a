"""One optimizer step, and the loop over them. The same `fit` runs alone and on every worker of a cluster."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from popgpt.config import Config
from popgpt.data.batches import IGNORE_INDEX, Rows, make_rows
from popgpt.data.dataset import Dataset
from popgpt.lines.shuffle import derive_key, mix
from popgpt.metrics.row import Row, RunResult
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import folder
from popgpt.training.evaluation import batch_loss, evaluate
from popgpt.training.keeper import Keeper
from popgpt.training.memory import keep_freed_memory, memory_advice
from popgpt.training.optim import lr_at, set_lr, trainable
from popgpt.training.run import Run, begin, capture, summarize, take_best
from popgpt.training.world import World

logger = logging.getLogger(__name__)
MOST_SKIPPED = 10


def fit(
    config: Config,
    dataset: Dataset,
    world: World,
    report: Callable[[Row], None] = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
    settled: bool = False,
) -> RunResult:
    """Train to max_iters, or until some worker's `should_stop()`; return what result.json holds.

    It goes on from the state in out_dir, where there is one.

    Args:
        report: called by every worker with each logged row: iteration, train_loss, learning_rate, gradient_norm, lines,
            tokens, train_seconds, and evaluate()'s scores where it was evaluated.
        should_stop: asked before every iteration; the state is saved before this returns.
        settled: report an evaluation only once its state is on disk. Whoever gets the report may then end the process,
            or a worker that is alone by should_stop, with no iteration more.
    Raises:
        UserError: nothing to resume, a run that is in the way, a loss that is not finite, no memory, a full disk.
    """
    started = time.perf_counter()
    keep_freed_memory()
    run_folder = Folder(config.out_dir)
    with folder.told_of_store(run_folder), told_plainly(config), Keeper(run_folder, world.is_main) as keeper:
        run = begin(config, dataset, world)
        rows = make_rows(config, dataset, "train", config.seed)
        forward = torch.compile(run.model) if config.compile else run.model
        best = run.scores is not None and run.scores["iteration"] == run.iteration
        keeper.begin(run.iteration, best, summarize(run, config, dataset, world, started))
        stopping = False
        while run.iteration < config.max_iters and not stopping:
            row, stopping = train_step(run, forward, rows, config, world, should_stop() or keeper.failed)
            due = run.iteration % config.eval_interval == 0 or run.iteration == config.max_iters
            if due:
                row |= evaluate(run.model, dataset, "val", config, world)
                check_finite(row["val_loss"], run.iteration, row["learning_rate"])
                row |= {"save_seconds": keeper.write_seconds, "save_wait_seconds": keeper.wait_seconds}
            logged = due or run.iteration % config.log_interval == 0
            if logged:
                keeper.log(row)
            if due or stopping:
                best = due and take_best(run, row, config)
                keeper.save(capture(run, config, dataset), best, summarize(run, config, dataset, world, started))
            if due and settled:
                keeper.settle()
            if logged:
                report(row)
            stopping |= due and settled and world.size == 1 and should_stop()
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
    parameters = trainable(run.model)
    total, targets, lines, tokens, stops = world.sum_gradients(parameters, sums)
    targets = max(targets, 1)  # rows whose every target is masked teach nothing
    torch._foreach_div_([parameter.grad for parameter in parameters if parameter.grad is not None], targets)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip or math.inf))
    if math.isfinite(total) and math.isfinite(norm):
        for optimizer in run.optimizers:
            optimizer.step()
        run.skipped = 0
    else:
        skip(run, total / targets, norm, learning_rate, config)
    for optimizer in run.optimizers:
        optimizer.zero_grad()
    run.iteration += 1
    run.lines += int(lines)
    run.tokens += int(tokens)
    run.train_seconds += time.perf_counter() - started
    return {
        "iteration": run.iteration,
        "train_loss": total / targets,
        "learning_rate": learning_rate,
        "gradient_norm": norm,
        "lines": run.lines,
        "tokens": run.tokens,
        "train_seconds": run.train_seconds,
    }, stops > 0


def skip(run: Run, loss: float, norm: float, learning_rate: float, config: Config) -> None:
    """Leave out an iteration whose loss or gradient is not finite. Raises UserError where on_nan says to stop.

    After many in a row it is the weights that are not finite, and no iteration would mend them.
    """
    run.skipped += 1
    if config.on_nan == "stop" or run.skipped == MOST_SKIPPED:
        check_finite(loss, run.iteration + 1, learning_rate)
        check_finite(norm, run.iteration + 1, learning_rate, "gradient")
    logger.warning("iteration %d is skipped: its loss or gradient is not finite", run.iteration + 1)


class NotFiniteError(UserError):
    """A loss or gradient is infinite or no number."""


def check_finite(value: float, iteration: int, learning_rate: float, what: str = "loss") -> None:
    """Raises NotFiniteError with what to change."""
    if not math.isfinite(value):
        raise NotFiniteError(
            f"the {what} is not finite at iteration {iteration} (learning_rate={learning_rate:g}); "
            f"lower learning_rate, raise warmup_iters or set grad_clip"
        )


@contextmanager
def told_plainly(config: Config) -> Iterator[None]:
    """Says what there is to go on from where a loss is not finite, and what to lower where memory does not suffice."""
    try:
        yield
    except NotFiniteError as error:
        run_folder = Folder(config.out_dir)
        last = folder.last_state(run_folder)
        raise UserError(f"{error}; the last good state is {run_folder.at(last)}" if last else str(error)) from None
    except (RuntimeError, MemoryError) as error:
        kinds = MemoryError | torch.OutOfMemoryError  # of numpy, of torch on a GPU; of torch without one it is a text
        if not isinstance(error, kinds) and "DefaultCPUAllocator" not in str(error):
            raise
        raise UserError(memory_advice(config)) from error


def dropout_keys(config: Config, row_numbers: np.ndarray, device: torch.device) -> Tensor | None:
    """int32 [B]: a key for each global row; a row number names its iteration too. None where dropout is 0."""
    if config.dropout == 0:
        return None
    keys = mix(row_numbers.astype(np.uint64) ^ np.uint64(derive_key("dropout", config.seed))) >> np.uint64(32)
    return torch.from_numpy(keys.astype(np.uint32).view(np.int32)).to(device)

"""One optimizer step, and the loop over them. The same `fit` runs alone and on every worker of a cluster."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from popgpt.config import Config
from popgpt.data.batches import make_rows
from popgpt.data.dataset import Dataset
from popgpt.metrics.row import Row, RunResult
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import folder
from popgpt.training.evaluation import batch_loss, evaluate, open_split
from popgpt.training.feed import Feed, MicroBatch
from popgpt.training.memory import keep_freed_memory, memory_advice
from popgpt.training.optim import lr_at, set_lr, trainable
from popgpt.training.state import TrainState, start_or_resume, state_dict, summarize, update_best
from popgpt.training.world import World
from popgpt.training.writer import RunWriter

logger = logging.getLogger(__name__)
MOST_SKIPPED = 10


def fit(
    config: Config,
    dataset: Dataset,
    world: World,
    report: Callable[[Row], None] = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
    wait_for_save: bool = False,
) -> RunResult:
    """Train to max_iters, or until some worker's `should_stop()`; return what result.json holds.

    The run resumes from the newest state in out_dir, if there is one.

    Args:
        report: called by every worker with each logged row.
        should_stop: asked before every iteration; the state is saved before `fit` returns.
        wait_for_save: report an evaluation only once its state is on disk. Whoever gets the report may then end the
            process, or stop a worker that is alone by should_stop, without one more iteration.
    Raises:
        UserError: nothing to resume, a run that is in the way, a loss that is not finite, no memory, a full disk.
    """
    started = time.perf_counter()
    keep_freed_memory()
    run_folder = Folder(config.out_dir)
    with (
        folder.explain_store_errors(run_folder),
        explain_errors(config),
        RunWriter(run_folder, world.is_main) as writer,
    ):
        state = start_or_resume(config, dataset, world)
        feed = Feed(make_rows(config, dataset, "train", config.seed), config, world)
        val = open_split(config, dataset, "val", world)
        writer.recover(state.iteration, state.is_best, summarize(state, config, dataset, world, started))
        forward = torch.compile(state.model) if config.compile else state.model
        stopping = False
        while state.iteration < config.max_iters and not stopping:
            row, stopping = train_step(state, forward, feed, config, world, should_stop() or writer.failed)
            due = state.iteration % config.eval_interval == 0 or state.iteration == config.max_iters
            if due:
                row |= evaluate(state.model, val, world)
                check_finite(row["val_loss"], state.iteration, row["learning_rate"])
                row |= {"save_seconds": writer.write_seconds, "save_wait_seconds": writer.wait_seconds}
            logged = due or state.iteration % config.log_interval == 0
            if logged:
                writer.log(row)
            if due or stopping:
                best = due and update_best(state, row, config)
                result = summarize(state, config, dataset, world, started)
                writer.save(state_dict(state, config, dataset), best, result)
            if due and wait_for_save:
                writer.flush()
            if logged:
                report(row)
            stopping |= due and wait_for_save and world.size == 1 and should_stop()
    return summarize(state, config, dataset, world, started)


def train_step(
    state: TrainState, forward: Callable[..., Tensor], feed: Feed, config: Config, world: World, stop: bool
) -> tuple[Row, bool]:
    """Take one optimizer step on the effective batch. Returns its row, and whether any worker wants to stop.

    Loss and gradient are sums over all unmasked targets, reduced over the workers and divided once by their number, or
    weight. All sums stay on the device until it is known whether they are finite: a GPU is waited for once.
    """
    started = time.perf_counter()
    learning_rate = lr_at(state.iteration, config)
    set_lr(state.optimizers, learning_rate)
    sums = accumulate_gradients(forward, feed.at(state.iteration), config, world.device, stop)
    parameters = trainable(state.model)
    sums = world.sum_gradients(parameters, sums)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    torch._foreach_div_(gradients, sums[1].clamp(min=1).float())  # rows whose every target is masked teach nothing
    norms = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip or math.inf)
    total, weight, lines, tokens, stops, norm = torch.cat([sums, norms[None].double()]).tolist()
    loss = total / max(weight, 1)
    if math.isfinite(loss) and math.isfinite(norm):
        for optimizer in state.optimizers:
            optimizer.step()
        state.skipped = 0
    else:
        skip(state, loss, norm, learning_rate, config)
    for optimizer in state.optimizers:
        optimizer.zero_grad()
    state.iteration += 1
    state.lines += int(lines)
    state.tokens += int(tokens)
    state.train_seconds += time.perf_counter() - started
    return {
        "iteration": state.iteration,
        "train_loss": loss,
        "learning_rate": learning_rate,
        "gradient_norm": norm,
        "lines": state.lines,
        "tokens": state.tokens,
        "train_seconds": state.train_seconds,
    }, stops > 0


def accumulate_gradients(
    forward: Callable[..., Tensor],
    micro_batches: Iterable[MicroBatch],
    config: Config,
    device: torch.device,
    stop: bool = False,
) -> Tensor:
    """Add up the gradients of some rows. Returns float64 [5], on the device: loss, weight, lines, tokens, `stop`."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    weight = lines = tokens = 0
    for each in micro_batches:
        loss, _ = batch_loss(forward, each.inputs.to(device), config)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
        weight, lines, tokens = weight + each.weight, lines + each.lines, tokens + each.tokens
    counts = torch.tensor([weight, lines, tokens, stop], dtype=torch.float64, pin_memory=device.type == "cuda")
    return torch.cat([total[None], counts.to(device, non_blocking=True)])


def skip(state: TrainState, loss: float, norm: float, learning_rate: float, config: Config) -> None:
    """Leave out an iteration whose loss or gradient is not finite. Raises UserError if on_nan says to stop.

    After MOST_SKIPPED in a row it is the weights that are not finite, which no further iteration changes.
    """
    state.skipped += 1
    if config.on_nan == "stop" or state.skipped == MOST_SKIPPED:
        check_finite(loss, state.iteration + 1, learning_rate)
        check_finite(norm, state.iteration + 1, learning_rate, "gradient")
    logger.warning("iteration %d is skipped: its loss or gradient is not finite", state.iteration + 1)


class NotFiniteError(UserError):
    """A loss or gradient is infinite or NaN."""


def check_finite(value: float, iteration: int, learning_rate: float, what: str = "loss") -> None:
    """Raise NotFiniteError, which says what to change, if `value` is not finite."""
    if not math.isfinite(value):
        raise NotFiniteError(
            f"the {what} is not finite at iteration {iteration} (learning_rate={learning_rate:g}); "
            f"lower learning_rate, raise warmup_iters or set grad_clip"
        )


@contextmanager
def explain_errors(config: Config) -> Iterator[None]:
    """Raise UserError instead of two errors of training: a loss that is not finite, and too little memory.

    It names the last good state, or what to lower.
    """
    try:
        yield
    except NotFiniteError as error:
        run_folder = Folder(config.out_dir)
        last = folder.last_state(run_folder)
        raise UserError(f"{error}; the last good state is {run_folder.at(last)}" if last else str(error)) from None
    except (RuntimeError, MemoryError) as error:
        # numpy raises MemoryError, torch OutOfMemoryError on a GPU, and without one a RuntimeError with this text
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise UserError(memory_advice(config)) from error

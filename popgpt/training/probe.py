"""Measures what a run costs here, from a few of its iterations."""

from __future__ import annotations

import resource
import statistics
import time

import torch

from popgpt.config import Config
from popgpt.data.batches import Rows
from popgpt.data.dataset import Dataset
from popgpt.model.gpt import GPT
from popgpt.training.evaluation import evaluate, open_split
from popgpt.training.feed import Feed
from popgpt.training.loop import train_step
from popgpt.training.memory import keep_freed_memory
from popgpt.training.optim import make_optimizers
from popgpt.training.state import TrainState
from popgpt.training.world import World, pick_device

PROBE_SECONDS = 3.0


def probe(config: Config, dataset: Dataset, rows: Rows) -> dict[str, float]:
    """Measure a few iterations and one evaluation here: seconds of each, and peak memory in bytes. Keeps nothing."""
    keep_freed_memory()
    world = World(pick_device(config.device))
    model = GPT(config, len(rows.vocabulary)).to(world.device)
    state = TrainState(model, make_optimizers(model, config, world))
    forward = torch.compile(model) if config.compile else model
    feed = Feed(rows, config, world)
    seconds: list[float] = []
    started = time.perf_counter()
    while len(seconds) < 4 or time.perf_counter() - started < PROBE_SECONDS:
        before = state.train_seconds
        train_step(state, forward, feed, config, world, False)
        seconds.append(state.train_seconds - before)
    started = time.perf_counter()
    evaluate(model, open_split(config, dataset, "val", world), world)
    evaluation = time.perf_counter() - started
    return {"iteration": statistics.median(seconds[1:]), "evaluation": evaluation, "memory": peak_memory(world.device)}


def peak_memory(device: torch.device) -> float:
    """Return the bytes at most in use, of the GPU or of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def gpu_memory(config: Config, dataset: Dataset, rows: Rows) -> dict[str, int]:
    """Return bytes of the GPU: `total`, of the `context` that every process has there, of a run's tensors at `peak`.

    The probe needs the GPU to itself, as what other processes take would be counted as context.
    """
    probe(config, dataset, rows)
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()
    return {"total": total, "context": context, "peak": torch.cuda.max_memory_reserved()}

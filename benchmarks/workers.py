"""What a second worker brings: `python -m benchmarks.workers [repetitions] [key=value ...]`.

Trains configs/calculator.yaml under Ray Train, on one worker and on two by turns, of one core and one thread each, and
prints the lines a second of each and their ratio. The clock runs from a group's first logged row to its last before
the evaluation at the end: starting is left out, and all that Ray does between iterations is in. Nothing is asserted.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"

import ray

from benchmarks.trainees import machine
from popgpt.cluster.group import train_on_workers
from popgpt.cluster.session import ENVIRONMENT, connected
from popgpt.config import Config, load_config
from popgpt.data.dataset import ensure_dataset
from popgpt.metrics.row import Row
from popgpt.terminal.program import run

CONFIG = Path(__file__).parent.parent / "configs" / "calculator.yaml"
REPETITIONS = 5
WORKERS = (1, 2)
TRAINING = ("max_iters=111", "eval_interval=111", "log_interval=10", "device=cpu", "mlflow_log=false")


def lines_per_second(config: Config) -> tuple[float, float]:
    """Lines a second of one group: by the driver's clock, and by the first worker's clock inside train_step."""
    arrived: list[tuple[float, Row]] = []
    train_on_workers(config, {"CPU": 1}, lambda row: arrived.append((time.perf_counter(), row)), lambda: False)
    (begun, first), (ended, last) = arrived[0], arrived[-2]  # the last row waited for the evaluation
    lines = last["lines"] - first["lines"]
    return lines / (ended - begun), lines / (last["train_seconds"] - first["train_seconds"])


def spread(values: Sequence[float]) -> str:
    return f"{median(values):,.2f} ({min(values):,.2f} to {max(values):,.2f}, n={len(values)})"


@contextmanager
def own_ray(cores: int) -> Iterator[None]:
    """A Ray of this process's own with a core for each worker, whatever else there is to join."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.CRITICAL}
    ray.init(address="local", num_cpus=cores, **options)
    try:
        yield
    finally:
        ray.shutdown()


def main(words: list[str]) -> None:
    repetitions = int(words.pop(0)) if words and words[0].isdigit() else REPETITIONS
    rates: dict[int, list[tuple[float, float]]] = {workers: [] for workers in WORKERS}
    with tempfile.TemporaryDirectory() as folder, connected():
        base = load_config(CONFIG, [*TRAINING, *words, f"data_dir={folder}/data"])
        ensure_dataset(base)
        print(f"before: {machine()}", flush=True)
        for repetition in range(repetitions):
            for workers in WORKERS:
                out_dir = f"{folder}/{repetition}-{workers}"
                config = base.model_copy(update={"workers": workers, "out_dir": out_dir})
                rates[workers].append(lines_per_second(config))
                print(f"{workers} workers: {rates[workers][-1][0]:,.0f} lines/s, {machine()}", flush=True)
    for clock, name in enumerate(("from row to row", "inside train_step")):
        by_workers = [[rate[clock] for rate in rates[workers]] for workers in WORKERS]
        for workers, values in zip(WORKERS, by_workers, strict=True):
            print(f"{name}, {workers} workers: {spread(values)} lines/s")
        fastest = max(by_workers[1]) / max(by_workers[0])
        ratios = spread([two / one for one, two in zip(*by_workers, strict=True)])
        print(f"{name}, ratio of neighbours: {ratios}; of the fastest of each: {fastest:.2f}")


if __name__ == "__main__":
    run(lambda _: main(sys.argv[1:]))

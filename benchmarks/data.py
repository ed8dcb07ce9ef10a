"""Figures of the data path: `python -m benchmarks.data [generate | batch | fill | large]`, all of them by default.

Each prints the median and the range of its repetitions beside its bar, and the exit code is 1 where one is missed.
`large` builds 20 million lines in a temporary folder (about 700 MB while it builds).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from popgpt.config import Config, make_config
from popgpt.data.batches import Rows, make_rows
from popgpt.data.dataset import Dataset, build_dataset, dataset_path, open_dataset, plan_dataset
from popgpt.tasks.calculator import Calculator
from popgpt.terminal.program import run

MODES = {
    "lines isolated": {},
    "lines in sight": {"isolate_lines": False},
    "windows, lines isolated": {"align_to_lines": False},
    "windows": {"align_to_lines": False, "isolate_lines": False},
}
LARGE = 20_000_000


def show(what: str, values: Sequence[float], unit: str, bar: float, *, at_least: bool = False) -> bool:
    """Print a figure beside its bar; whether it holds."""
    middle = median(values)
    holds = middle >= bar if at_least else middle <= bar
    spread = f"{middle:,.3f} {unit} ({min(values):,.3f} to {max(values):,.3f}, n={len(values)})"
    print(
        f"{'ok  ' if holds else 'MISS'} {what:<52} {spread:<56} bar {'>=' if at_least else '<='} {bar:,g}", flush=True
    )
    return holds


def timed(call: Callable[[], Any], repetitions: int) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return seconds


def rows_of(config: Config, dataset: Dataset, **mode: bool) -> Rows:
    return make_rows(config.model_copy(update=mode), dataset, "train", config.seed)


def built(folder: str, **options: Any) -> tuple[Config, Dataset]:
    config = make_config({"data_dir": folder, **options})
    build_dataset(dataset_path(config), *plan_dataset(config))
    return config, open_dataset(dataset_path(config))


def generate() -> bool:
    """Lines a second and core, text included."""
    count = 500_000
    source = Calculator().source(2 * count, 1)
    rates = [count / seconds / 1e6 for seconds in timed(lambda: source.text(np.arange(count)), 9)]
    return show("default lines generated", rates, "million/s", 1, at_least=True)


def batch() -> bool:
    """Milliseconds of a batch of 128 rows of 64, over 1000 batches that follow one another."""
    holds = []
    with tempfile.TemporaryDirectory() as folder:
        config, dataset = built(folder)
        for name, mode in MODES.items():
            rows = rows_of(config, dataset, **mode)
            numbers = iter(range(1000))
            milliseconds = [1e3 * s for s in timed(lambda: rows.at(128 * next(numbers) + np.arange(128)), 1000)]  # noqa: B023
            holds.append(show(f"batch of 128 x 64, {name}", milliseconds, "ms", 0.5))
            holds.append(show(f"  its mean: {name}", [float(np.mean(milliseconds))], "ms", 1))
    return all(holds)


def fill() -> bool:
    """Real tokens' share of the positions, over an epoch."""
    holds = []
    with tempfile.TemporaryDirectory() as folder:
        for operations in ("+-", "+-*/"):
            config, dataset = built(folder, task={"operations": operations}, dataset=f"calculator{len(operations)}")
            for name, mode in MODES.items():
                rows = rows_of(config, dataset, **mode)
                batches = [rows.at(np.arange(at, at + 128)) for at in range(0, rows.rows_per_epoch - 128, 128)]
                shares = [100 * float((b.segments >= 0).mean()) for b in batches]
                holds.append(show(f"real tokens, {operations}, {name}", shares, "%", 95, at_least=True))
    return all(holds)


def large() -> bool:
    """Building, opening and reading 20 million lines, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        figures = [child("build", folder), child("read", folder)]
    build_seconds, build_peak = figures[0]
    open_ms, growth, peak, batch_ms, rows_ms = figures[1]
    return all(
        [
            show(f"building {LARGE:,} lines", [build_seconds], "s", 60),
            show("  its peak of resident memory", [build_peak], "MB", 2048),
            show("opening them", [open_ms], "ms", 50),
            show("  laying out an epoch's rows", [rows_ms], "ms", 1000),
            show("  growth of memory over 1000 batches", [growth], "MB", 100),
            show("  its peak, with numpy and Arrow", [peak], "MB", 400),
            show("  mean of a batch of 128 x 64", [batch_ms], "ms", 1),
        ]
    )


def child(part: str, folder: str) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.data", part, folder]
    return [float(word) for word in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]


def large_config(folder: str) -> Config:
    return make_config({"data_dir": folder, "task": {"integer_digits": 4}, "train_lines": LARGE})


def memory(field: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM at most."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


def build(folder: str) -> None:
    config = large_config(folder)
    print(*timed(lambda: build_dataset(dataset_path(config), *plan_dataset(config)), 1), memory("VmHWM"))


def read(folder: str) -> None:
    import pyarrow  # noqa: F401  what is timed is the dataset, not the library

    config = large_config(folder)
    opened = 1e3 * median(timed(lambda: open_dataset(dataset_path(config)).split("train"), 9))
    dataset = open_dataset(dataset_path(config))
    begun = time.perf_counter()
    rows = rows_of(config, dataset)
    laid_out = 1e3 * (time.perf_counter() - begun)
    rows.at(np.arange(128))
    before = memory("VmRSS")
    iterations = iter(range(1000))
    seconds = timed(lambda: rows.at(128 * next(iterations) + np.arange(128)), 1000)
    print(opened, memory("VmRSS") - before, memory("VmHWM"), 1e3 * float(np.mean(seconds)), laid_out)


def main(words: list[str]) -> int:
    if words[:1] in (["build"], ["read"]):
        {"build": build, "read": read}[words[0]](words[1])
        return 0
    parts = {"generate": generate, "batch": batch, "fill": fill, "large": large}
    holds = [parts[word]() for word in words or parts]
    return 0 if all(holds) else 1


if __name__ == "__main__":
    run(lambda _: main(sys.argv[1:]))

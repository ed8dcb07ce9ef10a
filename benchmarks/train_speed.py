"""How fast a training step is: `python -m benchmarks.train_speed [--device cuda] [--sizes 2x128 ...] [key=value ...]`.

Each size's models train by turns, a step or a few each, in one run: popgpt with either optimizer, with dropout, in each
dtype that this machine multiplies at least as fast as float32; and beside it popgpt on contiguous windows of text as
nanoGPT trains, and GPT-2 of transformers, one padded line a row and its loss on answers only. A size is LAYERSxWIDTH.
On a CPU one thread computes and its processor time counts, on a GPU the wall's with nothing left to do there.

Prints a table for each size: milliseconds a step; lines, learned targets and tokens a second; and the share of what a
plain matrix product reaches here in that dtype, measured in between at the shapes of the model's widest product, by
the multiplications of the model's forward and backward pass alone, all T x T scores of attention among them. A step's
parts are timed in steps of their own: rows, forward and backward, optimizer; dropout is the difference to a step
without. `other` is what a whole step takes beyond its forward, backward and optimizer. Nothing is asserted.

On a GPU the number of times an iteration waits for it, and the kernels that take longest, are printed too.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.trainees import INSTALL, PLAIN_ADAMW, WINDOWS, Started, begin_gpt2, begin_popgpt, machine, spread
from popgpt.config import Config, load_config
from popgpt.data.batches import make_rows
from popgpt.data.dataset import Dataset, ensure_dataset
from popgpt.lines.text import split_line
from popgpt.terminal.program import run, tell
from popgpt.training.loop import accumulate_gradients
from popgpt.training.memory import keep_freed_memory
from popgpt.training.world import pick_device

CONFIG = Path(__file__).parent.parent / "configs" / "calculator.yaml"
SIZES = {"cpu": ["2x128", "6x384"], "cuda": ["2x128", "6x384", "12x768"]}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DROPOUT = 0.05
DROPPING = f"Muon, dropout {DROPOUT}"
KINDS = {"Muon": [], "AdamW": ["optimizer=adamw"], DROPPING: [f"dropout={DROPOUT}"]}
WARM_UP = 2
STEPS = {"cpu": 1, "cuda": 10}  # timed at once: a GPU is waited for after them
SQUARE = 8192  # of a GPU's product: large ones reach most
KERNELS = 25


class Clock(NamedTuple):
    """The device whose work is timed."""

    device: torch.device

    def seconds(self, work: Callable[[], Any]) -> float:
        """Return the seconds of some work: the processor's on a CPU, else the wall's until the GPU is done."""
        if self.device.type == "cpu":
            started = time.process_time()
            work()
            return time.process_time() - started
        torch.cuda.synchronize(self.device)
        started = time.perf_counter()
        work()
        torch.cuda.synchronize(self.device)
        return time.perf_counter() - started

    def product(self, dtype: torch.dtype, rows: int, width: int) -> float:
        """Return the operations a second of a product [rows, width] x [width, 4 width], or of a GPU's best."""
        shapes = [(rows, width, 4 * width)]
        if self.device.type == "cuda":
            shapes.append((SQUARE, SQUARE, SQUARE))
        return max(self._product(dtype, *shape) for shape in shapes)

    def _product(self, dtype: torch.dtype, m: int, k: int, n: int) -> float:
        a, b = torch.randn(m, k, device=self.device).to(dtype), torch.randn(k, n, device=self.device).to(dtype)
        times = 5
        self.seconds(lambda: a @ b)
        return 2 * m * k * n * times / self.seconds(lambda: [a @ b for _ in range(times)])


class Contender:
    """A model in training, and what its steps took."""

    def __init__(self, name: str, config: Config, step: Callable[[], int], started: Started | None = None) -> None:
        self.name, self.config, self.step, self.started = name, config, step, started
        self.seconds: list[float] = []  # of a step
        self.parts: list[dict[str, float]] = []
        self.lines = self.steps = 0
        self.memory = 0.0  # bytes on a GPU, beyond what lies there between its steps

    def measure(self, clock: Clock, times: int) -> None:
        """Take some steps, and one more by its parts."""
        if on_gpu := clock.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        self.seconds.append(clock.seconds(lambda: self._take(times)) / times)
        if on_gpu:
            self.memory = max(self.memory, torch.cuda.max_memory_allocated() - before)
        if self.started:
            self.parts.append(self._parts(self.started, clock, times))

    def _take(self, times: int) -> None:
        for _ in range(times):
            self.lines += self.step()
            self.steps += 1

    def _parts(self, started: Started, clock: Clock, times: int) -> dict[str, float]:
        """Return the seconds of a step's parts, each waited for by itself."""
        state, forward, feed, world = started
        waited = clock.seconds(lambda: [list(feed.at(state.iteration + number)) for number in range(times)]) / times
        held = list(feed.at(state.iteration))

        def gradients() -> None:
            for _ in range(times):
                accumulate_gradients(forward, held, self.config, world.device)

        computed = clock.seconds(gradients) / times
        stepped = clock.seconds(lambda: [each.step() for _ in range(times) for each in state.optimizers]) / times
        for each in state.optimizers:
            each.zero_grad()
        return {"rows": waited, "forward and backward": computed, "optimizer": stepped}


def contenders(words: Sequence[str], size: str, dtypes: Sequence[str], device: str) -> list[Contender]:
    """Return the models of a size in training, with the peers last."""
    layers, width = size.split("x")
    given = [*words, f"n_layer={layers}", f"d_model={width}", f"device={device}"]
    dataset = ensure_dataset(load_config(CONFIG, given))
    found = []
    for dtype in dtypes:
        for name, own in KINDS.items():
            config = load_config(CONFIG, [*given, *own, f"dtype={dtype}"])
            found.append(popgpt(f"popgpt, {name}, {dtype}", config, dataset))
        config = load_config(CONFIG, [*given, *PLAIN_ADAMW, *WINDOWS, f"dtype={dtype}"])
        found.append(Contender(f"contiguous windows, AdamW, {dtype}", config, begin_popgpt(config, dataset).step))
    if not find_spec("transformers"):
        tell(INSTALL)
        return found
    rows = make_rows(found[0].config, dataset, "train", 1)
    lines, _ = rows.counts(rows.at(np.arange(found[0].config.rows_per_iteration)))
    for dtype in dtypes:
        alone = [f"batch_size={lines}", "gradient_accumulation_steps=1", "learning_rate=0.001", f"dtype={dtype}"]
        config = load_config(CONFIG, [*given, *PLAIN_ADAMW, *alone])
        found.append(Contender(f"GPT-2, AdamW, {dtype}", config, begin_gpt2(config, dataset).step))
    return found


def popgpt(name: str, config: Config, dataset: Dataset) -> Contender:
    started = Started.of(config, dataset)
    return Contender(name, config, lambda: started.step(config), started)


def operations(config: Config) -> float:
    """Return how many operations the products of a step's forward and backward pass take, but for the embeddings'."""
    positions, D = config.rows_per_iteration * config.block_size, config.d_model
    weights = 12 * config.n_layer * D * D  # the head of a few characters is left out
    return 6.0 * positions * (weights + 2 * config.n_layer * D * config.block_size)


def per_line(dataset: Dataset) -> tuple[float, float]:
    """Return how many characters a line has, newline included, and how many of them are learned behind a prompt."""
    lines = dataset.split("train").lines(0, 10_000)
    whole = sum(len(line) + 1 for line in lines) / len(lines)
    answers = sum(len(split_line(line, dataset.meta.separator)[1]) + 1 for line in lines) / len(lines)
    return whole, answers


def result(contender: Contender, products: dict[str, list[float]], dataset: Dataset) -> dict[str, Any]:
    """Return what is told of a contender: its figures by name, seconds and rates by the median step."""
    config, middle = contender.config, median(contender.seconds)
    characters, answers = per_line(dataset)
    lines = contender.lines / contender.steps / middle
    found: dict[str, Any] = {"name": contender.name, "seconds": contender.seconds, "memory": contender.memory}
    found["lines_per_second"] = lines
    found["targets_per_second"] = lines * (characters if config.mask_before_token is None else answers)
    found["tokens_per_second"] = lines * characters
    if contender.started:
        found["share_of_product"] = operations(config) / middle / median(products[config.dtype])
        parts = {name: median(each[name] for each in contender.parts) for name in contender.parts[0]}
        parts["other"] = middle - parts["forward and backward"] - parts["optimizer"]
        found["parts"] = parts
    return found


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the results of a size as Markdown; ratios of lines and targets are to the first."""
    rows = [
        "| trained | ms a step | lines/s | learned targets/s | tokens/s | of the product | rows, ms | forward and "
        "backward | optimizer | other | MB |",
        "| --- |" + " --- |" * 10,
    ]
    for each in results:
        cells = [each["name"], spread([1000 * value for value in each["seconds"]], 1)]
        cells += [f"{each[rate]:,.0f}" for rate in ("lines_per_second", "targets_per_second", "tokens_per_second")]
        cells.append(f"{each['share_of_product']:.0%}" if "parts" in each else "")
        parts = each.get("parts", {})
        cells += [
            f"{1000 * parts[name]:.1f}" if parts else ""
            for name in ("rows", "forward and backward", "optimizer", "other")
        ]
        cells.append(f"{each['memory'] / 1e6:,.0f}" if each["memory"] else "")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def count_waits(step: Callable[[], Any]) -> int:
    """Return how often a step waits for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def kernels(step: Callable[[], Any], device: torch.device) -> str:
    """Return what takes longest in three steps, as a table."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        for _ in range(3):
            step()
    key = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return profiled.key_averages().table(sort_by=key, row_limit=KERNELS, max_name_column_width=60)


def measure(size: str, words: Sequence[str], dtypes: Sequence[str], clock: Clock, args: argparse.Namespace) -> Any:
    """Train a size's models by turns, print their table, and return what is in it."""
    models, times = contenders(words, size, dtypes, clock.device.type), STEPS[clock.device.type]
    dataset, config = ensure_dataset(models[0].config), models[0].config
    products: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
    for model in models:
        for _ in range(WARM_UP):
            model.step()
    for _ in range(args.rounds):
        for dtype, found in products.items():
            found.append(clock.product(DTYPES[dtype], config.rows_per_iteration * config.block_size, config.d_model))
        for model in models:
            model.measure(clock, times)
    tell("")
    tell(f"{size}, {config.rows_per_iteration} x {config.block_size} positions; {machine()}; median (range)")
    for dtype, found in products.items():
        tell(f"product in {dtype}: {spread([value / 1e9 for value in found], 0)} GFLOP/s")
    results = [result(model, products, dataset) for model in models]
    for row in table(results):
        tell(row)
    if clock.device.type == "cuda":
        for model in models:
            tell(f"{model.name} waits for the GPU {count_waits(model.step)} times a step")
    if args.kernels:
        for model in (model for model in models if model.name == f"popgpt, Muon, {dtypes[-1]}"):
            print(kernels(model.step, clock.device), flush=True)
    return {"products": products, "results": results}


def faster_dtypes(clock: Clock) -> list[str]:
    """Return the dtypes whose products are at least as fast here as float32's."""
    rates = {name: clock.product(dtype, 3072, 384) for name, dtype in DTYPES.items()}
    for name, rate in rates.items():
        if rate < rates["float32"]:
            tell(f"{name} is left out: its product reaches {rate / rates['float32']:.2f} of float32's here")
    return [name for name, rate in rates.items() if rate >= rates["float32"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value", help="replaces what configs/calculator.yaml says")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--sizes", nargs="+", metavar="LxD", help="layers and width; default 2x128 6x384, GPU 12x768")
    parser.add_argument("--dtypes", nargs="+", choices=[*DTYPES], help="default: those that are fast here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="where the figures are written")
    parser.add_argument("--kernels", action="store_true", help="print what takes longest inside popgpt's step")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    clock = Clock(pick_device(args.device))
    name = torch.cuda.get_device_name(clock.device) if args.device == "cuda" else "one thread"
    tell(f"{name}; {machine()}; torch {torch.__version__}")
    dtypes = args.dtypes or faster_dtypes(clock)
    found = {size: measure(size, args.words, dtypes, clock, args) for size in args.sizes or SIZES[clock.device.type]}
    tell(f"peak of this process's memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    if args.json:
        about = {"device": name, "machine": machine(), "torch": torch.__version__, "sizes": found}
        Path(args.json).write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    run(lambda _: main())

"""How soon a recipe calculates: `python -m benchmarks.time_to_exact_match [CONFIG] [--peers] [key=value ...]`.

Trains a recipe (configs/calculator_sums.yaml where no other is named) with several seeds, one thread each, and prints
the seconds, lines and iterations to 50, 90, 99 and 99.9% generated exact match on the test split, whose prompts
training never held: in all and by operation. The seconds are those of training steps, by the processor's clock and by
the wall's; evaluations, which come at growing distances, are left out. A score is reached at the first evaluation that
has it: training may have had it up to a tenth earlier, and a later evaluation may be below it.

With --peers, models of the same size learn the same dataset as plain lines, each for --seconds of the processor: popgpt
on contiguous windows of text as nanoGPT trains, and GPT-2 of transformers, one padded line a row and its loss on
answers only, at several learning rates. Their rates decay over that time. Nothing is asserted, and no run is kept.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.trainees import INSTALL, PLAIN_ADAMW, WINDOWS, Trainee, begin_gpt2, begin_popgpt, machine, spread
from popgpt.config import Config, load_config
from popgpt.data.batches import make_rows
from popgpt.data.dataset import Dataset, ensure_dataset
from popgpt.lines.text import split_line
from popgpt.terminal.program import run, tell
from popgpt.text.errors import UserError
from popgpt.training.evaluation import count_exact
from popgpt.training.memory import keep_freed_memory

CONFIG = Path(__file__).parent.parent / "configs" / "calculator_sums.yaml"
THRESHOLDS = (0.5, 0.9, 0.99, 0.999)
ALL = "all"
DENSE = 100  # up to this iteration evaluations are a tenth of it apart; later a tenth of the iterations so far
GPT2_RATES = (5e-4, 1e-3, 3e-3)
TIMED_STEPS = 10


class Recipe(NamedTuple):
    """What is trained, and for how many seconds of the processor at most."""

    name: str
    config: Config
    begin: Callable[[Config, Dataset], Trainee]
    seconds: float = math.inf


class Point(NamedTuple):
    """An evaluation: the cost of training so far, and exact match by operation, with `ALL` among them."""

    iterations: int
    lines: int
    processor: float
    wall: float
    exact: dict[str, float]


def evaluations(trainee: Trainee, lines: Sequence[str], dataset: Dataset, most: int, seconds: float) -> Iterator[Point]:
    """Train for `most` steps, or until `seconds` of the processor are spent, and yield each evaluation on `lines`."""
    iterations, read, processor, wall, due = 0, 0, 0.0, 0.0, DENSE // 10
    separator, symbols = dataset.meta.separator, dataset.meta.symbols
    while iterations < most and processor < seconds:
        before = time.process_time(), time.perf_counter()
        read += trainee.step()
        processor += time.process_time() - before[0]
        wall += time.perf_counter() - before[1]
        iterations += 1
        if iterations >= due or iterations == most or processor >= seconds:
            counts = count_exact(lines, trainee.right(lines), separator, symbols).tolist()
            exact = {kind: hits / n for kind, (hits, n) in zip((ALL, *symbols), counts, strict=True) if n}
            yield Point(iterations, read, processor, wall, exact)
            due = iterations + max(DENSE, iterations) // 10


def curve(recipe: Recipe, config: Config, dataset: Dataset) -> list[Point]:
    """Train a recipe with the seed of `config`, telling each evaluation. Returns them all."""
    trainee, lines, points = recipe.begin(config, dataset), dataset.split("test").lines(), []
    tell(f"{recipe.name}, seed {config.seed}: {trainee.parameters:,} parameters, {config.max_iters:,} iterations")
    for point in evaluations(trainee, lines, dataset, config.max_iters, recipe.seconds):
        points.append(point)
        cost = f"iteration {point.iterations:,}, {point.lines:,} lines, {point.processor:.1f} s of the processor"
        tell(f"  {cost}: " + ", ".join(f"{kind} {exact:.2%}" for kind, exact in point.exact.items()))
    return points


def peers(path: Path, words: Sequence[str], recipe: Config, dataset: Dataset, seconds: float) -> list[Recipe]:
    """Return the peers of a recipe, with as many iterations as `seconds` allow.

    In one of them GPT-2 reads as many lines as the recipe, and windows hold as many characters.
    """
    rows = make_rows(recipe, dataset, "train", recipe.seed)
    lines, _ = rows.counts(rows.at(np.arange(recipe.rows_per_iteration)))
    wanted = [("contiguous windows, AdamW 0.001", begin_popgpt, WINDOWS)]
    if find_spec("transformers"):
        for rate in GPT2_RATES:
            alone = [f"learning_rate={rate}", f"min_lr={rate / 10}"]
            alone += [f"batch_size={lines}", "gradient_accumulation_steps=1"]
            wanted.append((f"GPT-2, AdamW {rate:g}", begin_gpt2, alone))
    else:
        tell(INSTALL)
    found = []
    for name, begin, own in wanted:
        given = [*words, *PLAIN_ADAMW, *own]
        config = load_config(path, given)
        most = max(1, round(seconds / seconds_of_a_step(begin(config, dataset))))
        length = [f"max_iters={most}", f"lr_decay_iters={most}", f"warmup_iters={min(config.warmup_iters, most // 10)}"]
        found.append(Recipe(name, load_config(path, [*given, *length]), begin, seconds))
    return found


def seconds_of_a_step(trainee: Trainee) -> float:
    """Return the median of the processor's seconds of a few steps."""
    found = []
    for _ in range(TIMED_STEPS):
        before = time.process_time()
        trainee.step()
        found.append(time.process_time() - before)
    return median(found)


def first_reached(curves: Sequence[Sequence[Point]], kind: str, threshold: float) -> list[Point]:
    """Return the first point of each curve that reaches a threshold, of those that do."""
    reached = ([point for point in points if point.exact[kind] >= threshold] for points in curves)
    return [points[0] for points in reached if points]


def table(results: Sequence[tuple[Recipe, Sequence[Sequence[Point]]]]) -> list[str]:
    """Return what each recipe took to each threshold that some seed reached, and had in the end, as Markdown."""
    rows = [
        "| trained | operation | exact match | seeds | processor s | wall s | lines | iterations |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for recipe, curves in results:
        for kind in curves[0][0].exact:
            ends = [points[-1] for points in curves]
            reached = [(f"{100 * threshold:g}%", first_reached(curves, kind, threshold)) for threshold in THRESHOLDS]
            told = [(name, points) for name, points in reached if points]
            told.append((f"end: {spread([100 * point.exact[kind] for point in ends], 2)}%", ends))
            for what, points in told:
                costs = (
                    spread([point.processor for point in points], 1),
                    spread([point.wall for point in points], 1),
                    spread([point.lines for point in points], 0),
                    spread([point.iterations for point in points], 0),
                )
                rows.append(f"| {' | '.join((recipe.name, kind, what, f'{len(points)} of {len(curves)}', *costs))} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="[CONFIG] key=value", help="the recipe, and what replaces its own")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from the recipe's own on")
    parser.add_argument("--peers", action="store_true", help="train the peers too")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the processor, for each seed of a peer")
    args = parser.parse_intermixed_args()
    named = bool(args.words) and "=" not in args.words[0]
    path, words = (Path(args.words[0]), args.words[1:]) if named else (CONFIG, args.words)
    config = load_config(path, words)
    if args.seeds < 1 or args.seconds <= 0:
        raise UserError("--seeds and --seconds should be more than 0")
    torch.set_num_threads(1)
    keep_freed_memory()
    dataset = ensure_dataset(config)
    prompts = [split_line(line, dataset.meta.separator)[0] for line in dataset.split("test").lines()]
    if not prompts:
        raise UserError(f"{dataset.path} has no test lines to ask for")
    seen = np.count_nonzero(dataset.split("train").contains(prompts, config.task))
    tell(f"{len(prompts):,} test prompts, of which training holds {seen}")
    tell(f"before: {machine()}, torch {torch.__version__}")
    tell(f"popgpt: {' '.join((str(path), *words))}")
    recipes = [Recipe("popgpt", config, begin_popgpt)]
    if args.peers:
        recipes += peers(path, words, config, dataset, args.seconds)
    curves: list[list[list[Point]]] = [[] for _ in recipes]
    for seed in range(config.seed, config.seed + args.seeds):
        for recipe, found in zip(recipes, curves, strict=True):
            found.append(curve(recipe, recipe.config.model_copy(update={"seed": seed}), dataset))
    tell(f"after: {machine()}; median (range) of the seeds that reached it")
    for row in table(list(zip(recipes, curves, strict=True))):
        tell(row)


if __name__ == "__main__":
    run(lambda _: main())

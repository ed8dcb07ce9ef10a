"""What the driver of a sweep spends on an event: `python -m benchmarks.record [trials] [iterations]`.

The record, ASHA's decision and the line that is shown, for trials whose evaluations are made up, without Ray: the
processor time of an event early and late in the sweep, and of reading back and writing whole what was recorded.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from popgpt.sweep import asha, journal
from popgpt.sweep.draws import sample
from popgpt.sweep.events import Event, Paused, Reported, Started
from popgpt.sweep.progress import SweepProgress
from popgpt.sweep.record import Record
from popgpt.sweep.space import load_sweep
from popgpt.sweep.trials import ended
from popgpt.terminal.program import run

AT_ONCE = 4
EVERY = 50  # iterations from one evaluation to the next
LOGGED = 10  # iterations from one row to the next
PART = 10  # the first and the last tenth of the events are compared


def new_record(folder: Path, trials: int, iterations: int, **keys: Any) -> Record:
    """The record of a sweep without finalists."""
    (folder / "base.yaml").write_text(yaml.safe_dump({"max_iters": iterations, "eval_interval": EVERY}))
    space = {"learning_rate": {"loguniform": [1e-4, 1e-1]}, "n_layer": {"randint": [1, 8]}}
    rule = {"grace_period": max(1, iterations // 27), "reduction_factor": 3}
    file = {"config": "base.yaml", "num_samples": trials, "space": space, "asha": rule, "finalists": 0, **keys}
    (folder / "space.yaml").write_text(yaml.safe_dump(file, sort_keys=False))
    sweep = load_sweep(folder / "space.yaml")
    return Record(sweep, sample(sweep))


def made_up(iteration: int, chance: random.Random) -> dict[str, Any]:
    """A row with what one of a run has."""
    row: dict[str, Any] = {name: chance.random() for name in ("train_loss", "learning_rate", "gradient_norm")}
    row |= {
        "iteration": iteration,
        "lines": 256 * iteration,
        "tokens": 8192 * iteration,
        "train_seconds": chance.random(),
    }
    if iteration % EVERY == 0:
        names = ("exact_match", "exact_match_low", "exact_match_high", "token_accuracy", "val_loss")
        row |= {name: chance.random() for name in names} | {"exact_match_n": 2000}
        row["by_operation"] = {"+": {"exact_match": chance.random(), "n": 1000, "low": 0.0, "high": 1.0}}
    return row


def drive(record: Record, out_dir: Path, shown: Callable[[str, Event], None], seed: int = 0) -> Iterator[str]:
    """Run a sweep's trials on paper, some by turns, as `runner.Runner` does. Yields after each event."""
    chance, scheduler = random.Random(seed), asha.scheduler(record.sweep)
    record.asha = scheduler.state() if scheduler else None
    record.write(out_dir)
    idle, running = list(record.trials), dict[str, int]()

    def tell(name: str, event: Event) -> str:
        record.apply(name, event)
        rows = event.rows if isinstance(event, Reported) else ()
        record.append(out_dir, name, rows, scheduler.changes() if scheduler else {})
        shown(name, event)
        return name

    while idle or running:
        while len(running) < AT_ONCE:
            chosen = scheduler.next(idle, bool(running)) if scheduler else next(iter(idle), None)
            if chosen is None:
                break
            idle.remove(chosen)
            if scheduler:
                scheduler.add(chosen)
            running[chosen] = record.trials[chosen].iterations
            yield tell(chosen, Started())
        if not running:  # what is held has ended
            for name in idle:
                yield tell(name, ended(name, scheduler))
            return
        for name, done in list(running.items()):
            rows = [made_up(at, chance) for at in range(done + LOGGED, done + EVERY + 1, LOGGED)]
            running[name] = done + EVERY
            goes_on = scheduler.judge(name, rows[-1]) if scheduler else running[name] < record.sweep.max_t
            yield tell(name, Reported(rows))
            if not goes_on:
                del running[name]
                held = scheduler is not None and scheduler.holds(name)
                idle += [name] if held else []
                yield tell(name, Paused() if held else ended(name, scheduler))


def main() -> None:
    trials, iterations = (int(word) for word in (*sys.argv[1:], 200, 1000)[:2])
    with tempfile.TemporaryDirectory() as scratch, open(os.devnull, "w") as nowhere:
        out_dir = Path(scratch)
        record = new_record(out_dir, trials, iterations, asha=None)
        seconds = []
        before = time.process_time()
        for _ in drive(record, out_dir, SweepProgress(record, Console(file=nowhere))):
            now = time.process_time()
            seconds.append(now - before)
            before = now
        part = max(1, len(seconds) // PART)
        for name, some in (("first", seconds[:part]), ("last", seconds[-part:])):
            middle, most = 1000 * statistics.median(some), 1000 * max(some)
            print(f"the {name} {part} of {len(seconds)} events: median {middle:.3f} ms, at most {most:.1f} ms")
        print(f"all: {sum(seconds):.1f} s")
        for name, act in (("read", lambda: journal.read(out_dir)), ("written whole", lambda: record.write(out_dir))):
            before = time.process_time()
            act()
            print(f"{name}: {time.process_time() - before:.1f} s")


if __name__ == "__main__":
    run(lambda _: main())

"""What `popgpt.tune` prints at the end of a sweep."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from popgpt import tracking
from popgpt.data.dataset import Dataset
from popgpt.metrics.row import Row
from popgpt.sweep import journal, ranking, tables
from popgpt.sweep.events import Status
from popgpt.sweep.record import Record
from popgpt.sweep.report.files import HTML
from popgpt.terminal import program
from popgpt.terminal.progress import describe_exact_match

LINES_BELOW = 14  # printed under the table of the trials, at most


def print_result(record: Record, out_dir: Path, winner: Row | None, seconds: float, prompt: str) -> None:
    """Print the ranked trials, the winner, where it is, and how to look further. prompt: what to ask it."""
    print_trials(record, out_dir)
    total = sum(run.iterations for run in record.runs.values())
    print(f"\n{len(record.runs)} trials, {total:,} iterations, {seconds:.0f} s")
    if record.unfinished():
        print(f"{len(record.unfinished())} trials are not finished; go on with the same command and --resume")
    if failed := sum(run.status == Status.FAILED for run in record.runs.values()):
        words = "1 trial failed; run it" if failed == 1 else f"{failed} trials failed; run them"
        print(f"{words} again with the same command and --resume --retry-failed")
    if winner:
        print_winner(record, out_dir / "best", winner, prompt)
    if (out_dir / HTML).exists():
        program.tell(f"report: {out_dir / HTML}")
    program.tell(f"compare the runs: {tracking.ui_command()}")


def print_trials(record: Record, out_dir: Path) -> None:
    """Print the ranked trials and the finalists; on a terminal as many as have room, and why some failed."""
    console, metric = Console(highlight=False), record.sweep.metric
    ranked = ranking.ranked(record.trials.values(), metric)
    if console.is_terminal:
        console.print(*tables.cropped(ranked, metric, console, max(10, console.height - LINES_BELOW)), sep="\n")
        if len(ranked) > console.height - LINES_BELOW:
            program.tell(f"all trials: {out_dir / journal.FILE}")
        for line in tables.describe_failures(record.runs.values(), console.width):
            print(line)
    else:
        console = Console(highlight=False, width=200)
        console.print(tables.table(ranked, metric))
    if record.finalists:
        by_mean = " by their mean" if record.sweep.finalist_seeds else ""
        print(f"\nfinalists,{by_mean} on the validation split")
        console.print(tables.finalists_table(record.results(), metric))


def print_winner(record: Record, best: Path, winner: Row, prompt: str) -> None:
    """Print the result, how the winner was chosen, and what to do with it."""
    print(f"winner: trial {winner['id']}, on the test split: {describe_exact_match(winner['test'])}")
    seeds = 1 + record.sweep.finalist_seeds
    means = "" if not record.finalists else f" by the mean of {seeds} seeds" if seeds > 1 else " among the finalists"
    own = f"; this is the run of seed {winner['seed']}, the trial's own" if record.finalists else ""
    print(f"  chosen on the validation split{means}, scored once on the test split{own}")
    program.tell(f"checkpoint: {best / 'ckpt.pt'}")
    program.tell(f"train it again: python -m popgpt.train {shlex.quote(str(best / 'config.yaml'))} out_dir=out/again")
    program.tell(f"ask it: python -m popgpt.sample {shlex.quote(str(best))} {shlex.quote(prompt)}")


def example_prompt(dataset: Dataset, block_size: int) -> str:
    """Return a prompt of the validation split, with its separator: of a line that fits `block_size` if one does."""
    lines = dataset.split("val").lines(0, 100)
    fits = next((line for line in lines if len(line) <= block_size), lines[0])
    return "".join(fits.partition(dataset.meta.separator)[:2])

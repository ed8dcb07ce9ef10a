"""What a person sees while a run trains or a sweep goes on: live on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import IO, Any, TypeVar, cast

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from popgpt.config import Config
from popgpt.metrics.row import Row
from popgpt.terminal import program

T = TypeVar("T")
PATIENCE = 2.0  # seconds after which a wait is said
STOPPING_LINE = b"stopping after this iteration; Ctrl-C again to stop at once\n"


class Unbreakable:
    """A stream that takes no more once it has failed: nobody reads it, or its disk is full."""

    def __init__(self, stream: IO[str]):
        self._stream = stream
        self._failed = False

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        if not self._failed:
            try:
                action()
            except (OSError, ValueError):  # ValueError: it is closed
                self._failed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def unbreakable(console: Console) -> Console:
    """Make a console ignore errors of its stream: showing progress must not end what it shows."""
    if not isinstance(console.file, Unbreakable):
        console.file = cast(IO[str], Unbreakable(console.file))
    return console


@contextmanager
def waiting(what: str, after: float = PATIENCE) -> Iterator[None]:
    """Say on stderr what is waited for, once, if it takes longer than `after` seconds."""
    ended = threading.Event()

    def tell() -> None:
        if not ended.wait(after):
            program.say(f"{what} ...")

    teller = threading.Thread(target=tell, name="waiting", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def waiting_for(what: str, context: AbstractContextManager[T], after: float = PATIENCE) -> Iterator[T]:
    """Enter `context` under `waiting`, and yield what it yields."""
    with ExitStack() as stack:
        with waiting(what, after):
            entered = stack.enter_context(context)
        yield entered


class TrainingProgress:
    """Shows logged rows of a run as they come. Use as a context, and call with each row."""

    def __init__(self, config: Config, console: Console | None = None):
        self._config = config
        self._console = unbreakable(console or Console(stderr=True))
        self._rate = Rate(config.max_iters)
        self._scores = ""
        self._bar = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=config.max_iters, text="starting")

    def __enter__(self) -> TrainingProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *ending: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, row: Row) -> None:
        lines_per_second, seconds_left = self._rate.update(row)
        if "exact_match" in row:
            self._scores = f"  exact match {row['exact_match']:.1%}"
        text = f"loss {row['train_loss']:.4f}{self._scores}  {lines_per_second:,.0f} lines/s"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=row["iteration"], text=text)
            if "exact_match" in row:
                self._bar.console.print(f"iteration {row['iteration']}: {describe_scores(row)}", highlight=False)
            return
        scores = f"  {describe_scores(row)}" if "exact_match" in row else ""
        left = f"{int(seconds_left) // 60}:{int(seconds_left) % 60:02d}"
        line = (
            f"iteration {row['iteration']}/{self._config.max_iters}  loss {row['train_loss']:.4f}  "
            f"lr {row['learning_rate']:.2e}{scores}  {lines_per_second:,.0f} lines/s  {left} left"
        )
        self._console.print(line, highlight=False, soft_wrap=True)


class CertificationProgress:
    """Shows how many prompts are asked and answered wrong. Use as a context, and call with the numbers."""

    def __init__(self, console: Console | None = None, every: float = 30.0):
        """every: seconds between two lines, where there is no terminal."""
        self._console = unbreakable(console or Console(stderr=True))
        self._every = every
        self._asked, self._wrong, self._total = 0, 0, 0
        self._begun: tuple[float, int] | None = None
        self._shown = time.monotonic()
        self._live = Live(console=self._console, transient=True, refresh_per_second=2, get_renderable=self.describe)

    def __enter__(self) -> CertificationProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *ending: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, asked: int, wrong: int, total: int) -> None:
        """Take how many prompts are asked, how many of them are answered wrong, and how many there are."""
        now = time.monotonic()
        self._asked, self._wrong, self._total = asked, wrong, total
        self._begun = self._begun or (now, asked)
        if not self._console.is_terminal and now - self._shown >= self._every:
            self._shown = now
            self._console.print(self.describe(), highlight=False, soft_wrap=True)

    def describe(self) -> str:
        """Return how far it is, how fast it goes and what time is left, in one line."""
        if self._begun is None:
            return "opening the run"
        (begun, before), done = self._begun, f"{self._asked:,} of {self._total:,} prompts, {self._wrong:,} wrong"
        rate = (self._asked - before) / max(time.monotonic() - begun, 1e-9)
        if not rate:
            return done
        return f"{done}, {rate:,.0f} prompts/s, {timedelta(seconds=round((self._total - self._asked) / rate))} left"


class Rate:
    """Lines per second of training since the row before, and the wall time that is left."""

    def __init__(self, max_iters: int):
        self._max_iters = max_iters
        self._first: tuple[int, float] | None = None
        self._before: Row | None = None

    def update(self, row: Row) -> tuple[float, float]:
        now = time.monotonic()
        if self._first is None:
            self._first = (row["iteration"] - 1, now - row["train_seconds"] / max(1, row["iteration"]))
        before = self._before or {"lines": 0, "train_seconds": 0.0}
        self._before = row
        seconds = row["train_seconds"] - before["train_seconds"]
        done, started = self._first
        per_iteration = (now - started) / max(1, row["iteration"] - done)
        lines_per_second = (row["lines"] - before["lines"]) / seconds if seconds > 0 else 0.0
        return lines_per_second, per_iteration * (self._max_iters - row["iteration"])


def describe_exact_match(scores: Row) -> str:
    """Return exact match with its 95% interval, in words."""
    if not scores["exact_match_n"]:
        return "exact match of no lines"
    low, high = scores["exact_match_low"], scores["exact_match_high"]
    return f"exact match {scores['exact_match']:.2%} [{low:.2%}, {high:.2%}] of {scores['exact_match_n']:,} lines"


def describe_scores(scores: Row) -> str:
    """Return exact match with its interval, loss and token accuracy, in one line."""
    others = f"val loss {scores['val_loss']:.4f}  token accuracy {scores['token_accuracy']:.2%}"
    return f"{describe_exact_match(scores)}  {others}"


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Yields `should_stop`: true after the first Ctrl-C or SIGTERM. The second one interrupts at once."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        with contextlib.suppress(AttributeError, OSError, ValueError):  # there is no stderr, it is broken, it is closed
            os.write(sys.stderr.fileno(), STOPPING_LINE)  # not printed: this may have come in the midst of a print

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""What a person sees while a sweep goes on: live on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from popgpt.sweep.events import Event, Reported, Started
from popgpt.sweep.ranking import ranked
from popgpt.sweep.record import Record
from popgpt.sweep.tables import cropped, value
from popgpt.terminal.progress import PATIENCE, describe_exact_match, unbreakable, waiting
from popgpt.text.printable import line


class SweepProgress:
    """Shows a sweep as it goes: one live table on a terminal, a line for each event elsewhere. Use as a context."""

    def __init__(self, record: Record, console: Console | None = None, patience: float = PATIENCE):
        self._patience = patience
        self._record = record
        self._console = unbreakable(console or Console(stderr=True))
        self._begun = time.perf_counter(), self._iterations_done()
        self._first = ExitStack()
        self._live = Live(console=self._console, transient=True, refresh_per_second=2, get_renderable=self._picture)

    def __enter__(self) -> SweepProgress:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._first.enter_context(waiting("starting the first trials", self._patience))
        return self

    def __exit__(self, *ending: object) -> None:
        self._first.close()
        if self._console.is_terminal:
            self._live.stop()

    def _iterations_done(self) -> int:
        return sum(trial.iterations for trial in self._record.runs.values())

    def _picture(self) -> RenderableType:
        """As many trials as there is room for, and under them, always, what is spent and left."""
        metric, text = self._record.sweep.metric, Text(self._summary())
        height = self._console.height - len(self._console.render_lines(text, pad=False))
        return Group(*cropped(ranked(self._record.runs.values(), metric), metric, self._console, height), text)

    def _summary(self) -> str:
        begun, before = self._begun
        runs, done, unfinished = self._record.runs, self._iterations_done(), self._record.unfinished()
        left = sum(max(0, self._record.sweep.max_t - runs[name].iterations) for name in unfinished)
        ended = f"{len(runs) - len(unfinished)} of {len(runs)} trials ended"
        budget = describe_budget(done, left, done - before, time.perf_counter() - begun)
        return f"{ended}, {budget}" if done > before or not unfinished else f"starting the first trials; {budget}"

    def __call__(self, name: str, event: Event) -> None:
        """Show an event of a trial, which the record has applied."""
        if self._console.is_terminal:
            return  # the picture is drawn anew by itself
        trial = self._record.runs[name]
        if not isinstance(event, Started):
            self._first.close()
        if isinstance(event, Started):
            text = "  ".join(f"{key}={value(given, 6)}" for key, given in trial.config.items())
        elif isinstance(event, Reported):
            row = trial.metrics[-1]
            text = f"iteration {row['iteration']}  loss {row['train_loss']:.4f}  {describe_exact_match(row)}"
        else:
            text = trial.described_status
        self._console.print(line(f"trial {name}  {text}"), highlight=False, markup=False, soft_wrap=True)


def describe_budget(done: int, left: int, lately: int, seconds: float) -> str:
    """What a sweep has spent and may yet spend: `left` iterations if nothing is stopped, of which `lately` took
    `seconds`.
    """
    spent = f"{done:,} iterations done, at most {left:,} left"
    time_left = f", at most {timedelta(seconds=round(left * seconds / lately))} left" if lately else ""
    return f"{spent}; {timedelta(seconds=round(seconds))} so far{time_left}"

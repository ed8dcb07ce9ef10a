"""What a person sees while a sweep goes on: live on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from popgpt.metrics.row import Row
from popgpt.sweep.record import Record
from popgpt.sweep.tables import Standing, cropped, in_order, standing, value
from popgpt.terminal.progress import PATIENCE, describe_exact_match, unbreakable, waiting
from popgpt.text.printable import line


class SweepProgress:
    """Shows a sweep as it goes: one live table on a terminal, a line for each event elsewhere. Use as a context."""

    def __init__(self, record: Record, console: Console | None = None, patience: float = PATIENCE):
        self._patience = patience
        self._record = record
        self._console = unbreakable(console or Console(stderr=True))
        self._known: dict[str, tuple[tuple[int, list[Row]], Standing]] = {}  # by rows: how many, and the last
        self._begun = time.perf_counter(), sum(each.iterations for each in self._now())
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

    def _now(self) -> list[Standing]:
        """Where every run stands. A trial is looked at anew once it has reported."""
        now = []
        for name, trial in self._record.runs.items():
            rows = len(trial["metrics"]), trial["metrics"][-1:]
            seen, known = self._known.get(name, (None, None))
            if known is None or rows != seen:
                known = standing(trial, self._record.sweep.metric)
                self._known[name] = rows, known
            now.append(known._replace(trial=trial))
        return now

    def _picture(self) -> RenderableType:
        """As many trials as there is room for, and under them, always, what is spent and left."""
        ranked = in_order(self._now(), self._record.sweep.metric)
        text = Text(self._summary(ranked))
        height = self._console.height - len(self._console.render_lines(text, pad=False))
        return Group(*cropped(ranked, self._record.sweep.metric, self._console, height), text)

    def _summary(self, standings: list[Standing]) -> str:
        begun, before = self._begun
        done, unfinished = sum(each.iterations for each in standings), {*self._record.unfinished()}
        open_ones = [each for each in standings if each.trial["id"] in unfinished]
        left = sum(max(0, self._record.sweep.max_t - each.iterations) for each in open_ones)
        ended = f"{len(standings) - len(unfinished)} of {len(standings)} trials ended"
        budget = describe_budget(done, left, done - before, time.perf_counter() - begun)
        return f"{ended}, {budget}" if done > before or not unfinished else f"starting the first trials; {budget}"

    def __call__(self, name: str, event: str) -> None:
        """Show an event of a trial that the record has taken in."""
        if self._console.is_terminal:
            return  # the picture is drawn anew by itself
        trial = self._record.runs[name]
        if event != "started":
            self._first.close()
        if event == "started":
            text = "  ".join(f"{key}={value(given, 6)}" for key, given in trial["config"].items())
        elif event == "reported":
            row = trial["metrics"][-1]
            text = f"iteration {row['iteration']}  loss {row['train_loss']:.4f}  {describe_exact_match(row)}"
        else:
            text = ": ".join(filter(None, (trial["status"], trial["reason"])))
        self._console.print(line(f"trial {name}  {text}"), highlight=False, markup=False, soft_wrap=True)


def describe_budget(done: int, left: int, lately: int, seconds: float) -> str:
    """What a sweep has spent and may yet spend: `left` iterations if nothing is stopped, of which `lately` took
    `seconds`.
    """
    spent = f"{done:,} iterations done, at most {left:,} left"
    time_left = f", at most {timedelta(seconds=round(left * seconds / lately))} left" if lately else ""
    return f"{spent}; {timedelta(seconds=round(seconds))} so far{time_left}"

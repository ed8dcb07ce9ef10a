"""The statuses of a trial, and the events of its run, which change them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from popgpt.metrics.row import Row


class Status(StrEnum):
    """The status of a trial, as sweep.json has it."""

    PLANNED = "planned"  # it has no parameters yet: the search proposes them when there is room for it
    WAITING = "waiting"
    PAUSED = "paused"  # at a rung, until it is promoted or the sweep has no more trials to begin
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


OPEN = (Status.PLANNED, Status.WAITING, Status.PAUSED, Status.RUNNING, Status.INTERRUPTED)
ENDED = (Status.COMPLETED, Status.STOPPED, Status.FAILED)


@dataclass(frozen=True)
class Started:
    """The trial starts, or goes on."""


@dataclass(frozen=True)
class Reported:
    """The trial was evaluated. rows: what it logged since it last reported, the evaluation last."""

    rows: Sequence[Row]


@dataclass(frozen=True)
class Paused:
    """The scheduler holds the trial at a rung."""


@dataclass(frozen=True)
class Ended:
    """The trial has ended. reason: why the scheduler stopped it; None if it did not."""

    reason: str | None = None


@dataclass(frozen=True)
class Failed:
    """The trial has failed."""

    reason: str


Event = Started | Reported | Paused | Ended | Failed

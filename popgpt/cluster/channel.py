"""Between a group's processes and its driver: messages go up, the wish to stop comes down.

Nothing heavy is imported here: the channel is a process of its own, which every run waits for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle

from popgpt.metrics.row import Row, RunResult

ASK_SECONDS = 0.5
ANSWER_SECONDS = 0.05


@dataclass(frozen=True)
class ControllerStarted:
    """Ray Train's controller is there; it alone can abort the group."""

    controller: Any


@dataclass(frozen=True)
class WorkerStarted:
    """A worker is about to train."""

    worker: Any


@dataclass(frozen=True)
class RowLogged:
    """The first worker has logged a row."""

    row: Row


@dataclass(frozen=True)
class TextLogged:
    """A module of popgpt's has logged a text in the first worker."""

    level: int
    text: str


@dataclass(frozen=True)
class RunEnded:
    """`fit` has returned in the first worker."""

    result: RunResult


@dataclass(frozen=True)
class RunRefused:
    """A worker has raised a UserError."""

    text: str


@dataclass(frozen=True)
class WorkersFailed:
    """The workers have failed, and may be started again."""

    cause: str


Message = ControllerStarted | WorkerStarted | RowLogged | TextLogged | RunEnded | RunRefused | WorkersFailed


@ray.remote(num_cpus=0)
class Channel:
    """The messages that the driver has not read, and whether it wants to stop.

    It holds messages as bytes: to unpickle a worker's handle, it would import all of Ray Train for more than a second.
    """

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._stopped = False
        self._heard = time.monotonic()

    def push(self, message: bytes) -> None:
        self._heard = time.monotonic()
        self._messages.append(message)

    def pull(self) -> tuple[list[bytes], float]:
        """Return what was pushed since the last pull, and the seconds since anything was heard of the workers."""
        messages, self._messages = self._messages, []
        return messages, time.monotonic() - self._heard

    def stop(self) -> None:
        self._stopped = True

    def stopped(self) -> bool:
        """Asked by the first worker between iterations, and so its sign of life."""
        self._heard = time.monotonic()
        return self._stopped


def send(channel: Any, message: Message) -> Any:
    """Push a message. Whoever ends next waits for what this returns."""
    return channel.push.remote(cloudpickle.dumps(message))


def receive(channel: Any) -> tuple[list[Message], float]:
    """Return the messages since the last call, and the seconds since anything was heard of the workers."""
    messages, silence = ray.get(channel.pull.remote())
    return [cloudpickle.loads(message) for message in messages], silence


class StopFlag:
    """Whether the driver wants to stop: asked now and then, without waiting for its answer."""

    def __init__(self, channel: Any):
        self._channel = channel
        self._answer: Any = None
        self._stopped = False
        self._next = 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if self._stopped or now < self._next:
            return self._stopped
        if self._answer is None:
            self._answer, self._next = self._channel.stopped.remote(), now + ANSWER_SECONDS
        elif ray.wait([self._answer], timeout=0)[0]:
            self._stopped, self._answer, self._next = ray.get(self._answer), None, now + ASK_SECONDS
        else:
            self._next = now + ANSWER_SECONDS
        return self._stopped

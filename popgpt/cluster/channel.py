"""Between a group's first worker and its driver: rows go up, the wish to stop comes down.

Nothing heavy is imported here: the channel is a process of its own, which every run waits for.
"""

from __future__ import annotations

import time
from typing import Any

import ray

ASK_SECONDS = 0.5
ANSWER_SECONDS = 0.05


@ray.remote(num_cpus=0)
class Channel:
    """What the worker has said and the driver hasn't read, and whether the driver wants to stop."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._stopped = False
        self._heard = time.monotonic()

    def push(self, message: dict[str, Any]) -> None:
        self._heard = time.monotonic()
        self._messages.append(message)

    def pull(self) -> tuple[list[dict[str, Any]], float]:
        """What was said since the last pull, and the seconds since anything was heard of the worker."""
        messages, self._messages = self._messages, []
        return messages, time.monotonic() - self._heard

    def stop(self) -> None:
        self._stopped = True

    def stopped(self) -> bool:
        """Asked by the worker between iterations, and so its sign of life."""
        self._heard = time.monotonic()
        return self._stopped


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

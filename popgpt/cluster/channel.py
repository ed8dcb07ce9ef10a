"""Between a group's first worker and its driver: rows go up, the wish to stop comes down.

Nothing heavy is imported here: the channel is a process of its own, which every run waits for.
"""

from __future__ import annotations

from typing import Any

import ray


@ray.remote(num_cpus=0)
class Channel:
    """What the worker has said and the driver hasn't read, and whether the driver wants to stop."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._stopped = False

    def push(self, message: dict[str, Any]) -> None:
        self._messages.append(message)

    def pull(self) -> list[dict[str, Any]]:
        messages, self._messages = self._messages, []
        return messages

    def stop(self) -> None:
        self._stopped = True

    def stopped(self) -> bool:
        return self._stopped


class StopFlag:
    """Whether the driver wants to stop, without waiting for its answer."""

    def __init__(self, channel: Any):
        self._channel = channel
        self._answer = channel.stopped.remote()
        self._stopped = False

    def __call__(self) -> bool:
        if not self._stopped and ray.wait([self._answer], timeout=0)[0]:
            self._stopped = ray.get(self._answer)
            self._answer = self._channel.stopped.remote()
        return self._stopped

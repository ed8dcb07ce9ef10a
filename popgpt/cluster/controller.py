"""What Ray Train's controller, a process of its own, tells the driver: that it is there, and why workers failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.train import UserCallback

from popgpt.cluster.channel import ControllerStarted, WorkersFailed, send
from popgpt.cluster.process import limit_exit_time
from popgpt.cluster.ray_internals import CONNECTION, death_of

DEATH = "a worker's process died"
LOST = "the connection between workers broke"


def announce_controller(channel: Any) -> None:
    """Hand the driver the controller that this runs in."""
    limit_exit_time()
    send(channel, ControllerStarted(ray.get_runtime_context().current_actor))


class FailureReporter(UserCallback):  # type: ignore[misc]
    """Tells the driver why workers failed, each time they do."""

    def __init__(self, channel: Any):
        self._channel = channel

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, BaseException]) -> None:
        send(self._channel, WorkersFailed(describe_cause(worker_exceptions)))


def describe_cause(failures: Mapping[int, BaseException]) -> str:
    """Return why a group failed, in one line. `failures` are by rank.

    A process that died goes before what its death did to the others.
    """
    deaths = [death for failure in failures.values() if (death := death_of(failure))]
    if any(isinstance(death, ray.exceptions.OutOfMemoryError) for death in deaths):
        return "a worker was killed for want of memory"
    if deaths:
        return DEATH
    texts = [str(error).strip() or type(error).__name__ for error in failures.values()]
    own = [text for text in texts if not CONNECTION.search(text)]
    return own[0].splitlines()[-1].strip() if own else LOST

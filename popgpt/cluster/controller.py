"""What Ray Train's controller tells the driver: how to end it, and why workers failed. It is a process of its own."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback

DEATH = "a worker's process died"
LOST = "the connection between workers broke"
GIVE_UP_SECONDS = 10  # which a group has to end once it is aborted
CONNECTION = re.compile(r"gloo|nccl|connection|socket", re.IGNORECASE)


class Handle(ControllerCallback):  # type: ignore[misc]
    """Hands the driver the controller, which alone can abort a group, and sees that it ends with the group.

    An actor that exits waits for its other methods; Ray counts it as dead by then, and kills it no more.
    """

    def __init__(self, channel: Any):
        self._channel = channel

    def after_controller_start(self, train_run_context: Any) -> None:
        self._channel.push.remote({"controller": ray.get_runtime_context().current_actor})

    def before_controller_abort(self) -> None:
        signal.alarm(GIVE_UP_SECONDS)


class Failures(UserCallback):  # type: ignore[misc]
    """Tells why workers failed, each time they do."""

    def __init__(self, channel: Any):
        self._channel = channel

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, BaseException]) -> None:
        self._channel.push.remote({"failed": cause(worker_exceptions)})


def cause(failures: Mapping[int, BaseException]) -> str:
    """Why a group failed, in one line. A process that died goes before what its death did to the others."""
    deaths = [e.health_check_failure for e in failures.values() if isinstance(e, WorkerHealthCheckFailedError)]
    if any(isinstance(death, ray.exceptions.OutOfMemoryError) for death in deaths):
        return "a worker was killed for want of memory"
    if deaths:
        return DEATH
    texts = [str(error).strip() or type(error).__name__ for error in failures.values()]
    own = [text for text in texts if not CONNECTION.search(text)]
    return own[0].splitlines()[-1].strip() if own else LOST

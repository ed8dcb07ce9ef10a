"""Ray Train's controller, a process of its own: what it tells the driver, and what it leaves when it is killed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import PlacementGroupID
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.util.placement_group import PlacementGroup

from popgpt.cluster.session import exit_surely

DEATH = "a worker's process died"
LOST = "the connection between workers broke"
CONNECTION = re.compile(r"gloo|nccl|connection|socket", re.IGNORECASE)


class Handle(ControllerCallback):  # type: ignore[misc]
    """Hands the driver the controller, which alone can abort a group."""

    def __init__(self, channel: Any):
        self._channel = channel

    def after_controller_start(self, train_run_context: Any) -> None:
        exit_surely()
        self._channel.push.remote({"controller": ray.get_runtime_context().current_actor})


class Failures(UserCallback):  # type: ignore[misc]
    """Tells why workers failed, each time they do."""

    def __init__(self, channel: Any):
        self._channel = channel

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, BaseException]) -> None:
        self._channel.push.remote({"failed": cause(worker_exceptions)})


def free_places(of: Callable[[PlacementGroupTableData], bool]) -> None:
    """Give back the cores of the placement groups of which `of` is true.

    Ray 2.60 keeps the placement group of a controller that was killed until the driver ends too.
    """
    for row in state._connect_and_get_accessor().get_placement_group_table():
        place = PlacementGroupTableData.FromString(row)
        if place.state != PlacementGroupTableData.REMOVED and of(place):
            ray.util.remove_placement_group(PlacementGroup(PlacementGroupID(place.placement_group_id)))


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

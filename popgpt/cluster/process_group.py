"""The process group of a run's workers, as Ray Train's controller makes it. Only the workers import torch."""

from __future__ import annotations

import logging
import os
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

SHUTDOWN_SECONDS = 5.0
logger = logging.getLogger(__name__)


@dataclass
class ProcessGroup(BackendConfig):  # type: ignore[misc]
    """Torch's process group, met at the address by which Ray knows the first worker's node, and at no other.

    Ray 2.60's own, `TorchConfig`, meets on every interface, on a port that it has seen free and that another may have
    taken since; and the driver and the controller would import torch for it.
    """

    timeout_s: int

    @property
    def backend_cls(self) -> type[Backend]:
        return TorchBackend


class TorchBackend(Backend):  # type: ignore[misc]
    """Has the workers meet before they train, and part after. A single worker has nobody to meet."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        size = len(worker_group)
        if size == 1:
            return
        meeting = worker_group.execute_single(0, open_meeting)
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU") else "gloo"
        ray.get(
            [
                worker_group.execute_single_async(rank, meet, meeting, backend, rank, size, backend_config.timeout_s)
                for rank in range(size)
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        if len(worker_group) > 1:
            try:
                ray.get(worker_group.execute_async(part), timeout=SHUTDOWN_SECONDS)
            except ray.exceptions.GetTimeoutError:
                logger.warning("the process group did not end in %g seconds", SHUTDOWN_SECONDS)


def open_meeting() -> tuple[Any, ...]:
    """Open a meeting at the node of the worker that this runs in. Return its parts: the controller unpickles them."""
    from popgpt.training.world import Meeting

    return astuple(Meeting.at(ray.util.get_node_ip_address()))


def meet(meeting: tuple[Any, ...], backend: str, rank: int, size: int, timeout_s: int) -> None:
    """Make this worker the one of `rank` in the process group. It has the variables that torchrun sets."""
    from popgpt.training.world import Meeting, join

    context = ray.train.get_context()
    os.environ.update(
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()),
        RANK=str(context.get_world_rank()),
        WORLD_SIZE=str(context.get_world_size()),
    )
    join(Meeting(*meeting), backend, rank, size, timedelta(seconds=timeout_s))


def part() -> None:
    """Leave the process group."""
    from popgpt.training.world import leave

    leave()

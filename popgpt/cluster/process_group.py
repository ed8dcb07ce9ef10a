"""The process group of a run's workers, as Ray Train's controller makes it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

from popgpt.training.world import Meeting, join


class ProcessGroup(TorchConfig):  # type: ignore[misc]
    """Torch's process group, met at the address by which Ray knows the first worker's node, and at no other.

    Ray 2.60's own meets on every interface, on a port that it has seen free and that another may have taken since.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return Backend


class Backend(_TorchBackend):  # type: ignore[misc]
    """Ray Train's, but for how the workers meet. A single worker has nobody to meet."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        size = len(worker_group)
        if size == 1:
            return
        meeting = worker_group.execute_single(0, meet_here)
        worker_group.execute(_set_torch_distributed_env_vars)
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU") else "gloo"
        timeout = timedelta(seconds=backend_config.timeout_s)
        ray.get(
            [
                worker_group.execute_single_async(rank, join, meeting, backend, rank, size, timeout)
                for rank in range(size)
            ]
        )


def meet_here() -> Meeting:
    """A meeting on the node of the worker that this runs in."""
    return Meeting.at(ray.util.get_node_ip_address())

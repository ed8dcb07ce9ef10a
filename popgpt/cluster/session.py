"""A connection to Ray: its environment, its resources, and what a run asks of them."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass

from popgpt.config import UserError

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
}


@dataclass(frozen=True)
class Resources:
    """What Ray has: cores and GPUs of all nodes, and whether this process started it."""

    cpus: float
    gpus: float
    local: bool

    def per_worker(self, workers: int, device: str) -> dict[str, float]:
        """CPU and GPU of each of `workers` workers.

        A Ray that was started here gives all its cores, in equal parts; a cluster gives one core a worker, as it may
        grow. Raises UserError where GPUs are asked for that a local Ray does not have.
        """
        use_gpu = device == "cuda" or (device == "auto" and self.gpus >= workers)
        if use_gpu and self.local and self.gpus < workers:
            raise UserError(f"workers={workers} with device=cuda need {workers} GPUs; there are {self.gpus:g}")
        whole = max(1, int(self.cpus // workers))
        cpus = 1 if not self.local else whole if workers <= self.cpus else self.cpus / workers
        return {"CPU": cpus, "GPU": 1} if use_gpu else {"CPU": cpus}


def connect(dashboard: bool = False) -> Resources:
    """Join the cluster that RAY_ADDRESS or `ray start` names; where there is none, start Ray here.

    Args:
        dashboard: start it too; without it Ray cannot clean up after nested groups that die.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if not ray.is_initialized():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(include_dashboard=dashboard, log_to_driver=False, logging_level=logging.CRITICAL)
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what fails is raised, or told by its trial
    total = ray.cluster_resources()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    local = len(nodes) == 1 and "RAY_ADDRESS" not in os.environ
    return Resources(total.get("CPU", 0), total.get("GPU", 0), local)


def disconnect() -> None:
    """Leave the cluster; what was started here ends."""
    import ray

    ray.shutdown()

"""A connection to Ray: its environment, its resources, and what a run asks of them."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def connected(dashboard: bool = False) -> Iterator[Resources]:
    """A connection to the cluster that RAY_ADDRESS or `ray start` names; where there is none, to a Ray started here.

    Args:
        dashboard: start it too; without it Ray cannot clean up after nested groups that die.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    from ray._private.services import canonicalize_bootstrap_address

    local = canonicalize_bootstrap_address(None) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"address": "local", "include_dashboard": dashboard} if local else {}
        ray.init(**options, log_to_driver=False, logging_level=logging.CRITICAL)
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what fails is raised, or told by its trial
    try:
        total = ray.cluster_resources()
        yield Resources(total.get("CPU", 0), total.get("GPU", 0), local)
    finally:
        # Garbage that still refers to Ray goes first: were another thread (the tracker's, say) to collect it while
        # Ray shuts down, Ray would end the process.
        gc.collect()
        ray.shutdown()

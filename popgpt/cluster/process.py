"""What a process of Ray's does for its neighbours: it leaves them their cores, and does not outlive its end.

Every process that trains imports this: it needs none of Ray.
"""

from __future__ import annotations

import atexit
import os
import signal
from contextlib import suppress

EXIT_SECONDS = 30


def take_cores(cpus: float) -> None:
    """Use this process's share of the cores, and no more; what Ray itself has to do waits for it."""
    import torch

    yield_cores(False)
    torch.set_num_threads(max(1, int(cpus)))


def yield_cores(yielding: bool) -> None:
    """Whether this process, and those it will start, leave a core to whoever trains on it as long as the kernel lets
    them. It costs a worker less to wait for others when Ray's many small processes do not wake up in its place.
    """
    if hasattr(os, "sched_setscheduler"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH if yielding else os.SCHED_OTHER, os.sched_param(0))


def limit_exit_time() -> None:
    """Have the kernel end this process of Ray's EXIT_SECONDS after its exit began. Ray 2.60's may lock itself up in a
    destructor (`Publisher`, which posts to a queue that is being taken down), when no part of Ray knows of it any more.
    """
    atexit.register(signal.alarm, EXIT_SECONDS)

"""A Ray of several nodes on this machine, apart from every other Ray, and the processes that belong to a test."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.state import actors

from popgpt.cluster.session import ENVIRONMENT

WORKER = "ray::RayTrainWorker"
COORDINATOR = "_AutoscalingCoordinatorActor"  # which a Ray has one of, from the first group on, whoever trains on it
PATIENCE = 240.0  # seconds until a test gives up waiting, on however busy a machine


@contextmanager
def cluster(*cores: int) -> Iterator[Any]:
    """A Ray of nodes with so many cores each, the head first; RAY_ADDRESS names it to this process and its children."""
    from ray._common.utils import reset_ray_address
    from ray.cluster_utils import Cluster

    scratch = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)  # a short path
    with scratch as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)  # where Cluster leaves word of itself: nowhere that others look
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        nodes = Cluster()
        try:
            for each in cores:
                nodes.add_node(num_cpus=each, include_dashboard=False)
            reset_ray_address()
            patch.setenv("RAY_ADDRESS", nodes.address)
            yield nodes
        finally:
            nodes.shutdown()


def wait_for(condition: Callable[[], Any], what: str, every: float = 0.002) -> Any:
    """What `condition` answers, once it is true of anything."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(every)
    return found


def nothing_is_held() -> bool:
    """Whether every actor has died, every placement group was removed, and all cores are free."""
    gone = all(actor["State"] == "DEAD" or actor["ActorClassName"] == COORDINATOR for actor in actors().values())
    removed = all(group["state"] == "REMOVED" for group in ray.util.placement_group_table().values())
    return gone and removed and ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]


def worker_pids() -> list[int]:
    """The processes of the groups that this process, or a Ray that it started, has started."""
    return pids(WORKER)


def pids(title: str) -> list[int]:
    """This process's descendants whose command line begins with `title`."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if (entry / "cmdline").read_bytes().startswith(title.encode()) and descends(int(entry.name), os.getpid()):
                found.append(int(entry.name))
    return sorted(found)


def descends(pid: int, ancestor: int) -> bool:
    """Whether a process was started by `ancestor`, directly or not."""
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def opened(pid: int) -> set[tuple[int, int]]:
    """The files that a process has open, as `file_of` names them."""
    found = set()
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(file_of(path))
    return found


def file_of(path: Path) -> tuple[int, int]:
    """Device and inode."""
    status = path.stat()
    return status.st_dev, status.st_ino


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal. Whether the process was there."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False

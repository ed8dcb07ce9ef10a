"""A Ray of several nodes on this machine, apart from every other Ray, and the processes that belong to a test."""

from __future__ import annotations

import ipaddress
import os
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.state import actors

from popgpt.cluster.ray_internals import without_helper_processes
from popgpt.cluster.session import ENVIRONMENT

WORKER = "ray::RayTrainWorker"
COORDINATOR = "_AutoscalingCoordinatorActor"  # which a Ray has one of, from the first group on, whoever trains on it
PATIENCE = 240.0  # seconds until a test gives up waiting, on however busy a machine


def add_node(nodes: Any, cores: int) -> None:
    """Add a node. Its head's port, which was free, may have been taken by another test's Ray meanwhile: then anew."""
    for last in (False, False, True):
        try:
            nodes.add_node(num_cpus=cores, include_dashboard=False)
            return
        except RuntimeError as error:
            if last or "Failed to start GCS" not in str(error):
                raise


@contextmanager
def cluster(*cores: int) -> Iterator[Any]:
    """A Ray of nodes with so many cores each, the head first; RAY_ADDRESS names it to this process and its children."""
    from ray._common.utils import reset_ray_address
    from ray.cluster_utils import Cluster

    scratch = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)  # a short path
    with scratch as folder, pytest.MonkeyPatch.context() as patch, without_helper_processes():
        patch.setenv("RAY_TMPDIR", folder)  # where Cluster leaves word of itself: nowhere that others look
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        nodes = Cluster()
        try:
            for each in cores:
                add_node(nodes, each)
            reset_ray_address()
            patch.setenv("RAY_ADDRESS", nodes.address)
            yield nodes
        finally:
            nodes.shutdown()


def wait_for(condition: Callable[[], Any], what: str, every: float = 0.002) -> Any:
    """What `condition` answers, once it is true of anything."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, (
            f"waited in vain for {what}; held are {held() if ray.is_initialized() else []}"
        )
        time.sleep(every)
    return found


def nothing_is_held() -> bool:
    """Whether every actor has died, every placement group was removed, and all cores are free."""
    return not held()


def held() -> list[str]:
    """The actors that have not died, the placement groups that were not removed, and how many cores are not free."""
    alive = [actor for actor in actors().values() if actor["State"] != "DEAD"]
    found = [f"{each['ActorClassName']}: {each['State']}" for each in alive if each["ActorClassName"] != COORDINATOR]
    groups = ray.util.placement_group_table().values()
    found += [f"placement group: {group['state']}" for group in groups if group["state"] != "REMOVED"]
    taken = ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0)
    return [*found, *([f"{taken} cores"] if taken else [])]


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
        pid = parent(pid)
    return False


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def listening() -> Iterator[set[tuple[str, str]]]:
    """What `listeners` found meanwhile; filled in as time goes on."""
    found: set[tuple[str, str]] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.3):
            found.update(listeners())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield found
    finally:
        over.set()
        looking.join()
        found.update(listeners())


def listeners() -> set[tuple[str, str]]:
    """Where this process and its descendants listen, as (title and pid, host:port)."""
    sockets = {f"socket:[{inode}]": address for inode, address in listening_sockets().items()}
    found = set()
    for pid in family(os.getpid()):
        with suppress(OSError):
            files = set(map(target, Path(f"/proc/{pid}/fd").iterdir()))
            title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").strip("\0 ")
            found |= {(f"{title} {pid}", sockets[file]) for file in files & sockets.keys()}
    return found


def target(link: Path) -> str:
    """What a link leads to; nothing where it is gone."""
    with suppress(OSError):
        return os.readlink(link)
    return ""


def family(pid: int) -> set[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            children.setdefault(parent(int(entry.name)), []).append(int(entry.name))
    found, new = set(), [pid]
    while new:
        found.add(last := new.pop())
        new += children.get(last, [])
    return found


def listening_sockets() -> dict[str, str]:
    """host:port of all TCP sockets of this machine that listen, by inode."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = fields = line.split()
            host, port = local.split(":")
            if int(state, 16) == 10:  # TCP_LISTEN
                words = struct.unpack(f"<{len(host) // 8}I", bytes.fromhex(host))
                found[fields[9]] = f"{plain_host(struct.pack(f'>{len(words)}I', *words))}:{int(port, 16)}"
    return found


def plain_host(packed: bytes) -> str:
    """An address as text; one of IPv4 in IPv6's clothes as itself."""
    address = ipaddress.ip_address(packed)
    return str(getattr(address, "ipv4_mapped", None) or address)


def exposed(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Of what `listeners` found, what other machines reach."""
    return {each for each in found if not ipaddress.ip_address(each[1].rpartition(":")[0]).is_loopback}


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

"""A connection to Ray: its environment, its resources, and what a run asks of them."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from popgpt.cluster import ray_internals
from popgpt.cluster.process import yield_cores
from popgpt.text.errors import UserError

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",  # to look anew at what a cluster has, where a node is lost
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
}
LOOPBACK = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
HERE = {  # of a Ray that is started here
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process a group, for nodes that a cloud takes away
    "RAY_worker_niceness": "0",  # as a training without Ray
    **{ray_internals.STARTED_HERE: "1", "PL_DISABLE_FORK": "1", "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0"},  # inherited
    "GLOO_SOCKET_IFNAME": LOOPBACK,
    "NCCL_SOCKET_IFNAME": LOOPBACK,
}
CONNECT_SECONDS = 3.0


@dataclass(frozen=True)
class Resources:
    """What Ray has: cores and GPUs of all nodes; whether this process started it; whether more may join by itself."""

    cpus: float
    gpus: float
    local: bool
    grows: bool = False

    def per_worker(self, workers: int, device: str, fewest: int | None = None) -> dict[str, float]:
        """CPU and GPU of each of `workers` workers.

        A Ray that was started here gives all its cores, in equal parts; a cluster gives one core a worker. Raises
        UserError where there is too little for `fewest` workers (default all) and nothing more can come.
        """
        needed = fewest or workers
        use_gpu = device == "cuda" or (device == "auto" and self.gpus >= workers)
        if use_gpu and self.gpus < needed and not self.grows:
            raise UserError(f"workers={needed} with device=cuda need {needed} GPUs; there are {self.gpus:g}")
        if not self.local and self.cpus < needed and not self.grows:
            raise UserError(
                f"workers={needed} need {needed} CPU cores; the cluster has {self.cpus:g}, and it cannot grow"
            )
        whole = max(1, int(self.cpus // workers))
        cpus = 1 if not self.local else whole if workers <= self.cpus or fewest else self.cpus / workers
        return {"CPU": cpus, "GPU": 1} if use_gpu else {"CPU": cpus}


@contextmanager
def connected(fits: Callable[[Resources], object] = lambda has: None) -> Iterator[Resources]:
    """A connection to the cluster that RAY_ADDRESS or `ray start` names; where there is none, to a Ray started here.

    Args:
        fits: raises UserError where these resources are too few. Of this machine's it is asked before Ray is started.
    Raises:
        UserError: no Ray answers that was named, none can be started, or `fits` has raised it.
    """
    set_environment(ENVIRONMENT)
    address = cluster_address()
    if address is None:
        fits(resources_here())
    with join(address) if address else start():
        logging.getLogger("ray").setLevel(logging.CRITICAL)  # what fails is raised, or told by its trial
        try:
            total = ray.cluster_resources()
            has = Resources(
                total.get("CPU", 0),
                total.get("GPU", 0),
                address is None,
                address is not None and ray_internals.has_autoscaler(),
            )
            fits(has)
            yield has
        finally:
            # Garbage that still refers to Ray goes first: were another thread (the tracker's, say) to collect it while
            # Ray shuts down, Ray would end the process.
            gc.collect()
            ray.shutdown()


def resources_here() -> Resources:
    """Return what a Ray that is started here will have."""
    return Resources(*ray_internals.local_resources(), local=True)


@contextmanager
def join(address: str) -> Iterator[None]:
    """Connect this process to the cluster at `address`. To a Ray of this machine it shows the token that it finds, as
    `ray start` will have asked for it; to one that RAY_ADDRESS names, only where the environment says so.
    """
    with authentication(), environment({}, ray_internals.STARTED_HERE):
        os.environ.pop(ray_internals.STARTED_HERE, None)
        if "RAY_ADDRESS" not in os.environ:
            ray_internals.show_token()
        initialize(f"the Ray at {address} cannot be joined", address=address)
        yield


@contextmanager
def start() -> Iterator[None]:
    """Start a Ray of this process's own. It listens on loopback alone, and answers only processes with its token."""
    lean, inherited = ray_internals.without_helper_processes(), ray_internals.inherited_environment()
    with environment(HERE), authentication(new_token()), ray_internals.loopback_address(), lean, inherited:
        yield_cores(True)
        try:
            initialize("no Ray could be started here", address="local", include_dashboard=False)
        finally:
            yield_cores(False)
        yield


def initialize(failed: str, **options: Any) -> None:
    """Call ray.init, in silence. Raises UserError that begins with `failed`."""
    terminate = signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:  # of many kinds: what answers is no Ray, or this machine is too busy to start one
            said = str(error).strip() or type(error).__name__
            raise UserError(f"{failed}: {said.splitlines()[0]}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminate)  # Ray has put its own in place, which tells nobody


def new_token() -> dict[str, str]:
    """The environment of a Ray that asks for a token of its own; empty where the user has settled what it asks for.

    Ray 2.60 would write one to the home folder for all its Rays, where others may read it.
    """
    asks = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} if asks and not named else {}


@contextmanager
def authentication(variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Set these variables of Ray's authentication, and have Ray read them; afterwards, what they were before."""
    try:
        with environment(variables or {}, "RAY_AUTH_MODE"):  # which Ray may set
            ray_internals.read_authentication()
            yield
    finally:
        ray_internals.read_authentication()


@contextmanager
def environment(variables: Mapping[str, str], *others: str) -> Iterator[None]:
    """Set what the user has not, or left empty; afterwards these variables and `others` are as they were."""
    before = {name: os.environ.get(name) for name in (*variables, *others)}
    os.environ.update({name: value for name, value in variables.items() if not before[name]})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def set_environment(variables: Mapping[str, str]) -> None:
    """Set what the user has not."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def cluster_address() -> str | None:
    """host:port of the cluster to join; None where there is none. `ray start` leaves word of a cluster that has died.

    Raises UserError where RAY_ADDRESS names one that does not answer.
    """
    address = ray_internals.named_address()
    if address is None or "://" in address:
        return address
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        if "RAY_ADDRESS" not in os.environ:
            return None
        raise UserError(f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: no Ray answers there ({error.strerror})") from None
    return address

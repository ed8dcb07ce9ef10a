"""What the tests share: a tiny run, a home of its own for everything that is written, and surroundings that are known.

Whatever starts pytest (a shell's `&`, nohup, a CI runner) leaves it variables, ignored signals and a umask. A test that
depends on one of them would pass or fail by chance, so all tests, and the processes that they start, begin alike.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from popgpt.config import Config, make_config, merge
from popgpt.tracking.identity import Identity
from tests import s3

if TYPE_CHECKING:
    from popgpt.cluster.session import Resources

TINY: dict[str, Any] = {
    "task": {"name": "calculator", "operations": "+-"},
    "train_lines": 400,
    "val_lines": 60,
    "test_lines": 60,
    "block_size": 32,
    "batch_size": 4,
    "n_layer": 1,
    "d_model": 16,
    "d_head": 8,
    "warmup_iters": 2,
    "max_iters": 4,
    "eval_interval": 2,
    "log_interval": 1,
    "device": "cpu",
    "mlflow_log": False,
}


# Machines stall; and CI runs the same examples each time: what fails in it has changed.
settings.register_profile(
    "popgpt", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("popgpt")

# Variables that change what popgpt, or a library of its, does or prints.
FOREIGN = (
    *("AWS_", "LC_", "MLFLOW_", "RAY_", "TRAIN_", "TUNE_", "WANDB_", "OMP_"),
    *("CLICOLOR", "COLUMNS", "FORCE_COLOR", "LANG", "LINES", "NO_COLOR", "TTY_", "JUPYTER_"),
    *("PYTHONIOENCODING", "PYTHONUTF8", "PYTHONWARNINGS", "PYTHONSAFEPATH"),
    "PYTHONDONTWRITEBYTECODE",  # each of the hundreds of processes would compile popgpt anew
    *("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy", "http_proxy", "https_proxy", "no_proxy"),
)
KNOWN = {
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",  # tiny matrices: more threads only wait for each other
    "TERM": "xterm-256color",
    "TZ": "UTC",
}
HANDLERS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGUSR1: signal.SIG_DFL,
}


def begin_alike() -> None:
    """Give this process, and those that it will start, the surroundings that the tests are written for."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    os.environ.update(KNOWN)
    time.tzset()
    os.umask(0o022)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


begin_alike()  # before what pytest imports next reads any of it, and before the fixtures that start servers


@pytest.fixture(scope="session", autouse=True)
def home() -> Iterator[Path]:
    """A folder in which Ray leaves and looks for word of itself, and others their settings: it is nobody else's."""
    scratch = tempfile.TemporaryDirectory(prefix="popgpt-", dir="/tmp", ignore_cleanup_errors=True)  # a short path
    with scratch as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", folder)
        patch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


@pytest.fixture(autouse=True)
def handlers_as_they_were() -> Iterator[None]:
    """Ray Tune leaves its own behind, which hear no Ctrl-C once it has ended."""
    yield
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


class KeptRay:
    """A Ray of this machine's that tests share: it starts when one first asks for it, and stays."""

    def __init__(self) -> None:
        from popgpt.cluster import session

        self.start = session.connected
        self._held = ExitStack()
        self._resources: Resources | None = None

    def connected(self, fits: Callable[[Resources], object] = lambda has: None) -> AbstractContextManager[Resources]:
        """As `session.connected`, but that what it yields outlasts the context."""
        if self._resources is None:
            self._resources = self._held.enter_context(self.start(fits))
        else:
            fits(self._resources)
        return nullcontext(self._resources)

    def close(self) -> None:
        self._held.close()
        self._resources = None


@pytest.fixture(scope="session")
def kept_ray(home: Path) -> Iterator[KeptRay]:
    ray = KeptRay()
    yield ray
    ray.close()


@pytest.fixture(scope="module", autouse=True)
def one_ray_at_a_time(kept_ray: KeptRay) -> None:
    """A process has one Ray: the tests of the next module may start another."""
    kept_ray.close()


@pytest.fixture
def shared_ray(kept_ray: KeptRay, monkeypatch: pytest.MonkeyPatch) -> KeptRay:
    """The Ray that sweeps of this process run on, for tests to which it is nothing who has started it."""
    monkeypatch.setattr("popgpt.cluster.session.connected", kept_ray.connected)
    return kept_ray


@pytest.fixture
def own_ray(shared_ray: KeptRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is shared, where the test is of starting it or of its end, or starts a command, to which the environment of
    a Ray of this process's is foreign.
    """
    shared_ray.close()
    monkeypatch.setattr("popgpt.cluster.session.connected", shared_ray.start)


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for datasets that tests only read."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An SQLite store of MLflow's, which takes seconds to make."""
    from popgpt.tracking.mlflow import Mlflow

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    Mlflow(f"sqlite:///{path}").find(Identity(f"sqlite:///{path}", "e", "n"))
    return path.read_bytes()


@pytest.fixture
def tiny(tmp_path: Path, shared_data: Path) -> Callable[..., Config]:
    """Makes the config of a run that trains in well under a second; keywords replace its parameters."""

    def make(**over: Any) -> Config:
        return tiny_config(**{"out_dir": str(tmp_path / "out"), "data_dir": str(shared_data), **over})

    return make


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    """An S3 server for tests that leave it as it is, with a bucket `bucket`."""
    server = s3.serve(tmp_path_factory.mktemp("s3") / "log")
    try:
        server.make_bucket("bucket")
        yield server
    finally:
        server.stop()


@pytest.fixture
def store(s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty folder on the S3 server, which the environment names as a user's does."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{uuid.uuid4().hex}"


def tiny_config(**over: Any) -> Config:
    """TINY with `over` on top."""
    return make_config(merge(TINY, over))

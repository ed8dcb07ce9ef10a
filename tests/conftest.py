"""What the tests share: a tiny run, and a home of its own for everything that is written."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from popgpt.config import Config, make_config, merge
from popgpt.tracking.identity import Identity
from tests import s3

TINY: dict[str, Any] = {
    "operations": "+-",
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


settings.register_profile("popgpt", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines stall
settings.load_profile("popgpt")
os.environ["OMP_NUM_THREADS"] = "1"  # tiny matrices: more threads only wait for each other; children inherit it


@pytest.fixture(autouse=True)
def handlers_as_they_were() -> Iterator[None]:
    """Ray Tune leaves its own behind, which hear no Ctrl-C once it has ended."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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

"""Workers and nodes that are lost while a run trains: it goes on, and comes to what it would have come to."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from popgpt.cluster import session
from popgpt.config import Config, UserError
from popgpt.data.dataset import ensure_dataset
from popgpt.files import Folder
from popgpt.training import folder
from popgpt.training.loop import Row
from tests.conftest import tiny_config
from tests.moments import MOMENTS, RUN, Moment, finished, phase, rows
from tests.nodes import cluster, kill, wait_for, worker_pids
from tests.runs import losses, same_runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]
Make = Callable[..., Config]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head with room for two workers."""
    with cluster(2) as nodes, session.connected():
        yield nodes


def train(config: Config, should_stop: Callable[[], bool] = lambda: False) -> Row:
    from popgpt.cluster.group import train_on_workers

    ensure_dataset(config)
    return train_on_workers(config, {"CPU": 1}, lambda row: None, should_stop)


def disturbed(config: Config, disturb: Callable[[], None], should_stop: Callable[[], bool] = lambda: False) -> Row:
    """Train, while `disturb` is at work."""
    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    result = train(config, should_stop)
    thread.join(1)
    assert not thread.is_alive(), "the run ended before it was disturbed"
    return result


@pytest.fixture(scope="module")
def undisturbed(nodes: Any, tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Config:
    """A run of two workers that nothing disturbs."""
    config = tiny_config(out_dir=str(tmp_path_factory.mktemp("undisturbed")), data_dir=str(shared_data), **RUN)
    assert train(config)["world_size"] == 2
    return config


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_worker_that_is_killed_at_any_moment_changes_nothing(
    tiny: Make, undisturbed: Config, moment: Moment
) -> None:
    config = tiny(**RUN)
    phases = []

    def kill_one() -> None:
        wait_for(lambda: len(worker_pids()) == 2, "the workers", every=0.05)
        moment.wait(config, start_seconds=4)
        victim = random.Random(str(moment)).choice(worker_pids())
        kill(victim, signal.SIGSTOP)
        phases.append("finished" if finished(config) else phase(config))
        kill(victim)

    assert disturbed(config, kill_one)["status"] == "completed"
    print(f"killed a worker while {phases[0]}")
    assert phases != ["finished"]
    assert same_runs(config, undisturbed)
